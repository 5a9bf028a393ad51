package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol/record"
)

// leaderOf waits until one of the nodes serves the partition.
func leaderOf(t *testing.T, nodes []*Node, topic *meta.Topic, part int32) (n *Node, p *partition.Partition) {
	t.Helper()
	until(t, fmt.Sprintf("partition %d is led", part), func() bool {
		for _, n = range nodes {
			if q, ok := n.Partition(topic.ID, part); ok {
				if _, ok := q.Leading(); ok {
					p = q
					return true
				}
			}
		}
		return false
	})
	return n, p
}

// produce appends batches of one record each, again and again where the answer was an error, and returns their values.
func produce(t *testing.T, nodes []*Node, topic *meta.Topic, part int32, count int) []string {
	t.Helper()
	var out []string
	for i := range count {
		v := fmt.Sprintf("%d/%d/%s", part, i, strings.Repeat("v", 250_000))
		produceOne(t, nodes, topic, part, v)
		out = append(out, v)
	}
	return out
}

func produceOne(t *testing.T, nodes []*Node, topic *meta.Topic, part int32, value string) {
	t.Helper()
	until(t, "produced", func() bool {
		b := record.Builder{}
		b.Add(1000, nil, []byte(value))
		_, p := leaderOf(t, nodes, topic, part)
		return p.Append(b.Build(), -1, 10*time.Second).Result().Err == nil
	})
}

// consume reads a partition from its start to the high watermark as a Fetch does, and checks what a client would.
func consume(p *partition.Partition) (values []string, err error) {
	offset := p.LogStart()
	for offset < p.HighWatermark() {
		res, err := p.Read(partition.ReadRequest{Offset: offset, CurrentEpoch: -1, LastFetchedEpoch: -1, MaxBytes: 1 << 20, MinOne: true})
		if err != nil {
			return values, err
		}
		for _, r := range res.Ranges {
			buf := make([]byte, r.Len)
			if _, err := r.File.ReadAt(buf, r.Pos); err != nil {
				res.Release()
				return values, err
			}
			for len(buf) > 0 {
				b := record.Batch(buf)
				b = b[:b.Size()]
				if b.BaseOffset() != offset || !b.CRCValid() {
					panic(fmt.Sprintf("a consumer was given offset %d where %d is next, CRC %v", b.BaseOffset(), offset, b.CRCValid()))
				}
				if err := record.Scan(b, record.Limits{}, func(r *record.Record) bool {
					values = append(values, string(r.Value))
					return true
				}); err != nil {
					panic(err)
				}
				offset = b.LastOffset() + 1
				buf = buf[len(b):]
			}
		}
		res.Release()
	}
	return values, nil
}

// whole waits until every replica of a topic votes on the nodes, nothing is being removed, none failed, and no folder is
// put aside.
func whole(t *testing.T, nodes []*Node, topic *meta.Topic) {
	t.Helper()
	until(t, "all replicas are whole", func() bool {
		for _, n := range nodes {
			now := n.Image().TopicsByID[topic.ID]
			if now == nil || len(n.Status().Failed) > 0 {
				return false
			}
			n.replicas.mu.RLock()
			aside := len(n.replicas.aside)
			n.replicas.mu.RUnlock()
			if aside > 0 {
				return false
			}
			for i := range now.Partitions {
				mp := &now.Partitions[i]
				p, ok := n.Partition(topic.ID, mp.ID)
				if !ok || len(mp.Removing) > 0 || p.Err() != nil || !slices.Contains(p.Status().Voters, replicaOn(mp, n.self)) || len(p.Status().Voters) != len(mp.Replicas) {
					return false
				}
			}
		}
		return true
	})
}

func replicaOn(mp *meta.Partition, node int32) partition.Replica {
	r, _ := mp.OnNode(node)
	return partition.Replica{Node: r.Node, ID: r.ID}
}

// sameFrames compares what the replicas of a partition hold, entry by entry.
func sameFrames(t *testing.T, nodes []*Node, topic *meta.Topic, part int32) {
	t.Helper()
	for _, n := range nodes {
		_, leader := leaderOf(t, nodes, topic, part)
		p, ok := n.Partition(topic.ID, part)
		if !ok {
			t.Fatalf("broker %d has no replica", n.self)
		}
		until(t, "caught up", func() bool {
			_, leader = leaderOf(t, nodes, topic, part)
			return p.LastIndex() == leader.LastIndex()
		})
		for i := max(p.FirstIndex(), leader.FirstIndex()); i <= leader.LastIndex(); i++ {
			a, err := leader.Frame(i)
			if err != nil {
				t.Fatal(err)
			}
			b, err := p.Frame(i)
			if err != nil || !bytes.Equal(a, b) {
				t.Fatalf("broker %d, entry %d differs (%v)", n.self, i, err)
			}
		}
	}
}

func createSmallSegments(t *testing.T, n *Node, name string, partitions int32, factor int16) *meta.Topic {
	t.Helper()
	topics, errs := n.CreateTopics(ctxFor(t), []TopicSpec{{
		Name: name, Partitions: partitions, ReplicationFactor: factor, Configs: map[string]string{"segment.bytes": "1048576"},
	}}, false)
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	return topics[0]
}

// files of a node's replica folder with a suffix, in order.
func replicaFiles(t *testing.T, dataDir string, id uint64, suffix string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, topicsDir, fmt.Sprintf("*-%d", id), "*"+suffix))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s of replica %d: %v", suffix, id, err)
	}
	return files
}

// flipBit turns one bit of a file.
func flipBit(t *testing.T, file string, pos int64, bit uint) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], pos); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << (bit % 8)
	if _, err := f.WriteAt(b[:], pos); err != nil {
		t.Fatal(err)
	}
}

func restart(t *testing.T, nodes []*Node, i int) {
	t.Helper()
	var join []string
	for k, n := range nodes {
		if k != i {
			_, g := n.Addresses()
			join = append(join, g)
		}
	}
	nodes[i] = testNode(t, nodes[i].self, nodes[i].opt.DataDir, 0, join...)
	waitReady(t, nodes...)
}

// A replica that does not open because its log is damaged is rebuilt from its peers, under a new id, by itself.
func TestReplicaDamagedAtStartIsRebuilt(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, dir string, id uint64){
		"log cut short": func(t *testing.T, dir string, id uint64) {
			file := slices.Max(replicaFiles(t, dir, id, ".log"))
			fi, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, fi.Size()-1); err != nil {
				t.Fatal(err)
			}
		},
		"identity": func(t *testing.T, dir string, id uint64) { flipBit(t, replicaFiles(t, dir, id, "replica")[0], 20, 3) },
		"folder lost": func(t *testing.T, dir string, id uint64) {
			if err := os.RemoveAll(filepath.Dir(replicaFiles(t, dir, id, ".log")[0])); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			nodes, dirs := testCluster(t)
			topic := createSmallSegments(t, nodes[0], "orders", 1, 3)
			want := produce(t, nodes, topic, 0, 14)
			sameFrames(t, nodes, topic, 0)
			old := replicaOn(&topic.Partitions[0], 3)
			if err := nodes[2].Close(ctxFor(t)); err != nil {
				t.Fatal(err)
			}
			damage(t, dirs[2], old.ID)
			restart(t, nodes, 2)
			until(t, "rebuilt", func() bool { return nodes[2].Status().Rebuilt == 1 })
			whole(t, nodes, topic)
			_, mp, _ := nodes[2].Image().Lookup(topic.ID, 0)
			if now := replicaOn(mp, 3); now == old {
				t.Fatalf("replica %v is still the damaged one", now)
			}
			want = append(want, produce(t, nodes, topic, 0, 3)...)
			sameFrames(t, nodes, topic, 0)
			_, p := leaderOf(t, nodes, topic, 0)
			if got, err := consume(p); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%d values, want %d (%v)", len(got), len(want), err)
			}
		})
	}
}

// A leader that meets a flipped bit in its log, for a consumer or for a follower, passes nothing of it on: it stops,
// another leads, and it is rebuilt.
func TestLeaderWithAFlippedBitIsRebuilt(t *testing.T) {
	for name, pos := range map[string]int64{"in a record": 300, "before the CRC": 5, "in the length": 10} {
		t.Run(name, func(t *testing.T) {
			nodes, dirs := testCluster(t)
			topic := createSmallSegments(t, nodes[0], "orders", 1, 3)
			want := produce(t, nodes, topic, 0, 14)
			sameFrames(t, nodes, topic, 0)
			for i := range nodes {
				if err := nodes[i].Close(ctxFor(t)); err != nil {
					t.Fatal(err)
				}
			}
			nodes = startAll(t, dirs, 0)
			on, p := leaderOf(t, nodes, topic, 0)
			// In a batch of a closed segment, which nothing has read since the start.
			file := replicaFiles(t, on.opt.DataDir, replicaOn(&topic.Partitions[0], on.self).ID, ".log")[1]
			flipBit(t, file, batchAt(t, file, 1)+pos, 2)
			if got, err := consume(p); !errors.Is(err, partition.ErrStorage) || !slices.Equal(got, want[:len(got)]) {
				t.Fatalf("%d values read, then %v", len(got), err)
			}
			if !partition.IsDamage(p.Err()) {
				t.Fatalf("the leader goes on: %v", p.Err())
			}
			until(t, "rebuilt", func() bool { return on.Status().Rebuilt == 1 })
			whole(t, nodes, topic)
			sameFrames(t, nodes, topic, 0)
			_, p = leaderOf(t, nodes, topic, 0)
			if got, err := consume(p); err != nil || !slices.Equal(got, want) {
				t.Fatalf("%d values, want %d (%v)", len(got), len(want), err)
			}
		})
	}
}

// batchAt is the position of the n-th record batch of a segment file.
func batchAt(t *testing.T, file string, n int) int64 {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for pos := 0; pos < len(b); {
		if b[pos+16] == 2 {
			if n--; n < 0 {
				return int64(pos)
			}
		}
		pos += record.Batch(b[pos:]).Size()
	}
	t.Fatal("not so many batches")
	return 0
}

// Two of three replicas are damaged: nothing is replaced, because no majority could vouch for the log, and the
// brokers say so. What is left on the third is not touched.
func TestNothingIsRebuiltWithoutAMajority(t *testing.T) {
	nodes, dirs := testCluster(t)
	topic := createSmallSegments(t, nodes[0], "orders", 1, 3)
	produce(t, nodes, topic, 0, 10)
	sameFrames(t, nodes, topic, 0)
	for i := range nodes {
		if err := nodes[i].Close(ctxFor(t)); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range topic.Partitions[0].Replicas[1:] {
		flipBit(t, replicaFiles(t, dirs[r.Node-1], r.ID, "replica")[0], 20, 3)
	}
	nodes = startAll(t, dirs, 0)
	for _, r := range topic.Partitions[0].Replicas[1:] {
		n := nodes[r.Node-1]
		until(t, "reported", func() bool {
			f := n.Damaged(n.self)
			return len(f) == 1 && f[0].Damaged && f[0].Waits != "" && f[0].Replica == r.ID
		})
		until(t, "the others hear", func() bool { return len(nodes[r.Node%3].Damaged(n.self)) == 1 })
	}
	_, mp, _ := nodes[0].Image().Lookup(topic.ID, 0)
	if !slices.Equal(mp.Replicas, topic.Partitions[0].Replicas) || len(mp.Removing) > 0 {
		t.Fatalf("replicas are %v, were %v", mp.Replicas, topic.Partitions[0].Replicas)
	}
}

// The scrub finds what nobody reads: a flipped bit of a follower's closed segment, and mends what it can.
func TestScrubFindsDamage(t *testing.T) {
	nodes, dirs := testCluster(t)
	topic := createSmallSegments(t, nodes[0], "orders", 1, 3)
	want := produce(t, nodes, topic, 0, 14)
	sameFrames(t, nodes, topic, 0)
	leader, _ := leaderOf(t, nodes, topic, 0)
	i := int(leader.self) % 3 // a follower
	n, old := nodes[i], replicaOn(&topic.Partitions[0], nodes[i].self)
	if err := n.scrubPass(ctxFor(t)); err != nil || n.scrub.bytes.Load() < 14*250_000 {
		t.Fatalf("%d bytes scrubbed (%v)", n.scrub.bytes.Load(), err)
	}
	index := replicaFiles(t, dirs[i], old.ID, ".index")[0]
	flipBit(t, index, 60, 1)
	before, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	identity := replicaFiles(t, dirs[i], old.ID, "replica")[0]
	flipBit(t, identity, 44, 1)
	if err := n.scrubPass(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(index); err != nil || bytes.Equal(before, after) {
		t.Fatalf("the index was left as it is (%v)", err)
	}
	if p, ok := n.Partition(topic.ID, 0); !ok || p.Err() != nil {
		t.Fatal("the replica stopped over what can be mended")
	}
	file := replicaFiles(t, dirs[i], old.ID, ".log")[0]
	flipBit(t, file, batchAt(t, file, 2)+100_000, 7)
	if err := n.scrubPass(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	until(t, "rebuilt", func() bool { return n.Status().Rebuilt == 1 })
	whole(t, nodes, topic)
	sameFrames(t, nodes, topic, 0)
	_, p := leaderOf(t, nodes, topic, 0)
	if got, err := consume(p); err != nil || !slices.Equal(got, want) {
		t.Fatalf("%d values, want %d (%v)", len(got), len(want), err)
	}
}
