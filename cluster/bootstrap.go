package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/cluster/controller"
)

// Founding a cluster (safety rule 3): N brokers with empty disks see each other by gossip, all of them say so and name
// the same N, and each then writes the same first configuration. A broker whose disk knows a cluster, or that sees a
// peer that does, never founds one; nor does one started with --join and no --bootstrap-expect.

// foundingView is what a broker answers when asked about a new cluster.
type foundingView struct {
	HasState  bool                `json:"has_state"`
	ClusterID string              `json:"cluster_id,omitempty"` // known
	Proposal  string              `json:"proposal"`             // of a new cluster's id: the lowest node's counts
	Expect    int                 `json:"expect"`
	Founders  []controller.Member `json:"founders"` // whom it would found with, sorted; or did, when it has state
}

type founding struct {
	self     controller.Member
	expect   int
	proposal string
}

func newFounding(self controller.Member, expect int) *founding {
	return &founding{self: self, expect: expect, proposal: controller.NewClusterID()}
}

// founders are the members of a new cluster as gossip shows them: the N lowest ids of those that expect N and have
// nothing. ok false: too few, or a cluster exists.
func (f *founding) founders(known map[int32]member) (list []controller.Member, ok bool) {
	list = []controller.Member{f.self}
	for id, m := range known {
		if !m.Alive {
			continue
		}
		if m.ClusterID != "" {
			return nil, false
		}
		if m.Expect == f.expect {
			list = append(list, controller.Member{Node: id, Incarnation: m.Incarnation})
		}
	}
	if len(list) < f.expect {
		return nil, false
	}
	slices.SortFunc(list, func(a, b controller.Member) int { return cmp.Compare(a.Node, b.Node) })
	list = list[:f.expect]
	return list, slices.Contains(list, f.self)
}

// agree says whether the others' views allow founding with list, and under which id.
func (f *founding) agree(list []controller.Member, views map[int32]foundingView) (clusterID string, ok bool) {
	for _, m := range list {
		v := foundingView{Proposal: f.proposal, Expect: f.expect, Founders: list}
		if m != f.self {
			if v, ok = views[m.Node]; !ok {
				return "", false
			}
		}
		// One that has founded already with the same list waits for us; its configuration names our disk.
		if !slices.Equal(v.Founders, list) {
			return "", false
		}
		if v.ClusterID != "" {
			clusterID = v.ClusterID
		}
	}
	if clusterID == "" {
		clusterID = f.proposal
		if list[0] != f.self {
			clusterID = views[list[0].Node].Proposal
		}
	}
	return clusterID, true
}

// foundingView answers a peer.
func (n *Node) foundingView() foundingView {
	v := foundingView{HasState: n.ctl.HasState(), ClusterID: n.clusterID(), Proposal: n.founding.proposal, Expect: n.founding.expect}
	if v.HasState {
		for _, m := range n.ctl.Members() {
			v.Founders = append(v.Founders, m.Member)
		}
		slices.SortFunc(v.Founders, func(a, b controller.Member) int { return cmp.Compare(a.Node, b.Node) })
		return v
	}
	if n.founding.expect > 0 {
		v.Founders, _ = n.founding.founders(n.gossip.known())
	}
	return v
}

func (n *Node) answerFounding() ([]byte, error) { return json.Marshal(n.foundingView()) }

// bootstrapLoop founds the cluster if that is this broker's part, and ends when there is one.
func (n *Node) bootstrapLoop(ctx context.Context) {
	if n.founding.expect == 0 {
		return
	}
	for !n.ctl.HasState() && n.clusterID() == "" {
		if list, ok := n.founding.founders(n.gossip.known()); ok {
			views := n.askFounders(ctx, list)
			if id, ok := n.founding.agree(list, views); ok && n.clusterID() == "" && !n.ctl.HasState() {
				n.log.Info("Founding a cluster", "cluster", id, "brokers", nodesOf(list))
				if len(list) > 1 && list[0] == n.founding.self {
					n.wg.Go(func() { n.firstController(ctx, list) })
				}
				if err := n.ctl.Bootstrap(ctx, list, id); err != nil && ctx.Err() == nil {
					n.log.Error("Founding a cluster", "err", err)
				}
			}
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// firstController: the lowest of the founders stands as soon as all have the first configuration, instead of waiting
// for Raft's timers. Should one fall out meanwhile, these find a controller.
func (n *Node) firstController(ctx context.Context, list []controller.Member) {
	for range 20 {
		ready := n.ctl.HasState()
		views := n.askFounders(ctx, list)
		for _, m := range list {
			if m != n.founding.self && !views[m.Node].HasState {
				ready = false
			}
		}
		if n.clusterID() != "" {
			return
		}
		if ready {
			if err := n.ctl.Campaign(); err != nil {
				n.log.Debug("Standing for controller", "err", err)
			}
			return
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return
		}
	}
}

func nodesOf(list []controller.Member) []int32 {
	out := make([]int32, len(list))
	for i, m := range list {
		out[i] = m.Node
	}
	return out
}

func (n *Node) askFounders(ctx context.Context, list []controller.Member) map[int32]foundingView {
	views := make(map[int32]foundingView)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, m := range list {
		if m == n.founding.self {
			continue
		}
		b, err := n.call(ctx, m.Node, kindBootstrap, nil)
		if err != nil {
			n.log.Debug("Asking about a new cluster", "node", m.Node, "err", err)
			continue
		}
		var v foundingView
		if json.Unmarshal(b, &v) == nil {
			views[m.Node] = v
		}
	}
	return views
}

// sleep waits; false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
