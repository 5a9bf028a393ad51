package broker

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
)

// kadmClient is a real client of a real server over a metaNode.
func kadmClient(t *testing.T) (*kadm.Client, *metaNode) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := newMetaNode()
	n.controller = 1
	port := l.Addr().(*net.TCPAddr).Port
	if _, err := n.apply(meta.RegisterBroker{Broker: meta.Broker{ID: 1, Incarnation: 1, Listeners: []meta.Listener{{Name: "P", Host: "127.0.0.1", Port: int32(port)}}}}); err != nil {
		t.Fatal(err)
	}
	b, err := config.NewBroker(map[string]string{"log.dirs": t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Node: n, Listeners: []Listener{{Name: "P", Listener: l}}, Config: func() *config.Broker { return b }})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return kadm.NewClient(cl), n
}

// What an administration tool does, in the versions that a current client chooses.
func TestKadm(t *testing.T) {
	adm, n := kadmClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	fail := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	created, err := adm.CreateTopic(ctx, 2, 1, map[string]*string{"retention.ms": new("1000")}, "t")
	fail("create", err)
	if created.NumPartitions != 2 || *created.Configs["retention.ms"].Value != "1000" || created.ID != kadm.TopicID(n.Image().Topics["t"].ID) {
		t.Errorf("%+v", created)
	}
	if _, err := adm.CreateTopic(ctx, 2, 1, nil, "t"); !errors.Is(err, kerr.TopicAlreadyExists) {
		t.Error(err)
	}
	grown, err := adm.UpdatePartitions(ctx, 4, "t")
	fail("partitions", err)
	fail("partitions", grown.Error())

	altered, err := adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.AppendConfig, Name: "cleanup.policy", Value: new("compact")}}, "t")
	fail("alter", err)
	fail("alter", altered[0].Err)
	described, err := adm.DescribeTopicConfigs(ctx, "t")
	fail("describe", err)
	for _, c := range described[0].Configs {
		if c.Key == "cleanup.policy" && (c.MaybeValue() != "delete,compact" || len(c.Synonyms) == 0) {
			t.Errorf("%+v", c)
		}
	}
	state, err := adm.AlterTopicConfigsState(ctx, []kadm.AlterConfig{{Name: "segment.ms", Value: new("7")}}, "t")
	fail("replace", err)
	fail("replace", state[0].Err)
	if got := n.Image().Topics["t"].Configs; len(got) != 1 || got["segment.ms"] != "7" || len(n.Image().Topics["t"].Partitions) != 4 {
		t.Error(got)
	}
	brokers, err := adm.DescribeBrokerConfigs(ctx, 1)
	fail("broker", err)
	if brokers[0].Err != nil || len(brokers[0].Configs) != len(config.Settings(config.ScopeBroker)) {
		t.Error(brokers[0].Err, len(brokers[0].Configs))
	}
	set, err := adm.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Name: "log.retention.ms", Value: new("5")}})
	fail("cluster-wide", err)
	fail("cluster-wide", set[0].Err)
	if n.Image().ClusterConfig["log.retention.ms"] != "5" {
		t.Error(n.Image().ClusterConfig)
	}
	dirs, err := adm.DescribeAllLogDirs(ctx, nil)
	fail("log dirs", err)
	if len(dirs) != 1 || len(dirs[1]) != 1 {
		t.Errorf("%+v", dirs)
	}
	meta, err := adm.BrokerMetadata(ctx)
	fail("metadata", err)
	if meta.Controller != 1 || len(meta.Brokers) != 1 || meta.Cluster != "c1" {
		t.Errorf("%+v", meta)
	}
	deleted, err := adm.DeleteTopic(ctx, "t")
	fail("delete", err)
	fail("delete", deleted.Err)
	if _, err := adm.DeleteTopic(ctx, "t"); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Error(err)
	}
}
