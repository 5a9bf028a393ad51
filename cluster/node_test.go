package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
)

func testLogger() *slog.Logger {
	w := io.Discard
	level := slog.LevelInfo
	if os.Getenv("BALSA_TEST_LOG") != "" {
		w = os.Stderr
		if os.Getenv("BALSA_TEST_LOG") == "debug" {
			level = slog.LevelDebug
		}
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// testNode starts a broker's cluster part on free ports; it is killed at the end.
func testNode(t *testing.T, id int32, dir string, expect int, join ...string) *Node {
	t.Helper()
	cfg, err := config.NewBroker(map[string]string{"balsa.scrub.bytes.per.second": "1000000000"}) // tests do not wait for it
	if err != nil {
		t.Fatal(err)
	}
	n, err := Start(context.Background(), Options{
		Config: cfg,
		NodeID: id, DataDir: dir, ClusterListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Join: join, BootstrapExpect: expect,
		Version: "test", Listeners: []meta.Listener{{Name: "PLAINTEXT", Host: "127.0.0.1", Port: 9000 + id}},
		Logger: testLogger().With("on", id),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Kill)
	return n
}

// testCluster forms a cluster of three.
func testCluster(t *testing.T) ([]*Node, []string) {
	t.Helper()
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	return startAll(t, dirs, 3), dirs
}

func startAll(t *testing.T, dirs []string, expect int) []*Node {
	t.Helper()
	nodes := make([]*Node, len(dirs))
	var join []string
	for i, dir := range dirs {
		nodes[i] = testNode(t, int32(i+1), dir, expect, join...)
		_, g := nodes[i].Addresses()
		join = append(join, g)
	}
	waitReady(t, nodes...)
	return nodes
}

func waitReady(t *testing.T, nodes ...*Node) {
	t.Helper()
	for _, n := range nodes {
		until(t, fmt.Sprintf("broker %d ready", n.self), func() bool { return n.Ready() == nil })
	}
	for _, n := range nodes {
		for _, o := range nodes {
			until(t, "all know all", func() bool { return n.Image().Unfenced(o.self) && n.Alive(o.self) })
		}
	}
}

func ctxFor(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	t.Cleanup(cancel)
	return ctx
}

func create(t *testing.T, n *Node, name string, partitions int32, factor int16) *meta.Topic {
	t.Helper()
	topics, errs := n.CreateTopics(ctxFor(t), []TopicSpec{{Name: name, Partitions: partitions, ReplicationFactor: factor}}, false)
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	return topics[0]
}

// led says whether every partition of a topic is led by a living replica, as each of the nodes knows.
func led(topic *meta.Topic, nodes ...*Node) bool {
	for _, n := range nodes {
		if n.ledHere(topic.ID, len(topic.Partitions)) < len(topic.Partitions) {
			return false
		}
	}
	return true
}

func TestSingleBroker(t *testing.T) {
	dir := t.TempDir()
	n := testNode(t, 1, dir, 1)
	waitReady(t, n)
	if n.Controller() != 1 || n.ClusterID() == "" {
		t.Fatalf("controller %d, cluster %q", n.Controller(), n.ClusterID())
	}
	topic := create(t, n, "one", 3, -1)
	if len(topic.Partitions) != 3 || len(topic.Partitions[0].Replicas) != 1 {
		t.Fatalf("%+v", topic)
	}
	if _, errs := n.CreateTopics(ctxFor(t), []TopicSpec{{Name: "one", Partitions: 1, ReplicationFactor: 1}}, false); !errors.Is(errs[0], meta.ErrTopicExists) {
		t.Fatal(errs)
	}
	if _, err := Start(context.Background(), Options{NodeID: 1, DataDir: dir, ClusterListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0"}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second broker on the folder: %v", err)
	}
	first, count, err := n.ProducerIDs(ctxFor(t))
	if err != nil || count <= 0 {
		t.Fatal(first, count, err)
	}
	id := n.ClusterID()
	if err := n.Close(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	n = testNode(t, 1, dir, 1)
	waitReady(t, n)
	until(t, "led again", func() bool { return led(topic, n) })
	if n.ClusterID() != id {
		t.Fatalf("cluster %q became %q", id, n.ClusterID())
	}
	if errs := n.DeleteTopics(ctxFor(t), []meta.TopicID{topic.ID}); errs[0] != nil {
		t.Fatal(errs)
	}
	until(t, "the folders go", func() bool {
		e, err := os.ReadDir(dir + "/" + topicsDir)
		return err == nil && len(e) == 0
	})
}

func TestThreeBrokersFailOver(t *testing.T) {
	nodes, _ := testCluster(t)
	topic := create(t, nodes[1], "orders", 12, 3)
	for _, n := range nodes {
		if !led(topic, n) {
			t.Fatalf("broker %d does not know all leaders though CreateTopics returned", n.self)
		}
	}
	leads := make(map[int32]int)
	for p := range topic.Partitions {
		l, _ := nodes[0].Leader(topic.ID, int32(p))
		leads[l.Node]++
	}
	t.Logf("leaders: %v", leads)
	for _, n := range nodes {
		until(t, "in sync", func() bool { return len(n.InSync(topic.ID, 0)) == 3 })
	}
	start := time.Now()
	nodes[2].Kill()
	until(t, "the dead broker's partitions are led", func() bool { return led(topic, nodes[:2]...) })
	t.Logf("all led again after %v", time.Since(start))
	for p := range topic.Partitions {
		if l, ok := nodes[0].Leader(topic.ID, int32(p)); !ok || l.Node == 3 {
			t.Fatalf("partition %d: %+v", p, l)
		}
	}
	until(t, "the dead broker is fenced", func() bool { return !nodes[0].Image().Unfenced(3) })
	until(t, "a controller", func() bool { return nodes[0].Controller() != 3 && nodes[0].Controller() > 0 })
}

func TestAllAddressesNew(t *testing.T) {
	nodes, dirs := testCluster(t)
	topic := create(t, nodes[0], "orders", 4, 3)
	id := nodes[0].ClusterID()
	for _, n := range nodes {
		n.Kill()
	}
	nodes = startAll(t, dirs, 0)
	until(t, "led again", func() bool { return led(topic, nodes...) })
	if nodes[0].ClusterID() != id {
		t.Fatal("another cluster")
	}
}

func TestBrokerJoinsLater(t *testing.T) {
	nodes, _ := testCluster(t)
	_, g := nodes[0].Addresses()
	four := testNode(t, 4, t.TempDir(), 0, g)
	waitReady(t, four)
	until(t, "all unfenced as seen by the first", func() bool { return nodes[0].Image().Unfenced(4) && nodes[0].Alive(4) })
	topic := create(t, nodes[0], "wide", 8, 3)
	here := 0
	for p := range topic.Partitions {
		if _, ok := four.Partition(topic.ID, int32(p)); ok {
			here++
		}
	}
	if here == 0 {
		t.Fatal("no replica on the broker that joined")
	}
}

func TestForeignBrokersAreRefused(t *testing.T) {
	a := testNode(t, 1, t.TempDir(), 1)
	waitReady(t, a)
	_, g := a.Addresses()
	b := testNode(t, 2, t.TempDir(), 1)
	waitReady(t, b)
	dir := b.opt.DataDir
	b.Kill()
	b = testNode(t, 2, dir, 0, g) // of another cluster
	until(t, "refused", func() bool { return errors.Is(b.gossip.refusedLately(), ErrWrongCluster) })
	if a.Alive(2) {
		t.Fatal("a broker of another cluster is alive here")
	}
	twin := testNode(t, 1, t.TempDir(), 0, g)
	until(t, "second node 1 is refused", func() bool { return twin.gossip.refusedLately() != nil })
	if twin.Ready() == nil {
		t.Fatal("ready")
	}
}

// A broker that comes back with an empty disk is another disk: its replicas are rebuilt under new ids from the others.
func TestWipedBrokerIsRebuilt(t *testing.T) {
	nodes, _ := testCluster(t)
	topic := create(t, nodes[0], "orders", 3, 3)
	nodes[2].Kill()
	until(t, "fenced", func() bool { return !nodes[0].Image().Unfenced(3) })
	_, g := nodes[0].Addresses()
	wiped := testNode(t, 3, t.TempDir(), 0, g)
	waitReady(t, wiped)
	until(t, "every replica votes again", func() bool {
		for p := range topic.Partitions {
			l, ok := nodes[0].Leader(topic.ID, int32(p))
			if !ok {
				return false
			}
			pt, ok := nodes[l.Node-1].Partition(topic.ID, int32(p))
			if l.Node == 3 {
				pt, ok = wiped.Partition(topic.ID, int32(p))
			}
			if !ok || len(pt.Status().Voters) != 3 {
				return false
			}
			if _, mp, ok := nodes[0].Image().Lookup(topic.ID, int32(p)); !ok || len(mp.Removing) > 0 {
				return false
			}
			if _, ok := wiped.Partition(topic.ID, int32(p)); !ok {
				return false
			}
		}
		return true
	})
}

func TestGracefulCloseHandsOver(t *testing.T) {
	nodes, _ := testCluster(t)
	topic := create(t, nodes[0], "orders", 6, 3)
	if err := nodes[0].Close(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	until(t, "led by the others", func() bool { return led(topic, nodes[1:]...) })
}

func TestManyPartitions(t *testing.T) {
	if testing.Short() {
		t.Skip("hundreds of partitions")
	}
	nodes, _ := testCluster(t)
	start := time.Now()
	topic := create(t, nodes[0], "many", manyPartitions(), 3)
	t.Logf("%d partitions with three replicas led after %v", len(topic.Partitions), time.Since(start))
	start = time.Now()
	nodes[0].Kill()
	until(t, "led", func() bool { return led(topic, nodes[1:]...) })
	t.Logf("all led again after %v", time.Since(start))
}

func manyPartitions() int32 {
	if n, err := strconv.Atoi(os.Getenv("BALSA_TEST_PARTITIONS")); err == nil {
		return int32(n)
	}
	return 200 // the thousand of the promise is measured by `make verify`
}
