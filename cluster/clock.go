package cluster

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"
)

// clockGuard compares this broker's wall clock with its peers' (safety rule 19). What deletes by age must not trust a clock
// that has jumped: it asks trusted with the very time that it is about to use.
//
// A peer's clock is known from a ping that carries it, with half the round trip as the error, and goes on by this broker's
// monotonic clock: a jump of the own wall clock shows at once, one of a peer's at the next ping.
type clockGuard struct {
	limit func() time.Duration // how far from the others a clock may be; 0: anything goes
	alive func() []int32       // the peers held for alive

	mu        sync.Mutex
	peers     map[int32]clockSample
	suspended bool
}

type clockSample struct {
	wall time.Time     // of the peer
	at   time.Time     // here, for its monotonic reading
	err  time.Duration // of wall
}

// offset is one peer's clock minus this one's, at least (no more than the error of its measurement is doubted).
func (s clockSample) offset(now time.Time) (offset, sure time.Duration) {
	offset = s.wall.Add(time.Since(s.at)).Sub(now)
	return offset, max(offset.Abs()-s.err, 0)
}

// heard keeps what a peer answered to a ping that was sent at (monotonic) sent.
func (g *clockGuard) heard(node int32, answer []byte, sent time.Time) error {
	if len(answer) != 8 {
		return errMalformed
	}
	at := time.Now()
	half := at.Sub(sent) / 2
	wall := time.UnixMicro(int64(binary.BigEndian.Uint64(answer))).Add(half)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers[node] = clockSample{wall: wall, at: at, err: half}
	return nil
}

// trusted is nil when a majority of the living brokers, this one among them, has a clock within the limit of now, which
// is this broker's. A peer that was not asked yet counts as one that differs.
func (g *clockGuard) trusted(now time.Time) error {
	limit := g.limit()
	if limit <= 0 {
		return nil
	}
	peers := g.alive()
	agree, asked := 1, 0
	g.mu.Lock()
	for _, node := range peers {
		s, ok := g.peers[node]
		if !ok {
			continue
		}
		asked++
		if _, sure := s.offset(now); sure <= limit {
			agree++
		}
	}
	g.mu.Unlock()
	if n := len(peers) + 1; 2*agree <= n {
		return fmt.Errorf("the clock is within %v of %d of %d other living brokers (%d were asked)", limit, agree-1, n-1, asked)
	}
	return nil
}

// offset is the median of the living peers' clocks minus this one's, 0 without peers.
func (g *clockGuard) offset(now time.Time) time.Duration {
	peers := g.alive()
	all := []time.Duration{0}
	g.mu.Lock()
	for _, node := range peers {
		if s, ok := g.peers[node]; ok {
			o, _ := s.offset(now)
			all = append(all, o)
		}
	}
	g.mu.Unlock()
	slices.Sort(all)
	return all[len(all)/2]
}

// askedAll says whether the clock of every living peer is known.
func (g *clockGuard) askedAll() bool {
	peers := g.alive()
	g.mu.Lock()
	defer g.mu.Unlock()
	return !slices.ContainsFunc(peers, func(node int32) bool { return g.peers[node].at.IsZero() })
}

// changed says whether trust was lost or came back since the last call.
func (g *clockGuard) changed(err error) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.suspended
	g.suspended = err != nil
	return was != g.suspended
}

// answerClock is a ping's answer: this broker's wall clock, microseconds since 1970.
func (n *Node) answerClock() ([]byte, error) {
	return binary.BigEndian.AppendUint64(nil, uint64(n.opt.Now().UnixMicro())), nil
}

// clockLoop measures the peers' clocks, and says when this one is not to be trusted.
func (n *Node) clockLoop(ctx context.Context) {
	for {
		n.measureClocks(ctx)
		wait, err := n.timing.Clock, n.clock.trusted(n.opt.Now())
		switch {
		case ctx.Err() != nil:
			return
		case !n.clock.askedAll():
			wait = min(wait, time.Second)
		case n.clock.changed(err):
			if err != nil {
				n.log.Error("Retention by time is suspended: this broker's clock is far from the others'",
					"offset", n.clock.offset(n.opt.Now()), "err", err)
			} else {
				n.log.Info("This broker's clock agrees with the others': retention by time goes on")
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (n *Node) measureClocks(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.timing.Silence)
	defer cancel()
	var wg sync.WaitGroup
	for _, node := range n.alivePeers() {
		wg.Go(func() {
			sent := time.Now()
			if b, err := n.call(ctx, node, kindPing, nil); err == nil {
				if err := n.clock.heard(node, b, sent); err != nil {
					n.log.Warn("Asking for a clock", "node", node, "err", err)
				}
			}
		})
	}
	wg.Wait()
}

// Clock is the median of the living brokers' wall clocks minus this one's, and why nothing is deleted by age (nil: it is).
func (n *Node) Clock() (offset time.Duration, distrust error) {
	now := n.opt.Now()
	return n.clock.offset(now), n.clock.trusted(now)
}
