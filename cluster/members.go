package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/partition"
)

// memberStep is the next change that brings a group's Raft configuration nearer to the metadata.
type memberStep struct {
	do      memberAction
	replica partition.Replica
	removed []uint64
}

type memberAction uint8

const (
	memberNothing memberAction = iota
	memberAddLearner
	memberPromote  // once it has caught up
	memberTransfer // this leader is to go: hand over to replica
	memberRemove
	memberReport // removed replicas are out of the configuration: tell the controller
)

// nextStep decides. One step at a time, and in this order: the dead replica of a disk goes before its successor comes
// (safety rule 1), learners are added, promoted when they have caught up, and only then is a replica taken out that
// still lives.
func nextStep(self partition.Replica, p *meta.Partition, servers []raft.Server) memberStep {
	in := make(map[partition.Replica]raft.ServerSuffrage, len(servers))
	for _, s := range servers {
		in[parseReplica(string(s.ID))] = s.Suffrage
	}
	wanted := make(map[partition.Replica]bool, len(p.Replicas))
	nodes := make(map[int32]partition.Replica)
	for _, r := range p.Replicas {
		w := partition.Replica{Node: r.Node, ID: r.ID}
		wanted[w] = true
		nodes[r.Node] = w
	}
	var leaving []partition.Replica
	for _, s := range servers {
		r := parseReplica(string(s.ID))
		if wanted[r] {
			continue
		}
		leaving = append(leaving, r)
		if w, ok := nodes[r.Node]; ok && w != r && r != self {
			return memberStep{do: memberRemove, replica: r}
		}
	}
	for _, r := range p.Replicas {
		w := partition.Replica{Node: r.Node, ID: r.ID}
		if _, ok := in[w]; !ok {
			return memberStep{do: memberAddLearner, replica: w}
		}
	}
	for _, r := range p.Replicas {
		w := partition.Replica{Node: r.Node, ID: r.ID}
		if in[w] != raft.Voter {
			return memberStep{do: memberPromote, replica: w}
		}
	}
	for _, r := range leaving {
		if r != self {
			return memberStep{do: memberRemove, replica: r}
		}
	}
	if len(leaving) > 0 { // this replica itself
		for _, r := range p.Replicas {
			if w := (partition.Replica{Node: r.Node, ID: r.ID}); w != self {
				return memberStep{do: memberTransfer, replica: w}
			}
		}
		return memberStep{}
	}
	var gone []uint64
	for _, r := range p.Removing {
		if _, ok := in[partition.Replica{Node: r.Node, ID: r.ID}]; !ok {
			gone = append(gone, r.ID)
		}
	}
	if len(gone) > 0 {
		return memberStep{do: memberReport, removed: gone}
	}
	return memberStep{}
}

const (
	parallelMembers = 8
	memberTimeout   = 10 * time.Second
)

// membersLoop drives the groups led here towards the metadata. Every step is repeated until it took, so a crash at any
// point only means that the next leader goes on.
func (n *Node) membersLoop(ctx context.Context) {
	for sleep(ctx, n.timing.Members) {
		img := n.Image()
		var wg sync.WaitGroup
		slots := make(chan struct{}, parallelMembers)
		for _, r := range n.replicas.open() {
			p := r.partition()
			if p == nil {
				continue
			}
			if _, leading := p.Leading(); !leading {
				continue
			}
			_, mp, ok := img.Lookup(r.key.topic, r.key.part)
			if !ok {
				continue
			}
			if mp.Created && len(mp.Removing) == 0 {
				continue // as it was made: nothing ever changed
			}
			f := p.Raft().GetConfiguration()
			if f.Error() != nil {
				continue
			}
			step := nextStep(r.self, mp, f.Configuration().Servers)
			if step.do == memberNothing {
				continue
			}
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := n.takeStep(ctx, r, p, step, f.Index()); err != nil && ctx.Err() == nil {
					n.log.Debug("Changing a group's members", "topic", r.topic, "partition", r.key.part, "err", err)
				}
			})
		}
		wg.Wait()
	}
}

var errBehind = errors.New("cluster: the learner has not caught up")

// catchUpLag is how many entries a learner may lack when it becomes a voter: it votes and counts at once.
const catchUpLag = 64

func (n *Node) takeStep(ctx context.Context, r *replica, p *partition.Partition, s memberStep, index uint64) error {
	ra := p.Raft()
	id, addr := raft.ServerID(raftAddress(s.replica)), raft.ServerAddress(raftAddress(s.replica))
	log := n.log.With("topic", r.topic, "partition", r.key.part, "replica", raftAddress(s.replica))
	switch s.do {
	case memberAddLearner:
		log.Info("Adding a replica")
		return ra.AddNonvoter(id, addr, index, memberTimeout).Error()
	case memberPromote:
		match, ok := n.progress(r, s.replica)
		if !ok || match+catchUpLag < ra.LastIndex() {
			return errBehind
		}
		log.Info("Replica has caught up")
		return ra.AddVoter(id, addr, index, memberTimeout).Error()
	case memberTransfer:
		ctx, cancel := context.WithTimeout(ctx, memberTimeout)
		defer cancel()
		return p.TransferLeadership(ctx, s.replica)
	case memberRemove:
		log.Info("Removing a replica")
		return ra.RemoveServer(id, index, memberTimeout).Error()
	case memberReport:
		return n.propose(ctx, memberTimeout, meta.ReplicasRemoved{Topic: r.key.topic, Partition: r.key.part, IDs: s.removed})
	}
	return nil
}

// rebalanceLoop hands leadership back to the preferred replicas, some at a time (auto.leader.rebalance.enable): after
// a restart a broker would otherwise lead nothing for ever.
func (n *Node) rebalanceLoop(ctx context.Context) {
	for sleep(ctx, n.timing.Rebalance) {
		if !n.Config().AutoLeaderRebalance() {
			continue
		}
		n.rebalance(ctx, rebalanceStep)
	}
}

const rebalanceStep = 1000

// rebalance offers up to limit leaderships to their preferred replicas, one after another, and returns how many moved.
func (n *Node) rebalance(ctx context.Context, limit int) (moved int) {
	for _, r := range n.replicas.open() {
		if moved >= limit || ctx.Err() != nil {
			return moved
		}
		p, order := r.partition(), r.order.Load()
		if p == nil || order == nil || len(*order) == 0 {
			continue
		}
		to := (*order)[0]
		if _, leading := p.Leading(); !leading || to == r.self || !n.alive.isAlive(to.Node) {
			continue
		}
		if s := p.Status(); !slices.Contains(s.InSync, to) || !slices.Contains(s.Voters, to) {
			continue
		}
		tctx, cancel := context.WithTimeout(ctx, memberTimeout)
		err := p.TransferLeadership(tctx, to)
		cancel()
		if err != nil {
			n.log.Debug("Handing leadership back", "topic", r.topic, "partition", r.key.part, "to", to.Node, "err", err)
			if !sleep(ctx, 50*time.Millisecond) {
				return moved
			}
			continue
		}
		moved++
	}
	return moved
}
