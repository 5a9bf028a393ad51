package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// Rule 14: produce is refused below the mark, and taken again only when there is clearly more.
func TestRule14DiskGuard(t *testing.T) {
	fs := crashfs.New(1)
	d := &diskGuard{fs: fs, dir: "/", minFree: func(int64) int64 { return 1000 }}
	for i, c := range []struct {
		space int64
		full  bool
	}{{1000, false}, {999, true}, {1000, true}, {1249, true}, {1250, false}, {1000, false}, {0, true}, {5000, false}} {
		fs.SetSpace(c.space)
		if _, _, err := d.check(); err != nil || d.isFull() != c.full {
			t.Errorf("%d: %d bytes free, full: %v, want %v (%v)", i, c.space, d.isFull(), c.full, err)
		}
	}
	// Near the mark an append does not wait for the next look.
	fs.SetSpace(0)
	time.Sleep(2 * diskCheckTight)
	if !d.isFull() || !d.isTight() {
		t.Error("the disk filled up between two looks, and produce is taken")
	}
}

// Rule 18: the defaults of the one table fit one another.
func TestRule18TimingsFit(t *testing.T) {
	d := Timing{}.withDefaults()
	for what, ok := range map[string]bool{
		"the lease is at most half the heartbeat timeout":         2*d.Lease <= d.Heartbeat && d.Heartbeat <= d.Election,
		"some pings fit into the silence":                         4*d.Ping <= d.Silence,
		"a broker is not fenced before its silence counts":        d.Silence <= d.FenceAfter,
		"a probe's answer is awaited for less than the interval":  d.GossipProbeTimeout < d.GossipProbeInterval,
		"a round ends before its candidates are given up":         d.RoundTimeout < d.CandidateGrace,
		"the best has stood before the second best does":          d.RoundRetry < d.DeferFor && d.DeferFor < d.CandidateGrace,
		"a stuck candidate is found before Raft's own timer ends": d.CandidateGrace < d.CandidateStuck && 2*d.CandidateStuck < d.Election,
		"the preferred leader stands first after a cold start":    d.ColdPreferred < d.ColdOther,
	} {
		if !ok {
			t.Errorf("not so: %s: %+v", what, d)
		}
	}
}

// openedHost is a replicaHost that notes what is opened.
type openedHost struct {
	mu     sync.Mutex
	opened []uint64
}

func (h *openedHost) openPartition(r *replica, _ []partition.Replica, _ func() config.Topic) (*partition.Partition, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opened = append(h.opened, r.self.ID)
	return nil, errors.New("a test")
}
func (h *openedHost) deleteVotes(uint64) error             { return nil }
func (h *openedHost) topicConfig(*meta.Topic) config.Topic { return config.Topic{} }
func (h *openedHost) replicaOpened(*replica)               {}
func (h *openedHost) replicaGone(*replica)                 {}
func (h *openedHost) replicaDamaged()                      {}
func (h *openedHost) reconcileSoon()                       {}

// Rule 1: a replica that was given to another disk of this broker is not made on this one.
func TestRule1ReplicasOfAnotherDisk(t *testing.T) {
	h := &openedHost{}
	rs, err := newReplicas(h, crashfs.New(1), "/topics", 1, 7, testLogger())
	if err != nil {
		t.Fatal(err)
	}
	img := meta.NewImage()
	img.Version, img.ClusterID, img.NextReplicaID = 1, "c", 100
	img.Topics["t"] = &meta.Topic{ID: meta.TopicID{1}, Name: "t", Partitions: []meta.Partition{
		{ID: 0, Created: true, Initial: []meta.Replica{{Node: 1, ID: 11, Incarnation: 6}}, Replicas: []meta.Replica{{Node: 1, ID: 11, Incarnation: 6}}},
		{ID: 1, Created: true, Initial: []meta.Replica{{Node: 1, ID: 12, Incarnation: 7}}, Replicas: []meta.Replica{{Node: 1, ID: 12, Incarnation: 7}}},
	}}
	rs.reconcile(img)
	rs.wg.Wait()
	if !slices.Equal(h.opened, []uint64{12}) {
		t.Errorf("opened %v, want that of this disk, 12", h.opened)
	}
}

// Rule 3: metadata of another cluster is not followed, and the disk keeps its cluster's ID.
func TestRule3MetadataOfAnotherCluster(t *testing.T) {
	n := &Node{log: testLogger()}
	ours := "ours"
	n.cluster.Store(&ours)
	img := meta.NewImage()
	img.ClusterID = "theirs"
	if n.adopt(img) || !errors.Is(n.imageErr, ErrWrongCluster) || n.clusterID() != ours {
		t.Errorf("adopted: %v, %q", n.imageErr, n.clusterID())
	}
	img.ClusterID = ours
	if !n.adopt(img) {
		t.Error("our own metadata is not followed")
	}
}

// Rule 21: a leader of a topic that was deleted is none of a topic of the same name.
func TestRule21LeadersAreOfATopicID(t *testing.T) {
	tab := newLeaderTable()
	tab.put(&leadership{key: partitionKey{meta.TopicID{1}, 0}, node: 1, epoch: 5})
	for i := range 1000 { // of each shard
		if l, ok := tab.get(partitionKey{meta.TopicID{2, byte(i), byte(i >> 8)}, 0}); ok {
			t.Fatalf("another topic is led by %d", l.node)
		}
	}
}

// pulledFrom answers the calls of a pull from another announcer.
type pulledFrom struct{ *announcer }

func (h pulledFrom) call(_ context.Context, _ int32, _ kind, payload []byte) ([]byte, error) {
	return h.answerPull(payload)
}
func (h pulledFrom) alivePeers() []int32  { return nil }
func (h pulledFrom) gone(int32) bool      { return false }
func (h pulledFrom) resigned(*leadership) {}

// Rule 21: a broker that joins learns from a peer who leads what.
func TestRule21LeadersArePulled(t *testing.T) {
	old := newAnnouncer(t.Context(), nil, newLeaderTable(), 1, Timing{}, testLogger())
	for i := range 3000 {
		old.table.put(&leadership{key: partitionKey{meta.TopicID{byte(i), byte(i >> 8)}, 0}, node: int32(i % 3), epoch: 1, inSync: make([]int32, 50)})
	}
	fresh := newAnnouncer(t.Context(), pulledFrom{old}, newLeaderTable(), 2, Timing{}, testLogger())
	fresh.pull(1)
	fresh.wg.Wait()
	for node := range int32(3) {
		n1, d1 := old.table.digest(node)
		n2, d2 := fresh.table.digest(node)
		if n1 != n2 || d1 != d2 {
			t.Errorf("node %d: %d leaderships, pulled %d", node, n1, n2)
		}
	}
}
