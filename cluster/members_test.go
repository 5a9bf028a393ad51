package cluster

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/controller"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/partition"
)

func servers(voters []partition.Replica, learners ...partition.Replica) (out []raft.Server) {
	for _, r := range voters {
		out = append(out, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(raftAddress(r))})
	}
	for _, r := range learners {
		out = append(out, raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(raftAddress(r))})
	}
	return out
}

func metaReplicas(rs ...partition.Replica) (out []meta.Replica) {
	for _, r := range rs {
		out = append(out, meta.Replica{Node: r.Node, ID: r.ID, Incarnation: 1})
	}
	return out
}

// A wiped broker: its old replica goes, the new one comes as a learner, catches up, votes; then the controller hears.
func TestNextStepReplacesALostReplica(t *testing.T) {
	fresh := partition.Replica{Node: 3, ID: 23}
	p := &meta.Partition{Replicas: metaReplicas(r1, r2, fresh), Removing: metaReplicas(r3)}
	for i, c := range []struct {
		now  []raft.Server
		do   memberAction
		whom partition.Replica
	}{
		{servers([]partition.Replica{r1, r2, r3}), memberRemove, r3},
		{servers([]partition.Replica{r1, r2}), memberAddLearner, fresh},
		{servers([]partition.Replica{r1, r2}, fresh), memberPromote, fresh},
		{servers([]partition.Replica{r1, r2, fresh}), memberReport, partition.Replica{}},
	} {
		if s := nextStep(r1, p, c.now); s.do != c.do || s.replica != c.whom {
			t.Fatalf("step %d: %+v", i, s)
		}
	}
	p.Removing = nil
	if s := nextStep(r1, p, servers([]partition.Replica{r1, r2, fresh})); s.do != memberNothing {
		t.Fatalf("%+v", s)
	}
}

// A replica that moves to another broker: the new one first, then the leader hands over and the old one goes.
func TestNextStepMovesTheLeader(t *testing.T) {
	r4 := partition.Replica{Node: 4, ID: 14}
	p := &meta.Partition{Replicas: metaReplicas(r2, r3, r4), Removing: metaReplicas(r1)}
	all := servers([]partition.Replica{r1, r2, r3, r4})
	if s := nextStep(r1, p, servers([]partition.Replica{r1, r2, r3})); s.do != memberAddLearner || s.replica != r4 {
		t.Fatalf("%+v", s)
	}
	if s := nextStep(r1, p, all); s.do != memberTransfer || s.replica != r2 {
		t.Fatalf("%+v", s)
	}
	if s := nextStep(r2, p, all); s.do != memberRemove || s.replica != r1 {
		t.Fatalf("%+v", s)
	}
}

func TestFoundersAgreeOnTheSameList(t *testing.T) {
	m := func(n int32) controller.Member { return controller.Member{Node: n, Incarnation: uint64(n) * 10} }
	f := newFounding(m(2), 3)
	seen := map[int32]member{
		1: {Node: 1, Incarnation: 10, Expect: 3, Alive: true}, 3: {Node: 3, Incarnation: 30, Expect: 3, Alive: true},
	}
	list, ok := f.founders(seen)
	if !ok || len(list) != 3 || list[0] != m(1) {
		t.Fatal(list, ok)
	}
	views := map[int32]foundingView{1: {Proposal: "one", Founders: list}, 3: {Proposal: "three", Founders: list}}
	if id, ok := f.agree(list, views); !ok || id != "one" {
		t.Fatal(id, ok)
	}
	views[3] = foundingView{Proposal: "three", Founders: list[:2]}
	if _, ok := f.agree(list, views); ok {
		t.Fatal("founded although one sees another list")
	}
	delete(views, 3)
	if _, ok := f.agree(list, views); ok {
		t.Fatal("founded although one did not answer")
	}
	seen[3] = member{Node: 3, Incarnation: 30, Expect: 3, Alive: true, ClusterID: "x"}
	if _, ok := f.founders(seen); ok {
		t.Fatal("founded although a peer knows a cluster")
	}
	delete(seen, 3)
	seen[4] = member{Node: 4, Incarnation: 40, Expect: 0, Alive: true}
	if _, ok := f.founders(seen); ok {
		t.Fatal("founded with one that joins")
	}
}
