package broker

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
)

// realBroker is a whole single broker: node, replicas on disk and front door.
func realBroker(t *testing.T) *kgo.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	b, err := config.NewBroker(map[string]string{"log.dirs": dir})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	node, err := cluster.Start(t.Context(), cluster.Options{
		NodeID: 1, DataDir: dir, ClusterListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", BootstrapExpect: 1, Config: b, Logger: log,
		Listeners: []meta.Listener{{Name: "P", Host: "127.0.0.1", Port: int32(l.Addr().(*net.TCPAddr).Port)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Node: node, Listeners: []Listener{{Name: "P", Listener: l}}, Config: node.Config, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.Addr().String()), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.RecordDeliveryTimeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := errors.Join(s.Close(ctx), node.Close(ctx)); err != nil {
			t.Error(err)
		}
	})
	eventually(t, node.Ready)
	return cl
}

// eventually waits until check gives nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// The administrative APIs act on real partitions: what is created can be written to at once, settings take effect, and
// what is deleted is gone from the disk.
func TestAdminOnRealBroker(t *testing.T) {
	cl := realBroker(t)
	adm := kadm.NewClient(cl)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	produce := func(partition int32, size int) error {
		return cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: partition, Value: make([]byte, size)}).FirstErr()
	}
	size := func() (n int64) {
		dirs, err := adm.DescribeAllLogDirs(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dirs[1] {
			for _, p := range d.Topics["t"] {
				n += p.Size
			}
		}
		return n
	}
	if _, err := adm.CreateTopic(ctx, 2, -1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	for p := range int32(2) {
		if err := produce(p, 10_000); err != nil {
			t.Fatal(err)
		}
	}
	if n := size(); n < 20_000 {
		t.Error("the log directories hold", n)
	}
	if r, err := adm.CreateTopic(ctx, 1, 2, nil, "two"); !errors.Is(err, kerr.InvalidReplicationFactor) {
		t.Error(r, err)
	}
	if r, err := adm.UpdatePartitions(ctx, 3, "t"); err != nil || r.Error() != nil {
		t.Fatal(err, r.Error())
	}
	cl.ForceMetadataRefresh()
	eventually(t, func() error { return produce(2, 1) })

	if r, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Name: "max.message.bytes", Value: new("1000")}}, "t"); err != nil || r[0].Err != nil {
		t.Fatal(err, r)
	}
	eventually(t, func() error {
		if err := produce(0, 5000); !errors.Is(err, kerr.MessageTooLarge) {
			return errors.Join(errors.New("max.message.bytes has no effect"), err)
		}
		return nil
	})
	if r, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.DeleteConfig, Name: "max.message.bytes"}}, "t"); err != nil || r[0].Err != nil {
		t.Fatal(err, r)
	}
	eventually(t, func() error { return produce(0, 5000) })

	if r, err := adm.DeleteTopic(ctx, "t"); err != nil || r.Err != nil {
		t.Fatal(err, r.Err)
	}
	if n := size(); n != 0 {
		t.Error("a deleted topic still holds", n)
	}
}
