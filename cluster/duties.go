package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
)

// registerLoop keeps this broker's entry in the metadata true: at the start, when its addresses changed, and after
// someone took it for dead. It registers once in every run, also when the entry is right: the metadata on disk may be
// old, and a proposal is answered when this broker's image includes it.
func (n *Node) registerLoop(ctx context.Context) {
	wait := 50 * time.Millisecond
	last := ""
	for {
		img := n.Image()
		if b := img.Brokers[n.self]; b == nil || !sameRegistration(b, &n.registration) || !n.registered.Load() {
			err := n.propose(ctx, 2*time.Second, meta.RegisterBroker{Broker: n.registration})
			switch {
			case err == nil:
				n.registered.Store(true)
				wait, last = 50*time.Millisecond, ""
			case ctx.Err() != nil:
				return
			default:
				if err.Error() != last {
					last = err.Error()
					level := n.log.Debug
					if errors.Is(err, meta.ErrDuplicateBroker) {
						level = n.log.Error
					}
					level("Registering this broker", "err", err)
				}
				n.setRefused(err)
				if !sleep(ctx, wait) {
					return
				}
				wait = min(2*wait, 2*time.Second)
				continue
			}
			n.setRefused(nil)
		} else {
			n.registered.Store(true)
			n.setRefused(nil)
		}
		changed := n.ctl.Changed()
		if n.Image() != img {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func sameRegistration(a, b *meta.Broker) bool {
	return a.ID == b.ID && a.Incarnation == b.Incarnation && a.Rack == b.Rack && a.Version == b.Version &&
		a.ClusterAddr == b.ClusterAddr && slices.Equal(a.Listeners, b.Listeners)
}

// dutiesLoop is what the controller's leader does: it fences the dead, takes the living back, and keeps the
// controller group's members to those alive.
func (n *Node) dutiesLoop(ctx context.Context) {
	deadSince := make(map[int32]time.Time)
	for sleep(ctx, n.timing.Duties) {
		if !n.ctl.IsLeader() {
			clear(deadSince)
			continue
		}
		img := n.Image()
		now := time.Now()
		for id, b := range img.Brokers {
			alive := n.aliveAs(id, b.Incarnation)
			if alive {
				delete(deadSince, id)
			} else if deadSince[id].IsZero() {
				deadSince[id] = now
			}
			var cmd meta.Command
			switch {
			case alive && b.Fenced:
				cmd = meta.UnfenceBroker{ID: id, Incarnation: b.Incarnation}
			case !alive && !b.Fenced && now.Sub(deadSince[id]) >= n.timing.FenceAfter:
				cmd = meta.FenceBroker{ID: id, Incarnation: b.Incarnation}
			default:
				continue
			}
			if err := n.propose(ctx, 2*time.Second, cmd); err != nil && ctx.Err() == nil {
				n.log.Debug("Fencing", "node", id, "err", err)
			} else if !alive {
				n.log.Warn("Broker fenced", "node", id)
			}
		}
		if err := n.reconcileController(ctx, img); err != nil && ctx.Err() == nil {
			n.log.Debug("Controller members", "err", err)
		}
	}
}

// aliveAs: the broker is alive, and on the disk that is registered.
func (n *Node) aliveAs(id int32, incarnation uint64) bool {
	if id == n.self {
		return incarnation == n.identity.Incarnation
	}
	if !n.alive.isAlive(id) {
		return false
	}
	m, ok := n.gossip.member(id)
	return !ok || m.Incarnation == incarnation
}

// propose with a time limit, for the loops.
func (n *Node) propose(ctx context.Context, limit time.Duration, c meta.Command) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := n.ctl.Propose(ctx, c)
	return err
}
