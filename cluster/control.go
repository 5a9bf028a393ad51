package cluster

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/controller"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/vfs"
)

func (n *Node) startController() (*controller.Controller, error) {
	return controller.Open(controller.Options{
		Dir: filepath.Join(n.opt.DataDir, controllerDir), Node: n.self, Incarnation: n.identity.member().Incarnation, Mux: n.mux,
		Timing: n.timing.Controller, Logger: n.log, Peers: func() []int32 {
			if !n.isStarted() {
				return nil
			}
			return n.alivePeers()
		},
	})
}

func (n *Node) isStarted() bool {
	select {
	case <-n.started:
		return true
	default:
		return false
	}
}

// Controller is the broker that leads the controller group, -1 when none is known.
func (n *Node) Controller() int32 {
	id, _ := n.controllerNode()
	return id
}

func (n *Node) controllerNode() (int32, bool) {
	if id, ok := n.ctl.Leader(); ok && !n.gone(id) {
		return id, true
	}
	return -1, false
}

// reconcileController is the controller's duty towards its own group.
func (n *Node) reconcileController(ctx context.Context, img *meta.Image) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	for {
		changed, err := n.ctl.Reconcile(ctx, n.aliveMembers())
		if !changed || err != nil {
			return err
		}
	}
}

func (n *Node) aliveMembers() []controller.Member {
	list := []controller.Member{n.founding.self}
	for id, m := range n.gossip.known() {
		if n.alive.isAlive(id) {
			list = append(list, controller.MemberOf(id, m.Incarnation, m.Generation))
		}
	}
	slices.SortFunc(list, func(a, b controller.Member) int { return cmp.Compare(a.Node, b.Node) })
	return list
}

// replaceController makes the lowest living voter of the controller group stand when the controller's broker has
// gone; should it lose, Raft's own timers (2 s) find another.
func (n *Node) replaceController(gone int32) {
	if id, ok := n.ctl.Leader(); !ok || id != gone {
		return
	}
	lowest := int32(-1)
	voters, living := 0, 0
	for _, m := range n.ctl.Members() {
		if !m.Voter {
			continue
		}
		voters++
		if n.alive.isAlive(m.Node) {
			living++
			if lowest < 0 || m.Node < lowest {
				lowest = m.Node
			}
		}
	}
	if lowest != n.self || living < voters/2+1 {
		return
	}
	if err := n.ctl.Campaign(); err != nil {
		n.log.Debug("Standing for controller", "err", err)
	}
}

// openPartition starts one replica.
func (n *Node) openPartition(r *replica, bootstrap []partition.Replica, cfg func() config.Topic) (*partition.Partition, error) {
	fsys, opened := n.opens.begin()
	defer opened()
	o := n.partitionOptions(r, fsys, cfg)
	o.Bootstrap = bootstrap
	return partition.Open(o)
}

func (n *Node) partitionOptions(r *replica, fsys vfs.FS, cfg func() config.Topic) partition.Options {
	c := n.Config()
	return partition.Options{
		Topic: r.topic, TopicID: r.key.topic, ID: r.key.part, Self: r.self, Dir: r.dir, FS: fsys,
		Sync: n.syncer, Votes: n.votes.Replica(r.self.ID), Config: cfg, DiskFull: n.disk.isFull, ClockTrusted: n.clock.trusted,
		DiskTight: n.disk.isTight,
		NewTransport: func(p *partition.Partition) (raft.Transport, error) {
			e, err := n.mux.Register(r.self.Node, r.self.ID, p)
			if err != nil {
				return nil, err
			}
			r.endpoint.Store(e)
			return e, nil
		},
		OnLeader: func(_ *partition.Partition, leading bool, epoch int32) { n.onLeader(r, leading, epoch) },
		ReplicaLag: func(x partition.Replica) (time.Duration, uint64, bool) {
			e := r.endpoint.Load()
			if e == nil {
				return 0, 0, false
			}
			match, last, ok := e.Progress(x.ID)
			if !ok || last.IsZero() {
				return 0, match, false
			}
			return time.Since(last), match, true
		},
		Timing: n.timing.raft(), Logger: n.log, Now: n.opt.Now,
		ReplicaLagMax: c.ReplicaLagTimeMax(), ProducerExpiry: c.ProducerIDExpiration(), BootID: n.opt.BootID,
	}
}

// progress of another replica of a group led here.
func (n *Node) progress(r *replica, of partition.Replica) (match uint64, ok bool) {
	e := r.endpoint.Load()
	if e == nil {
		return 0, false
	}
	match, _, ok = e.Progress(of.ID)
	return match, ok
}
