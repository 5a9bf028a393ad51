package meta

import (
	"maps"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Hard limits, the same on every broker of every configuration: Apply is deterministic. The configured ones (Policy) are
// lower, and checked where the request is decided.
const (
	HardMaxTopics             = 200_000
	HardMaxPartitionsPerTopic = 100_000
	HardMaxPartitions         = 1_000_000
	HardMaxReplicas           = 15 // of a partition
	MaxConfigs                = 256
	maxConfigLength           = 32 << 10
	maxStringLength           = 1024
	maxListeners              = 32
	maxBrokers                = 10_000
)

// Apply makes the next image from one command of the log, whose index becomes the image's version. A command that the
// metadata refuses gives a *Error, and an image in which only the version differs. img is not changed.
func Apply(img *Image, index uint64, c Command) (next *Image, result any, err error) {
	e := newEdit(img)
	result, err = e.apply(index, c)
	return e.img, result, err
}

// Batch applies commands one after another, copying what they touch only once; done is called with each result.
func Batch(img *Image, indexes []uint64, cs []Command, done func(i int, result any, err error)) *Image {
	e := newEdit(img)
	for i, c := range cs {
		result, err := e.apply(indexes[i], c)
		done(i, result, err)
	}
	return e.img
}

// edit is an image in the making: its maps are the old image's until they are written to.
type edit struct {
	img                            *Image
	ownBrokers, ownTopics, ownConf bool
}

func newEdit(img *Image) *edit {
	next := *img
	return &edit{img: &next}
}

func (e *edit) apply(index uint64, c Command) (any, error) {
	e.img.Version = index
	return c.apply(e)
}

func (e *edit) putBroker(b *Broker) {
	if !e.ownBrokers {
		e.img.Brokers, e.ownBrokers = maps.Clone(e.img.Brokers), true
	}
	e.img.Brokers[b.ID] = b
}

func (e *edit) copyTopics() {
	if !e.ownTopics {
		e.img.Topics, e.img.TopicsByID, e.ownTopics = maps.Clone(e.img.Topics), maps.Clone(e.img.TopicsByID), true
	}
}

// putTopic adds or replaces a topic. The partition count is kept by those who change it.
func (e *edit) putTopic(t *Topic) {
	e.copyTopics()
	e.img.Topics[t.Name] = t
	e.img.TopicsByID[t.ID] = t
}

// newReplica takes the next replica id. The broker is registered: the caller has checked.
func (e *edit) newReplica(node int32) Replica {
	r := Replica{Node: node, ID: e.img.NextReplicaID, Incarnation: e.img.Brokers[node].Incarnation}
	e.img.NextReplicaID++
	return r
}

// newPartition makes the creation record of a partition.
func (e *edit) newPartition(id int32, nodes []int32) Partition {
	rs := make([]Replica, len(nodes))
	for i, n := range nodes {
		rs[i] = e.newReplica(n)
	}
	return Partition{ID: id, Replicas: rs, Initial: rs, Created: true}
}

// checkNodes checks the brokers of one partition.
func (i *Image) checkNodes(nodes []int32) error {
	if len(nodes) == 0 || len(nodes) > HardMaxReplicas {
		return refuse(kerr.InvalidReplicaAssignment, "a partition has 1 to %d replicas, not %d", HardMaxReplicas, len(nodes))
	}
	for k, n := range nodes {
		if i.Brokers[n] == nil {
			return refuse(kerr.InvalidReplicaAssignment, "broker %d is not registered", n)
		}
		if slices.Contains(nodes[:k], n) {
			return refuse(kerr.InvalidReplicaAssignment, "broker %d is named twice for one partition", n)
		}
	}
	return nil
}

func (i *Image) unknownTopic(id TopicID) error {
	return refuse(kerr.UnknownTopicID, "there is no topic with ID %s", id)
}

func (i *Image) unknownPartition(id TopicID, p int32) error {
	if t := i.TopicsByID[id]; t != nil {
		return refuse(kerr.UnknownTopicOrPartition, "topic %s has no partition %d", t.Name, p)
	}
	return i.unknownTopic(id)
}

func (c SetClusterID) apply(e *edit) (any, error) {
	switch {
	case c.ClusterID == "" || len(c.ClusterID) > maxStringLength:
		return nil, refuse(kerr.InvalidRequest, "a cluster ID has 1 to %d characters", maxStringLength)
	case e.img.ClusterID != "" && e.img.ClusterID != c.ClusterID:
		return nil, refuse(kerr.InconsistentClusterID, "the cluster ID is %s and cannot become %s", e.img.ClusterID, c.ClusterID)
	}
	e.img.ClusterID = c.ClusterID
	return nil, nil
}

func (c CreateTopic) apply(e *edit) (any, error) {
	img := e.img
	if t := img.TopicsByID[c.ID]; t != nil && t.Name == c.Name {
		return t, nil // the same request again, after an answer that was lost
	}
	if err := img.checkNewName(c.Name); err != nil {
		return nil, err
	}
	if c.ID == (TopicID{}) || img.TopicsByID[c.ID] != nil {
		return nil, refuse(kerr.InvalidRequest, "topic ID %s is taken", c.ID)
	}
	if len(img.Topics) >= HardMaxTopics {
		return nil, refuse(kerr.PolicyViolation, "the cluster has %d topics, the limit is %d", len(img.Topics), HardMaxTopics)
	}
	if err := img.checkGrowth(c.Name, 0, len(c.Partitions), HardMaxPartitionsPerTopic, HardMaxPartitions); err != nil {
		return nil, err
	}
	for _, nodes := range c.Partitions {
		if err := img.checkNodes(nodes); err != nil {
			return nil, err
		}
	}
	if err := checkConfigs(c.Configs); err != nil {
		return nil, err
	}
	t := &Topic{ID: c.ID, Name: c.Name, Internal: c.Internal, Configs: c.Configs, Partitions: make([]Partition, len(c.Partitions))}
	if t.Configs == nil {
		t.Configs = map[string]string{}
	}
	for i, nodes := range c.Partitions {
		t.Partitions[i] = e.newPartition(int32(i), nodes)
	}
	e.putTopic(t)
	img.PartitionCount += len(t.Partitions)
	return t, nil
}

// checkGrowth checks that a topic of have partitions may get more.
func (i *Image) checkGrowth(name string, have, more, perTopic, perCluster int) error {
	switch {
	case more <= 0:
		return refuse(kerr.InvalidPartitions, "a topic has at least one partition")
	case have+more > perTopic:
		return refuse(kerr.InvalidPartitions, "topic %s would have %d partitions, the limit is %d", name, have+more, perTopic)
	case i.PartitionCount+more > perCluster:
		return refuse(kerr.PolicyViolation, "the cluster has %d partitions, %d more would exceed the limit of %d", i.PartitionCount, more, perCluster)
	}
	return nil
}

func (c DeleteTopic) apply(e *edit) (any, error) {
	t := e.img.TopicsByID[c.ID]
	if t == nil {
		return nil, e.img.unknownTopic(c.ID)
	}
	e.copyTopics()
	delete(e.img.Topics, t.Name)
	delete(e.img.TopicsByID, t.ID)
	e.img.PartitionCount -= len(t.Partitions)
	return t, nil
}

func (c CreatePartitions) apply(e *edit) (any, error) {
	t := e.img.TopicsByID[c.Topic]
	if t == nil {
		return nil, e.img.unknownTopic(c.Topic)
	}
	if c.already(t) {
		return t, nil
	}
	if int(c.From) != len(t.Partitions) {
		return nil, refuse(kerr.InvalidPartitions, "topic %s has %d partitions, not %d: another request changed it", t.Name, len(t.Partitions), c.From)
	}
	if err := e.img.checkGrowth(t.Name, len(t.Partitions), len(c.Partitions), HardMaxPartitionsPerTopic, HardMaxPartitions); err != nil {
		return nil, err
	}
	for _, nodes := range c.Partitions {
		if err := e.img.checkNodes(nodes); err != nil {
			return nil, err
		}
	}
	next := *t
	next.Partitions = slices.Grow(slices.Clone(t.Partitions), len(c.Partitions))
	for _, nodes := range c.Partitions {
		next.Partitions = append(next.Partitions, e.newPartition(int32(len(next.Partitions)), nodes))
	}
	e.putTopic(&next)
	e.img.PartitionCount += len(c.Partitions)
	return &next, nil
}

// already says that this very request was applied before, and its answer lost.
func (c CreatePartitions) already(t *Topic) bool {
	if len(c.Partitions) == 0 || c.From < 0 || len(t.Partitions) != int(c.From)+len(c.Partitions) {
		return false
	}
	for i, nodes := range c.Partitions {
		initial := t.Partitions[int(c.From)+i].Initial
		if !slices.EqualFunc(initial, nodes, func(r Replica, n int32) bool { return r.Node == n }) {
			return false
		}
	}
	return true
}

func (c AllocateProducerIDs) apply(e *edit) (any, error) {
	if e.img.NextProducerID > math.MaxInt64-ProducerIDBlock {
		return nil, refuse(kerr.UnknownServerError, "there are no producer ids left")
	}
	ids := ProducerIDs{First: e.img.NextProducerID, Count: ProducerIDBlock}
	e.img.NextProducerID += ProducerIDBlock
	return ids, nil
}

func checkConfigs(m map[string]string) error {
	if len(m) > MaxConfigs {
		return refuse(kerr.InvalidConfig, "%d settings, the limit is %d", len(m), MaxConfigs)
	}
	// In the order of the keys: the message is part of a replicated result.
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k == "" || len(k) > maxStringLength || len(m[k]) > maxConfigLength {
			return refuse(kerr.InvalidConfig, "setting %.100q: the name or the value is empty or too long", k)
		}
	}
	return nil
}

// changed applies set to m, which stays as it is.
func changed(m map[string]string, set map[string]*string, replaceAll bool) (map[string]string, error) {
	next := map[string]string{}
	if !replaceAll {
		maps.Copy(next, m)
	}
	for k, v := range set {
		if v == nil {
			delete(next, k)
		} else {
			next[k] = *v
		}
	}
	return next, checkConfigs(next)
}

func (c SetTopicConfigs) apply(e *edit) (any, error) {
	t := e.img.TopicsByID[c.Topic]
	if t == nil {
		return nil, e.img.unknownTopic(c.Topic)
	}
	configs, err := changed(t.Configs, c.Set, c.ReplaceAll)
	if err != nil {
		return nil, err
	}
	if !maps.Equal(configs, t.Configs) {
		next := *t
		next.Configs = configs
		e.putTopic(&next)
	}
	return nil, nil
}

func (c SetBrokerConfigs) apply(e *edit) (any, error) {
	if c.Node < -1 {
		return nil, refuse(kerr.InvalidRequest, "there is no broker %d", c.Node)
	}
	if c.Node == -1 {
		configs, err := changed(e.img.ClusterConfig, c.Set, c.ReplaceAll)
		if err != nil {
			return nil, err
		}
		e.img.ClusterConfig = configs
		return nil, nil
	}
	if e.img.Brokers[c.Node] == nil {
		return nil, refuse(kerr.BrokerIDNotRegistered, "broker %d is not registered", c.Node)
	}
	configs, err := changed(e.img.BrokerConfig[c.Node], c.Set, c.ReplaceAll)
	if err != nil {
		return nil, err
	}
	if !e.ownConf {
		e.img.BrokerConfig, e.ownConf = maps.Clone(e.img.BrokerConfig), true
	}
	if len(configs) == 0 {
		delete(e.img.BrokerConfig, c.Node)
	} else {
		e.img.BrokerConfig[c.Node] = configs
	}
	return nil, nil
}
