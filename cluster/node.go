// Package cluster makes one broker a member of the cluster: membership, the controller group and its metadata, the
// replicas that live here, who leads what, and fast failover.
package cluster

import (
	"context"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/partition"
)

// Node is this broker's part of the cluster.
type Node struct{}

// Leader of a partition as its leader announced it (highest epoch wins).
type Leader struct {
	Node  int32
	Epoch int32
}

// TopicSpec asks for a topic. Partitions or ReplicationFactor -1: the defaults. Assignment, when set, wins.
type TopicSpec struct {
	Name              string
	Partitions        int32
	ReplicationFactor int16
	Assignment        map[int32][]int32
	Configs           map[string]string
}

// Self is this broker's id.
func (n *Node) Self() int32 { panic("todo") }

// Image is the newest metadata this broker has; Controller is -1 when there is none.
func (n *Node) Image() *meta.Image { panic("todo") }
func (n *Node) Controller() int32  { panic("todo") }

// Alive says whether gossip holds a broker for alive.
func (n *Node) Alive(id int32) bool { panic("todo") }

// Partition is the local replica, if there is one and it is open.
func (n *Node) Partition(t meta.TopicID, p int32) (*partition.Partition, bool) { panic("todo") }

// Leader of a partition; ok false when none is known.
func (n *Node) Leader(t meta.TopicID, p int32) (Leader, bool) { panic("todo") }

// InSync are the in-sync replicas as the leader last announced them.
func (n *Node) InSync(t meta.TopicID, p int32) []int32 { panic("todo") }

// Administrative requests, forwarded to the controller. Each returns one error per item (nil: done); a *meta.Error
// carries the Kafka error code and a message. CreateTopics returns when every partition has a leader that all live
// brokers know, or with ctx's error.
func (n *Node) CreateTopics(ctx context.Context, specs []TopicSpec, validateOnly bool) ([]*meta.Topic, []error) {
	panic("todo")
}
func (n *Node) DeleteTopics(ctx context.Context, ids []meta.TopicID) []error { panic("todo") }
func (n *Node) CreatePartitions(ctx context.Context, topic string, count int32, assignment [][]int32, validateOnly bool) error {
	panic("todo")
}

// AlterConfigs replaces (nil value: removes) keys. Resource is a topic name, a broker id ("1"), or "" for the cluster.
func (n *Node) AlterConfigs(ctx context.Context, resourceType int8, resource string, set map[string]*string, replaceAll bool) error {
	panic("todo")
}

// ProducerIDs allocates a block of producer ids: [first, first+count).
func (n *Node) ProducerIDs(ctx context.Context) (first int64, count int, err error) { panic("todo") }
