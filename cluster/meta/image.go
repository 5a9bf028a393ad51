// Package meta is the cluster's metadata: an immutable image, and the commands of the controller's log that turn one
// image into the next. Pure: no clock, no randomness, no I/O.
package meta

// TopicID is a topic's UUID.
type TopicID [16]byte

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

// Partition is the target of its replica set. Leadership is not here: leaders announce themselves.
type Partition struct {
	ID       int32
	Replicas []Replica // preferred leader first
	Created  bool      // has been created with these replicas as first voters (bootstrap); false: learners
	Epoch    int32     // bumped with each change of Replicas
}

// Topic with its partitions and configuration overrides.
type Topic struct {
	ID         TopicID
	Name       string
	Internal   bool
	Configs    map[string]string
	Partitions []Partition
}

// Image is one version of the metadata. Never changed after it was published.
type Image struct {
	Version        uint64 // index of the controller's log
	ClusterID      string
	Brokers        map[int32]*Broker
	Topics         map[string]*Topic
	TopicsByID     map[TopicID]*Topic
	ClusterConfig  map[string]string           // cluster-wide dynamic broker configs
	BrokerConfig   map[int32]map[string]string // per broker
	NextReplicaID  uint64
	NextProducerID int64
}
