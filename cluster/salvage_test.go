package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/vfs"
)

// A damaged file of votes: the broker comes up, and each of its replicas is rebuilt under another id.
func TestDamagedVotesAreRebuilt(t *testing.T) {
	nodes, dirs := testCluster(t)
	topic := create(t, nodes[0], "orders", 4, 3)
	want := produce(t, nodes, topic, 0, 2)
	sameFrames(t, nodes, topic, 0)
	if err := nodes[1].Close(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	flipBit(t, filepath.Join(dirs[1], votesFile), 20, 1)
	restart(t, nodes, 1)
	until(t, "rebuilt", func() bool { return nodes[1].Status().Rebuilt == 4 })
	whole(t, nodes, topic)
	for p := range topic.Partitions {
		_, mp, _ := nodes[1].Image().Lookup(topic.ID, int32(p))
		if now := replicaOn(mp, 2); now == replicaOn(&topic.Partitions[p], 2) {
			t.Fatalf("partition %d: replica %v is still the one without votes", p, now)
		}
	}
	_, p := leaderOf(t, nodes, topic, 0)
	if got, err := consume(p); err != nil || !slices.Equal(got, want) {
		t.Fatalf("%d values, want %d (%v)", len(got), len(want), err)
	}
}

// A broker of its own whose votes are lost needs nobody's: its replicas have no other voter.
func TestDamagedVotesOfASingleBroker(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, 1, dir, 1)
	waitReady(t, n)
	topic := create(t, n, "one", 2, 1)
	want := produce(t, []*Node{n}, topic, 0, 2)
	if err := n.Close(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	flipBit(t, filepath.Join(dir, votesFile), 20, 1)
	n = testNode(t, 1, dir, 1)
	waitReady(t, n)
	_, p := leaderOf(t, []*Node{n}, topic, 0)
	if got, err := consume(p); err != nil || !slices.Equal(got, want) {
		t.Fatalf("%d values, want %d (%v)", len(got), len(want), err)
	}
	// The metadata of a single broker is nowhere else: it does not start without it, and says why.
	if err := n.Close(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	flipBit(t, filepath.Join(dir, controllerDir, "raft.db"), 20, 1)
	before, err := os.ReadFile(filepath.Join(dir, controllerDir, "raft.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Start(context.Background(), Options{NodeID: 1, DataDir: dir, ClusterListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", BootstrapExpect: 1})
	if err == nil || !strings.Contains(err.Error(), "No other broker") {
		t.Fatalf("started: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, controllerDir, "raft.db")); err != nil || !slices.Equal(before, after) {
		t.Fatalf("the only metadata was touched (%v)", err)
	}
}

// A damaged log of the controller's member: the broker comes back as another member, and its replicas stay as they are.
func TestDamagedControllerMemberComesBack(t *testing.T) {
	nodes, dirs := testCluster(t)
	topic := create(t, nodes[0], "orders", 3, 3)
	i := int(nodes[0].Controller()) - 1 // the leader itself
	if err := nodes[i].Close(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	flipBit(t, filepath.Join(dirs[i], controllerDir, "raft.db"), 20, 1)
	restart(t, nodes, i)
	n := nodes[i]
	if n.identity.Generation != 1 {
		t.Fatalf("generation %d", n.identity.Generation)
	}
	until(t, "the new member votes, the old one is gone", func() bool {
		now := nodes[(i+1)%3].ctl.Members()
		votes := 0
		for _, m := range now {
			if m.Voter {
				votes++
			}
			if m.Node == n.self && m.Member != n.identity.member() {
				return false
			}
		}
		return len(now) == 3 && votes == 3
	})
	whole(t, nodes, topic)
	if _, mp, _ := n.Image().Lookup(topic.ID, 0); !slices.Equal(mp.Replicas, topic.Partitions[0].Replicas) {
		t.Fatalf("replicas %v were %v", mp.Replicas, topic.Partitions[0].Replicas)
	}
	if errs := n.DeleteTopics(ctxFor(t), []meta.TopicID{topic.ID}); errs[0] != nil {
		t.Fatal(errs[0])
	}
}

// Each bit of the identity file: the broker starts as what it was, or not at all.
func TestFlippedBitsOfTheIdentity(t *testing.T) {
	dir := t.TempDir()
	id, err := loadIdentity(vfs.OS(), dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	id.ClusterID = "MkU3OEVBNTcwNTJENDM2Qg"
	if err := id.save(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, metaFile)
	buf, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range uint(8 * len(buf)) {
		flipBit(t, name, int64(bit/8), bit)
		got, err := loadIdentity(vfs.OS(), dir, 3)
		if err == nil && got != id || err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrWrongNode) {
			t.Fatalf("bit %d: %+v, %v; it is %+v", bit, got, err, id)
		}
		flipBit(t, name, int64(bit/8), bit)
	}
}
