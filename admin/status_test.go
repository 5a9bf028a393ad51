package admin

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
)

// view is a cluster of three brokers, of which 3 is dead, with one topic: partition 0 is sound, 1 has lost a follower,
// 2 has no leader.
type view struct{ img *meta.Image }

func (v view) Self() int32                                                { return 1 }
func (v view) Image() *meta.Image                                         { return v.img }
func (v view) Controller() int32                                          { return 1 }
func (v view) Alive(id int32) bool                                        { return id != 3 }
func (v view) Partition(meta.TopicID, int32) (*partition.Partition, bool) { return nil, false }
func (v view) Leader(_ meta.TopicID, p int32) (cluster.Leader, bool) {
	return cluster.Leader{Node: 1 + p}, p < 2
}

func (v view) ReplicaError(_ meta.TopicID, p int32) error {
	if p == 2 {
		return errors.New("torn")
	}
	return nil
}

func (v view) Clock() (time.Duration, error) { return -time.Hour, errors.New("an hour off") }

func (v view) Damaged(node int32) []cluster.ReplicaFailure {
	if node != 2 {
		return nil
	}
	return []cluster.ReplicaFailure{{Topic: "t", Partition: 1, Replica: 3, Damaged: true, Reason: "a bit", Waits: "peers"}}
}

func (v view) InSync(_ meta.TopicID, p int32) []int32 {
	return [][]int32{{1, 2}, {2}, nil}[p]
}

func newView(t *testing.T) view {
	t.Helper()
	img := meta.NewImage()
	apply := func(c meta.Command) {
		var err error
		if img, _, err = meta.Apply(img, img.Version+1, c); err != nil {
			t.Fatal(err)
		}
	}
	for id := range int32(3) {
		apply(meta.RegisterBroker{Broker: meta.Broker{ID: id + 1, Incarnation: 7, Listeners: []meta.Listener{{Name: "P", Host: "h", Port: 9092}}}})
	}
	apply(meta.CreateTopic{ID: meta.TopicID{1}, Name: "t", Partitions: [][]int32{{1, 2}, {2, 3}, {3, 1}}})
	return view{img}
}

func TestStatus(t *testing.T) {
	two, err := config.NewBroker(map[string]string{"min.insync.replicas": "2"})
	if err != nil {
		t.Fatal(err)
	}
	s := Status(newView(t), MinISR(func() *config.Broker { return two }))
	if s.Partitions != 3 || s.Leaderless.Count != 1 || s.Leaderless.Named[0].Partition != 2 || s.UnderReplicated.Count != 2 || s.UnderMinISR.Count != 2 {
		t.Errorf("%+v", s)
	}
	if s.Brokers[2].Alive || !s.Brokers[0].Alive || s.Brokers[0].Leads != 1 || s.Brokers[1].Replicas != 2 || len(s.Local) != 2 || s.Local[0].State != "missing" || s.Local[1].State != "failed" || s.Local[1].Error != "torn" {
		t.Errorf("%+v", s)
	}
	if d := s.Brokers[1].Damaged; len(d) != 1 || d[0].Waits != "peers" || len(s.Brokers[0].Damaged) != 0 {
		t.Errorf("damaged: %+v", d)
	}
	if s.Clock.OffsetMillis != -3_600_000 || s.Clock.Suspended != "an hour off" {
		t.Errorf("clock: %+v", s.Clock)
	}
	b, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(b), `"under_replicated":{"count":2,"partitions":[{"topic":"t","partition":1`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestCollector(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(Collector(newView(t), nil))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += "/" + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"balsa_cluster_partitions": 3, "balsa_cluster_leaderless_partitions": 1, "balsa_cluster_under_replicated_partitions": 2,
		"balsa_cluster_under_min_isr_partitions": 1, "balsa_cluster_has_controller": 1, "balsa_broker_log_bytes": 0,
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, want %v", name, v, want)
		}
	}
}

func TestSettings(t *testing.T) {
	b, err := config.NewBroker(map[string]string{"num.partitions": "3"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range Settings(b) {
		switch {
		case s.Name == "num.partitions" && (*s.Value != "3" || s.Source != "static" || !s.ReadOnly), s.Name == "broker.rack" && s.Value != nil:
			t.Errorf("%+v", s)
		}
	}
}
