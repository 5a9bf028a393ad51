// Package meta is the cluster's metadata: an immutable image, and the commands of the controller's log that turn one
// image into the next. Pure: no clock, no randomness, no I/O.
package meta

import (
	"encoding/hex"
	"fmt"
	"slices"
)

// TopicID is a topic's UUID.
type TopicID [16]byte

// String is the UUID in its usual form.
func (t TopicID) String() string {
	h := hex.EncodeToString(t[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Broker is one registered broker. Addresses are those of its last registration.
type Broker struct {
	ID          int32
	Incarnation uint64 // made with the data dir: another one is another disk
	Rack        string
	Version     string
	ClusterAddr string
	Listeners   []Listener
	Fenced      bool // registered, not alive (as the controller sees it)
}

// Listener is an advertised Kafka address.
type Listener struct {
	Name string
	Host string
	Port int32
}

// Replica is one replica of a partition: broker, id never given twice, and the disk it was made for.
type Replica struct {
	Node        int32
	ID          uint64
	Incarnation uint64
}

// String is the replica's Raft address, "<node>/<id>".
func (r Replica) String() string { return fmt.Sprintf("%d/%d", r.Node, r.ID) }

// Partition is the target of its replica set. Leadership is not here: leaders announce themselves.
type Partition struct {
	ID       int32
	Replicas []Replica // preferred leader first
	// Initial is the creation record: the group bootstraps with exactly these voters, on the disks named here, and a
	// replica that is not among them starts as a learner (safety rule 1). It never changes. Shares Replicas' array
	// while Created.
	Initial []Replica
	Created bool // Replicas still are those of the creation record
	// Removing are replicas that are no longer wanted but may still be in the group's Raft configuration. Only when the
	// leader has taken one out (ReplicasRemoved) does it leave this list, and only then may its broker delete it: a
	// replica that went earlier would still count for the majority. Incarnation 0: it was lost, and only waits to be
	// taken out.
	Removing []Replica
	Epoch    int32 // bumped with each change of Replicas, and by the choice of a replica
	// Recovery is the choice of the replica from which the partition goes on alone (safety rule 13), while that one has
	// not said that it is ready; nil: none. Losses counts the choices that were carried out, Loss is the last of them.
	Recovery *Recovery
	Losses   int32
	Loss     *Loss
}

// Recovery is a choice under way. Immutable.
type Recovery struct {
	Replica uint64
	Term    uint64 // of the configuration that it writes: above all that were seen
	Last    LogEnd // of its log when it was chosen
	Loss    Loss
}

// LogEnd is the term and index of a log's last entry.
type LogEnd struct{ Term, Index uint64 }

// Before says that another log reaches further.
func (l LogEnd) Before(o LogEnd) bool {
	return l.Term < o.Term || l.Term == o.Term && l.Index < o.Index
}

// Loss describes a data-loss event: what the partition went on without. Times are ms since 1970.
type Loss struct {
	Node    int32 // of the chosen replica
	Replica uint64
	At      int64
	LogEnd  int64 // what the chosen log lacks begins at this offset
	Known   int64 // the highest offset that is known to have been acknowledged; records from LogEnd to it are lost. -1: none is known
	// Since bounds what may be lost beyond Known: everything acknowledged before is in the chosen log. 0: not known.
	Since int64
	// Unheard is how many voters were not heard: an operator decided without them.
	Unheard int32
}

// InitialReplica says whether a replica is one the group is bootstrapped with.
func (p *Partition) InitialReplica(id uint64) bool {
	return slices.ContainsFunc(p.Initial, func(r Replica) bool { return r.ID == id })
}

// OnNode is the partition's replica on a broker.
func (p *Partition) OnNode(node int32) (Replica, bool) {
	for _, r := range p.Replicas {
		if r.Node == node {
			return r, true
		}
	}
	return Replica{}, false
}

// Find is the replica with this id, wanted or still being removed.
func (p *Partition) Find(id uint64) (r Replica, removing, ok bool) {
	for _, r := range p.Replicas {
		if r.ID == id {
			return r, false, true
		}
	}
	for _, r := range p.Removing {
		if r.ID == id {
			return r, true, true
		}
	}
	return Replica{}, false, false
}

// Topic with its partitions (index = id) and configuration overrides.
type Topic struct {
	ID         TopicID
	Name       string
	Internal   bool
	Configs    map[string]string
	Partitions []Partition
}

// Image is one version of the metadata. Never changed after it was published: images share what did not change, so a
// topic or broker whose pointer is the same is the same.
type Image struct {
	Version        uint64 // index of the last command in the controller's log, also of a refused one
	ClusterID      string
	Brokers        map[int32]*Broker
	Topics         map[string]*Topic
	TopicsByID     map[TopicID]*Topic
	ClusterConfig  map[string]string           // cluster-wide dynamic broker configs
	BrokerConfig   map[int32]map[string]string // per broker
	NextReplicaID  uint64                      // >= 1 and < 1<<63: above are the controller group's own
	NextProducerID int64
	PartitionCount int // over all topics
}

// NewImage is the metadata before the first command.
func NewImage() *Image {
	return &Image{
		Brokers:       map[int32]*Broker{},
		Topics:        map[string]*Topic{},
		TopicsByID:    map[TopicID]*Topic{},
		ClusterConfig: map[string]string{},
		BrokerConfig:  map[int32]map[string]string{},
		NextReplicaID: 1,
	}
}

// Unfenced says whether a broker is registered and alive as the controller sees it.
func (i *Image) Unfenced(id int32) bool {
	b := i.Brokers[id]
	return b != nil && !b.Fenced
}

// Lookup finds a partition.
func (i *Image) Lookup(t TopicID, p int32) (*Topic, *Partition, bool) {
	topic := i.TopicsByID[t]
	if topic == nil || p < 0 || int(p) >= len(topic.Partitions) {
		return nil, nil, false
	}
	return topic, &topic.Partitions[p], true
}
