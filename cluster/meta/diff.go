package meta

import (
	"maps"
	"slices"
)

// Delta is what differs between two images. A topic that was deleted and made again under its name is removed and
// added: it has another ID.
type Delta struct {
	Brokers       []int32 // registered, changed or removed, by id
	Added         []*Topic
	Removed       []*Topic
	Changed       []TopicChange
	ClusterConfig bool
	BrokerConfigs []int32
}

// TopicChange is a topic in both images.
type TopicChange struct {
	Old, New   *Topic
	Configs    bool
	Partitions []int32 // new, or with other replicas
}

// Empty says that nothing differs but the version.
func (d *Delta) Empty() bool {
	return len(d.Brokers) == 0 && len(d.Added) == 0 && len(d.Removed) == 0 && len(d.Changed) == 0 &&
		!d.ClusterConfig && len(d.BrokerConfigs) == 0
}

// Diff compares two images; old nil: all is new. Images that grew from one another share what is the same, so it costs
// a pointer comparison for each topic and broker, and more only for those that changed. Lists are sorted (topics by
// name).
func Diff(old, next *Image) Delta {
	var d Delta
	if old == next {
		return d
	}
	if old == nil {
		old = NewImage()
	}
	for id, b := range next.Brokers {
		if o := old.Brokers[id]; o != b && !sameBroker(o, b) {
			d.Brokers = append(d.Brokers, id)
		}
	}
	for id := range old.Brokers {
		if next.Brokers[id] == nil {
			d.Brokers = append(d.Brokers, id)
		}
	}
	slices.Sort(d.Brokers)
	for id, t := range next.TopicsByID {
		o := old.TopicsByID[id]
		if o == t {
			continue
		}
		if o == nil {
			d.Added = append(d.Added, t)
		} else if c, differ := diffTopic(o, t); differ {
			d.Changed = append(d.Changed, c)
		}
	}
	for id, t := range old.TopicsByID {
		if next.TopicsByID[id] == nil {
			d.Removed = append(d.Removed, t)
		}
	}
	byName := func(a, b *Topic) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}
	slices.SortFunc(d.Added, byName)
	slices.SortFunc(d.Removed, byName)
	slices.SortFunc(d.Changed, func(a, b TopicChange) int { return byName(a.New, b.New) })
	d.ClusterConfig = !maps.Equal(old.ClusterConfig, next.ClusterConfig)
	for id, c := range next.BrokerConfig {
		if !maps.Equal(old.BrokerConfig[id], c) {
			d.BrokerConfigs = append(d.BrokerConfigs, id)
		}
	}
	for id := range old.BrokerConfig {
		if next.BrokerConfig[id] == nil {
			d.BrokerConfigs = append(d.BrokerConfigs, id)
		}
	}
	slices.Sort(d.BrokerConfigs)
	return d
}

func sameBroker(a, b *Broker) bool {
	return a != nil && a.ID == b.ID && a.Incarnation == b.Incarnation && a.Rack == b.Rack && a.Version == b.Version &&
		a.ClusterAddr == b.ClusterAddr && a.Fenced == b.Fenced && slices.Equal(a.Listeners, b.Listeners)
}

func diffTopic(o, t *Topic) (c TopicChange, differ bool) {
	c = TopicChange{Old: o, New: t, Configs: !maps.Equal(o.Configs, t.Configs)}
	for i := range t.Partitions {
		if i >= len(o.Partitions) || !samePartition(&o.Partitions[i], &t.Partitions[i]) {
			c.Partitions = append(c.Partitions, int32(i))
		}
	}
	return c, c.Configs || len(c.Partitions) > 0
}

func samePartition(a, b *Partition) bool {
	return a.Epoch == b.Epoch && a.Created == b.Created && slices.Equal(a.Replicas, b.Replicas) && slices.Equal(a.Removing, b.Removing)
}
