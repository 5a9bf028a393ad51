package admin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
)

// Node is what the status needs of the cluster: *cluster.Node, and the metadata alone in tests.
type Node interface {
	Self() int32
	Image() *meta.Image
	Controller() int32
	Alive(id int32) bool
	Partition(t meta.TopicID, p int32) (*partition.Partition, bool)
	ReplicaError(t meta.TopicID, p int32) error // why it is not open
	Leader(t meta.TopicID, p int32) (cluster.Leader, bool)
	InSync(t meta.TopicID, p int32) []int32
	Damaged(node int32) []cluster.ReplicaFailure // replicas on a broker that do not work, as it said
	Clock() (offset time.Duration, distrust error)
}

// maxNamed bounds the partitions in trouble that a status names; the counts are of all.
const maxNamed = 1000

// ClusterStatus is the cluster as one broker sees it.
type ClusterStatus struct {
	ClusterID       string          `json:"cluster_id"`
	Broker          int32           `json:"broker"`
	Controller      int32           `json:"controller"` // -1: none
	MetadataVersion uint64          `json:"metadata_version"`
	Brokers         []BrokerStatus  `json:"brokers"`
	Topics          int             `json:"topics"`
	Partitions      int             `json:"partitions"`
	UnderReplicated Troubled        `json:"under_replicated"` // fewer in-sync replicas than replicas
	UnderMinISR     Troubled        `json:"under_min_isr"`    // too few for acks=all
	Leaderless      Troubled        `json:"leaderless"`
	DataLosses      []LossStatus    `json:"data_losses,omitempty"` // the last of each partition that ever had one
	Clock           ClockStatus     `json:"clock"`
	Local           []ReplicaStatus `json:"local_replicas"`
}

// ClockStatus is how this broker's wall clock stands to those of the others.
type ClockStatus struct {
	OffsetMillis int64 `json:"offset_ms"` // the median of the living brokers' minus this one's
	// Suspended says why nothing is deleted by age; empty: it is.
	Suspended string `json:"retention_suspended,omitempty"`
}

// LossStatus is a partition that went on from one replica's log after too many had lost theirs.
type LossStatus struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Events    int32     `json:"events"`
	At        time.Time `json:"at"`     // of the last
	Broker    int32     `json:"broker"` // whose log was chosen
	cluster.RecoveryLoss
}

// BrokerStatus is one registered broker.
type BrokerStatus struct {
	ID       int32           `json:"id"`
	Alive    bool            `json:"alive"`  // as gossip has it here
	Fenced   bool            `json:"fenced"` // as the controller has it
	Rack     string          `json:"rack,omitempty"`
	Version  string          `json:"version,omitempty"`
	Address  string          `json:"cluster_address"`
	Kafka    []meta.Listener `json:"listeners"`
	Replicas int             `json:"replicas"`
	Leads    int             `json:"leads"`
	// Damaged are the replicas on it that do not open or stopped, as it said a few seconds ago; the first thousand.
	Damaged []cluster.ReplicaFailure `json:"damaged,omitempty"`
}

// Troubled partitions: how many, and the first of them by name.
type Troubled struct {
	Count int             `json:"count"`
	Named []PartitionName `json:"partitions,omitempty"`
}

// PartitionName names a partition and says who leads it and which replicas it has.
type PartitionName struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Leader    int32   `json:"leader"` // -1: none
	Replicas  []int32 `json:"replicas"`
	InSync    []int32 `json:"in_sync"`
}

// ReplicaStatus is one replica on this broker. Replicas are named "<broker>/<replica id>".
type ReplicaStatus struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// partition.Status's; "missing": not open (yet); "failed": it does not open; "damaged": nor before it is rebuilt;
	// "needs-recovery": power was lost
	State             string   `json:"state"`
	Serving           bool     `json:"serving"`
	Epoch             int32    `json:"leader_epoch"`
	Leader            string   `json:"leader,omitempty"`
	FirstIndex        uint64   `json:"first_index"`
	LastIndex         uint64   `json:"last_index"`
	CommitIndex       uint64   `json:"commit_index"`
	LogStart          int64    `json:"log_start"`
	LastStable        int64    `json:"last_stable"`
	HighWatermark     int64    `json:"high_watermark"`
	LogEnd            int64    `json:"log_end"`
	SizeBytes         int64    `json:"size_bytes"`
	LastContactMillis int64    `json:"last_contact_ms"`
	Voters            []string `json:"voters"`
	Learners          []string `json:"learners,omitempty"`
	InSync            []string `json:"in_sync,omitempty"` // on the leader only
	Error             string   `json:"error,omitempty"`
}

func replicaStatus(topic string, id int32, st partition.Status) ReplicaStatus {
	r := ReplicaStatus{
		Topic: topic, Partition: id, State: st.State, Serving: st.Serving, Epoch: st.Epoch,
		FirstIndex: st.FirstIndex, LastIndex: st.LastIndex, CommitIndex: st.CommitIndex,
		LogStart: st.LogStart, LastStable: st.LastStable, HighWatermark: st.HighWatermark, LogEnd: st.LogEnd,
		SizeBytes: st.Size, LastContactMillis: st.LastContact.Milliseconds(),
		Voters: replicaNames(st.Voters), Learners: replicaNames(st.Learners), InSync: replicaNames(st.InSync), Error: st.Err,
	}
	if st.Leader != (partition.Replica{}) {
		r.Leader = replicaName(st.Leader)
	}
	return r
}

func replicaName(r partition.Replica) string { return fmt.Sprintf("%d/%d", r.Node, r.ID) }

func replicaNames(rs []partition.Replica) []string {
	names := make([]string, len(rs))
	for i, r := range rs {
		names[i] = replicaName(r)
	}
	return names
}

func (t *Troubled) add(p PartitionName) {
	if t.Count++; t.Count <= maxNamed {
		t.Named = append(t.Named, p)
	}
}

// Status looks at the cluster from n. minISR gives a topic's min.insync.replicas. It takes a moment per partition.
func Status(n Node, minISR func(*meta.Topic) int) *ClusterStatus {
	s := summary(n, minISR)
	img := n.Image()
	for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
		t := img.Topics[name]
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if _, here := p.OnNode(n.Self()); !here {
				continue
			}
			r := ReplicaStatus{Topic: name, Partition: p.ID, State: "missing"}
			if local, ok := n.Partition(t.ID, p.ID); ok {
				r = replicaStatus(name, p.ID, local.Status())
			} else if err := n.ReplicaError(t.ID, p.ID); err != nil {
				r.State, r.Error = "failed", err.Error()
				switch {
				case errors.Is(err, cluster.ErrNeedsRecovery):
					r.State = "needs-recovery"
				case partition.IsDamage(err):
					r.State = "damaged"
				}
			}
			s.Local = append(s.Local, r)
		}
	}
	return s
}

// summary is the status without the local replicas.
func summary(n Node, minISR func(*meta.Topic) int) *ClusterStatus {
	img := n.Image()
	s := &ClusterStatus{
		ClusterID: img.ClusterID, Broker: n.Self(), Controller: n.Controller(), MetadataVersion: img.Version,
		Topics: len(img.Topics), Local: []ReplicaStatus{},
	}
	offset, distrust := n.Clock()
	s.Clock.OffsetMillis = offset.Milliseconds()
	if distrust != nil {
		s.Clock.Suspended = distrust.Error()
	}
	at := map[int32]int{}
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		b := img.Brokers[id]
		at[id] = len(s.Brokers)
		s.Brokers = append(s.Brokers, BrokerStatus{
			ID: id, Alive: id == n.Self() || n.Alive(id), Fenced: b.Fenced, Rack: b.Rack, Version: b.Version, Address: b.ClusterAddr, Kafka: b.Listeners,
			Damaged: n.Damaged(id),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
		t := img.Topics[name]
		s.Partitions += len(t.Partitions)
		need := 1
		if minISR != nil {
			need = minISR(t)
		}
		for i := range t.Partitions {
			p := &t.Partitions[i]
			if l := p.Loss; l != nil && len(s.DataLosses) < maxNamed {
				s.DataLosses = append(s.DataLosses, LossStatus{
					Topic: name, Partition: p.ID, Events: p.Losses, At: time.UnixMilli(l.At).UTC(), Broker: l.Node,
					RecoveryLoss: cluster.DescribeLoss(l),
				})
			}
			named := PartitionName{Topic: name, Partition: p.ID, Leader: -1, InSync: n.InSync(t.ID, p.ID)}
			for _, r := range p.Replicas {
				named.Replicas = append(named.Replicas, r.Node)
				if k, ok := at[r.Node]; ok {
					s.Brokers[k].Replicas++
				}
			}
			if l, ok := n.Leader(t.ID, p.ID); ok && l.Node >= 0 {
				named.Leader = l.Node
				if k, ok := at[l.Node]; ok {
					s.Brokers[k].Leads++
				}
			} else {
				s.Leaderless.add(named)
			}
			if len(named.InSync) < len(named.Replicas) {
				s.UnderReplicated.add(named)
			}
			if len(named.InSync) < need {
				s.UnderMinISR.add(named)
			}
		}
	}
	return s
}

// MinISR gives topics' min.insync.replicas under the broker's configuration in force.
func MinISR(b func() *config.Broker) func(*meta.Topic) int {
	return func(t *meta.Topic) int {
		c, _ := config.ResolveTopic(t.Configs, b()) // usable whatever it says
		return c.MinInsyncReplicas
	}
}

// SettingStatus is one broker setting in force.
type SettingStatus struct {
	Name     string  `json:"name"`
	Value    *string `json:"value"` // null: not set, or secret
	Source   string  `json:"source"`
	ReadOnly bool    `json:"read_only"`
}

// Settings lists the settings in force, for Options.Config.
func Settings(b *config.Broker) []SettingStatus {
	sources := map[config.Source]string{
		config.SourceBroker: "dynamic, this broker", config.SourceClusterDefault: "dynamic, all brokers", config.SourceStatic: "static",
		config.SourceDefault: "default",
	}
	var out []SettingStatus
	for _, e := range config.DescribeBroker(b) {
		s := SettingStatus{Name: e.Name, Source: sources[e.Source], ReadOnly: e.ReadOnly}
		if !e.Null && !e.Sensitive {
			s.Value = &e.Value
		}
		out = append(out, s)
	}
	return out
}
