//go:build integration && linux

package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/integration/harness"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
)

// startOnSmallDisks runs a cluster in which the given brokers have a disk of their own of that size.
func startOnSmallDisks(t *testing.T, o harness.Options, sizeMiB int, nodes ...int) *harness.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a small disk needs root (mount)")
	}
	o.Dir = t.TempDir()
	c, err := harness.New(o)
	must(t, err)
	for _, id := range nodes {
		dir := c.Node(int32(id)).Dir
		kind := "tmpfs"
		if k := os.Getenv("BALSA_DISK"); k != "" {
			kind = k
		}
		unmount, err := harness.SmallDisk(dir, kind, sizeMiB)
		if err != nil {
			t.Skipf("no small disk can be made here: %v", err)
		}
		t.Cleanup(func() {
			if err := unmount(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("--- broker %d\n%s", n.ID, n.Tail(20000))
			}
		}
	})
	must(t, c.Start(deadline(t, 30*time.Second)))
	return c
}

// fill writes a file into the broker's data folder until the disk is full, or has that much left.
func fill(t *testing.T, n *harness.Node, leave int64) (path string) {
	t.Helper()
	path, err := n.Fill(leave)
	must(t, err)
	return path
}

// raw produces single batches, without the retries of a client, so that the broker's own answers are seen.
type raw struct {
	t     *testing.T
	cl    *kgo.Client
	topic string
	acked [][]byte // values, by offset; single writer
	rng   *rand.Rand
}

func newRaw(t *testing.T, c *harness.Cluster, topic string) *raw {
	t.Helper()
	cl, err := c.Client()
	must(t, err)
	t.Cleanup(cl.Close)
	return &raw{t: t, cl: cl, topic: topic, rng: rand.New(rand.NewPCG(1, 1))}
}

// produce sends one record that does not compress to a partition's leader and returns Kafka's error code.
func (r *raw) produce(ctx context.Context, node int32, size int) (int16, error) {
	value := make([]byte, size)
	for i := range value {
		value[i] = byte(r.rng.Uint32())
	}
	var b record.Builder
	b.Add(time.Now().UnixMilli(), nil, value)
	code, offset, err := r.send(ctx, node, b.Build())
	if err == nil && code == 0 {
		if offset != int64(len(r.acked)) {
			r.t.Fatalf("acknowledged at offset %d, want %d", offset, len(r.acked))
		}
		r.acked = append(r.acked, value)
	}
	return code, err
}

func (r *raw) send(ctx context.Context, node int32, batch []byte) (int16, int64, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 3000
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = batch
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.Partitions = r.topic, append(rt.Partitions, rp)
	id, err := topicID(ctx, r.cl, r.topic)
	if err != nil {
		return 0, 0, err
	}
	rt.TopicID = id
	req.Topics = append(req.Topics, rt)
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	resp, err := r.cl.Broker(int(node)).Request(ctx, req)
	if err != nil {
		return 0, 0, err
	}
	p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return p.ErrorCode, p.BaseOffset, nil
}

// topicID returns the topic's id: the broker answers for its metadata.
func topicID(ctx context.Context, cl *kgo.Client, topic string) ([16]byte, error) {
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return [16]byte{}, err
	}
	if code := resp.Topics[0].ErrorCode; code != 0 {
		return [16]byte{}, fmt.Errorf("metadata: %s", protocol.ErrorName(code))
	}
	return resp.Topics[0].TopicID, nil
}

// untilFull produces until the broker refuses, which must be with KAFKA_STORAGE_ERROR.
func (r *raw) untilFull(ctx context.Context, node int32, size int) {
	r.t.Helper()
	for {
		code, err := r.produce(ctx, node, size)
		must(r.t, err)
		if code == protocol.KafkaStorageError {
			return
		}
		if code != 0 {
			r.t.Fatalf("produce on a filling disk: %s", protocol.ErrorName(code))
		}
		if len(r.acked)*size > 1<<30 {
			r.t.Fatal("the disk never fills")
		}
	}
}

// untilTaken produces to whoever leads until a batch is taken again.
func (r *raw) untilTaken(ctx context.Context, c *harness.Cluster) {
	r.t.Helper()
	for {
		node, err := c.Leader(ctx, r.topic, 0)
		must(r.t, err)
		code, err := r.produce(ctx, node, 1000)
		if err == nil && code == 0 {
			return
		}
		if err == nil && code != protocol.KafkaStorageError && code != protocol.NotLeaderOrFollower {
			r.t.Fatalf("produce: %s", protocol.ErrorName(code))
		}
		if ctx.Err() != nil {
			r.t.Fatalf("writes did not resume: %s %v", protocol.ErrorName(code), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// check reads everything back: what was acknowledged, at its offset, and nothing else.
func (r *raw) check(c *harness.Cluster) {
	r.t.Helper()
	got, err := c.ReadAll(deadline(r.t, 20*time.Second), r.topic, 1)
	must(r.t, err)
	if len(got[0]) != len(r.acked) {
		r.t.Fatalf("%d records, %d were acknowledged", len(got[0]), len(r.acked))
	}
	for i, f := range got[0] {
		if f.Offset != int64(i) || string(f.Value) != string(r.acked[i]) {
			r.t.Fatalf("record %d differs (offset %d)", i, f.Offset)
		}
	}
}

// TestNearlyFullDisk: below the mark of free space produce is refused with a retriable error; all else goes on.
func TestNearlyFullDisk(t *testing.T) {
	c := startOnSmallDisks(t, harness.Options{Nodes: 1, Set: []string{"balsa.disk.min.free.bytes=16000000"}}, 128, 1)
	ctx := deadline(t, 28*time.Second)
	n := c.Nodes[0]
	filler := fill(t, n, 40<<20)
	must(t, c.CreateTopic(ctx, "small", 1, 1, nil))
	r := newRaw(t, c, "small")
	r.untilFull(ctx, 1, 200_000)
	t.Logf("refused after %d records", len(r.acked))
	r.check(c)
	// What is not a produce is done still.
	must(t, c.CreateTopic(ctx, "another", 1, 1, nil))
	must(t, os.Remove(filler))
	r.untilTaken(ctx, c)
	r.check(c)
	must(t, n.Stop())
	must(t, c.Start(ctx))
	r.check(c)
}

// TestFullDisk: not a byte is left. The process stays up, answers reads and metadata, also after a kill and a start on the
// full disk, and takes writes again when there is room.
func TestFullDisk(t *testing.T) {
	c := startOnSmallDisks(t, harness.Options{Nodes: 1, Set: []string{"balsa.disk.min.free.bytes=0"}}, 128, 1)
	ctx := deadline(t, 28*time.Second)
	n := c.Nodes[0]
	must(t, c.CreateTopic(ctx, "small", 1, 1, nil))
	r := newRaw(t, c, "small")
	for range 20 {
		if code, err := r.produce(ctx, 1, 50_000); err != nil || code != 0 {
			t.Fatal(code, err)
		}
	}
	filler := fill(t, n, 0)
	r.untilFull(ctx, 1, 100_000)
	for range 20 {
		// After the first one the replica may have lost its leadership with it: both are errors to try again on.
		code, err := r.produce(ctx, 1, 1_000_000)
		if err != nil || code != protocol.KafkaStorageError && code != protocol.NotLeaderOrFollower {
			t.Fatal(protocol.ErrorName(code), err)
		}
	}
	r.check(c)
	// Whether topics can be made now is not promised; that the attempts harm nothing is, whatever they need of the
	// controller's log.
	tctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	made := 0
	for i := range 200 {
		if err := c.CreateTopic(tctx, fmt.Sprintf("another-%d-%s", i, strings.Repeat("x", 200)), 1, 1, nil); err == nil {
			made++
		}
		if tctx.Err() != nil {
			break
		}
	}
	cancel()
	t.Logf("%d topics made on a full disk", made)
	// The controller's log has a reserve: what only changes the metadata is done.
	adm := kadm.NewClient(r.cl)
	for i := range 200 {
		list := strings.Repeat(fmt.Sprintf("0:%d,", i), 800) + "0:1"
		resp, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{
			{Op: kadm.SetConfig, Name: "leader.replication.throttled.replicas", Value: &list},
		}, "small")
		must(t, err)
		if resp[0].Err != nil {
			t.Fatalf("change %d of a config on a full disk: %v", i, resp[0].Err)
		}
	}
	r.check(c)

	must(t, n.Kill())
	must(t, n.Start())
	must(t, n.WaitReady(ctx))
	if id, err := c.Leader(ctx, "small", 0); err != nil || id != 1 {
		t.Fatal(id, err)
	}
	r.check(c)
	must(t, os.Remove(filler))
	r.untilTaken(ctx, c)
	r.check(c)
	must(t, n.Stop())
	must(t, c.Start(ctx))
	r.check(c)
	must(t, c.CreateTopic(ctx, "third", 1, 1, nil))
}

// TestFullDiskOfOne: one broker's disk of three is full to the last byte; the others go on, and it catches up when it has
// room. Elections meanwhile (a leader is killed) find it able to vote, in partitions as in the controller's group.
func TestFullDiskOfOne(t *testing.T) {
	const full = 3
	c := startOnSmallDisks(t, harness.Options{Nodes: 3, Set: []string{"balsa.disk.min.free.bytes=0"}}, 96, full)
	ctx := deadline(t, 55*time.Second)
	must(t, c.CreateTopic(ctx, "small", 1, 3, nil))
	r := newRaw(t, c, "small")
	leader := func() int32 {
		id, err := c.Leader(ctx, "small", 0)
		must(t, err)
		return id
	}
	if leader() == full { // its follower is what this is about
		must(t, c.Node(full).Stop())
		for leader() == full {
			time.Sleep(20 * time.Millisecond)
		}
		must(t, c.Node(full).Start())
		must(t, c.WaitReady(ctx))
	}
	must(t, c.WaitInSync(ctx, "small", 0))
	r.untilTaken(ctx, c)
	filler := fill(t, c.Node(full), 0)
	id := leader()
	for range 100 {
		if code, err := r.produce(ctx, id, 100_000); err != nil || code != 0 {
			t.Fatalf("produce with a full follower: %s %v", protocol.ErrorName(code), err)
		}
	}
	r.check(c)
	if !c.Node(full).Running() {
		t.Fatal("the broker with the full disk died")
	}
	if got := leader(); got != id {
		t.Errorf("leadership moved from %d to %d", id, got)
	}
	// With one more broker dead the partition waits: two of three can't store anything. The full broker votes, though,
	// in partitions as in the controller's group, and the controller can be reached.
	must(t, c.Node(id).Kill())
	for {
		got, err := c.Controller(ctx)
		must(t, err)
		if got != id {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !c.Node(full).Running() {
		t.Fatal("the broker with the full disk died in an election")
	}
	must(t, c.Node(id).Start())
	r.untilTaken(ctx, c)
	if got := leader(); got == full {
		t.Fatalf("broker %d leads without the acknowledged records", full)
	}
	must(t, os.Remove(filler))
	must(t, c.WaitReplicated(ctx, "small", 1))
	r.check(c)
	for _, n := range c.Nodes {
		must(t, n.Stop())
	}
	must(t, c.CompareReplicas("small", 0, int64(len(r.acked))))
}
