package cluster

import (
	"math/rand/v2"
	"testing"

	"github.com/balsa-broker/balsa/cluster/meta"
)

func TestLeaderTableHighestEpochWins(t *testing.T) {
	tab := newLeaderTable()
	k := partitionKey{meta.TopicID{1}, 3}
	steps := []struct {
		l    leadership
		kept bool
	}{
		{leadership{key: k, node: 1, epoch: 5, seq: 1}, true},
		{leadership{key: k, node: 2, epoch: 4, seq: 9}, false},
		{leadership{key: k, node: 1, epoch: 5, seq: 2, inSync: []int32{1, 2}}, true},
		{leadership{key: k, node: 1, epoch: 5, seq: 2}, false},
		{leadership{key: k, node: 1, epoch: 5, resigned: true}, true},
		{leadership{key: k, node: 1, epoch: 5, seq: 7}, false}, // late: it resigned
		{leadership{key: k, node: 3, epoch: 6, seq: 1}, true},
		{leadership{key: k, node: 1, epoch: 5, resigned: true}, false},
	}
	for i, s := range steps {
		l := s.l
		if got := tab.put(&l); got != s.kept {
			t.Fatalf("step %d: kept %v", i, got)
		}
	}
	if l, ok := tab.get(k); !ok || l.node != 3 {
		t.Fatalf("%+v", l)
	}
	tab.prune(func(partitionKey) bool { return false })
	if _, ok := tab.get(k); ok {
		t.Fatal("pruned entry is there")
	}
}

// Whatever the order in which announcements arrive, two tables end equal, and so do their digests.
func TestLeaderTableConverges(t *testing.T) {
	var all []*leadership
	for i := range 300 {
		all = append(all, &leadership{
			key: partitionKey{meta.TopicID{byte(i % 7)}, int32(i % 5)}, node: int32(i % 3), epoch: int32(i%40)*3 + int32(i%3), seq: uint32(i),
			resigned: i%11 == 0, inSync: []int32{1, int32(i)},
		})
	}
	a, b := newLeaderTable(), newLeaderTable()
	for _, l := range all {
		a.put(l)
	}
	var wire []byte
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, l := range all {
		wire = l.encode(wire)
	}
	ls, err := decodeLeaderships(wire)
	if err != nil || len(ls) != len(all) {
		t.Fatalf("%d of %d decoded: %v", len(ls), len(all), err)
	}
	for _, l := range ls {
		b.put(l)
	}
	for node := range int32(3) {
		c1, s1 := a.digest(node)
		c2, s2 := b.digest(node)
		if c1 != c2 || s1 != s2 {
			t.Fatalf("node %d: digests differ: %d %x, %d %x", node, c1, s1, c2, s2)
		}
	}
	for cut := range len(wire) {
		_, _ = decodeLeaderships(wire[:cut]) // no panic
	}
}
