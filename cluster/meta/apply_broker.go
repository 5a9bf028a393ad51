package meta

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

func (c RegisterBroker) apply(e *edit) (any, error) {
	b := c.Broker
	b.Fenced = false
	if err := checkBroker(&b); err != nil {
		return nil, err
	}
	old := e.img.Brokers[b.ID]
	if old == nil {
		if len(e.img.Brokers) >= maxBrokers {
			return nil, refuse(kerr.PolicyViolation, "the cluster has %d brokers, the limit is %d", len(e.img.Brokers), maxBrokers)
		}
		e.putBroker(&b)
		return nil, nil
	}
	if old.Incarnation != b.Incarnation && !old.Fenced {
		return nil, refuse(kerr.DuplicateBrokerRegistration,
			"broker id %d is taken: by incarnation %016x at %s, which is alive; incarnation %016x at %s is refused",
			b.ID, old.Incarnation, old.ClusterAddr, b.Incarnation, b.ClusterAddr)
	}
	if !sameBroker(old, &b) {
		e.putBroker(&b)
	}
	if old.Incarnation != b.Incarnation {
		e.replaceDisk(b.ID)
	}
	return nil, nil
}

func checkBroker(b *Broker) error {
	if b.ID < 0 || b.Incarnation == 0 || b.Incarnation >= 1<<63 {
		return refuse(kerr.InvalidRequest, "broker id %d, incarnation %016x: the id is at least 0, the incarnation is 1 to 2^63-1", b.ID, b.Incarnation)
	}
	if len(b.Listeners) > maxListeners || len(b.Rack) > maxStringLength || len(b.Version) > maxStringLength || len(b.ClusterAddr) > maxStringLength {
		return refuse(kerr.InvalidRequest, "the registration of broker %d is too large", b.ID)
	}
	for _, l := range b.Listeners {
		if len(l.Name) > maxStringLength || len(l.Host) > maxStringLength || l.Port < 0 || l.Port > 65535 {
			return refuse(kerr.InvalidRequest, "broker %d has a bad listener %.100q", b.ID, l.Name)
		}
	}
	return nil
}

// replaceDisk gives every replica on the broker that was made for another disk a successor, which starts empty as a
// learner. In the order of topic names: replica ids are allocated.
func (e *edit) replaceDisk(node int32) {
	incarnation := e.img.Brokers[node].Incarnation
	for _, name := range slices.Sorted(maps.Keys(e.img.Topics)) {
		t := e.img.Topics[name]
		var next *Topic
		for i := range t.Partitions {
			r, ok := t.Partitions[i].OnNode(node)
			if !ok || r.Incarnation == incarnation {
				continue
			}
			if next == nil {
				c := *t
				c.Partitions = slices.Clone(t.Partitions)
				next = &c
			}
			next.Partitions[i] = e.succeed(next.Partitions[i], r)
		}
		if next != nil {
			e.putTopic(next)
		}
	}
}

// succeed is the partition with a new replica in old's place.
func (e *edit) succeed(p Partition, old Replica) Partition {
	p.Replicas = slices.Clone(p.Replicas)
	p.Replicas[slices.Index(p.Replicas, old)] = e.newReplica(old.Node)
	if p.Recovery != nil && p.Recovery.Replica == old.ID {
		p.Recovery = nil // gone before it was ready: to be chosen anew
	}
	old.Incarnation = 0 // lost: never taken back
	p.Removing = append(slices.Clip(p.Removing), old)
	p.Created = false
	p.Epoch++
	return p
}

// sameBroker finds the broker a fencing command is about.
func (i *Image) sameBroker(id int32, incarnation uint64) (*Broker, error) {
	b := i.Brokers[id]
	if b == nil {
		return nil, refuse(kerr.BrokerIDNotRegistered, "broker %d is not registered", id)
	}
	if b.Incarnation != incarnation {
		return nil, refuse(kerr.StaleBrokerEpoch, "broker %d is registered with incarnation %016x, not %016x", id, b.Incarnation, incarnation)
	}
	return b, nil
}

func (e *edit) fence(id int32, incarnation uint64, fenced bool) error {
	b, err := e.img.sameBroker(id, incarnation)
	if err != nil {
		return err
	}
	if b.Fenced != fenced {
		next := *b
		next.Fenced = fenced
		e.putBroker(&next)
	}
	return nil
}

func (c FenceBroker) apply(e *edit) (any, error) { return nil, e.fence(c.ID, c.Incarnation, true) }

func (c UnfenceBroker) apply(e *edit) (any, error) { return nil, e.fence(c.ID, c.Incarnation, false) }

func (c RemoveBroker) apply(e *edit) (any, error) {
	if e.img.Brokers[c.ID] == nil {
		return nil, refuse(kerr.BrokerIDNotRegistered, "broker %d is not registered", c.ID)
	}
	count := 0
	for _, t := range e.img.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			onNode := func(r Replica) bool { return r.Node == c.ID }
			if slices.ContainsFunc(p.Replicas, onNode) || slices.ContainsFunc(p.Removing, onNode) {
				count++
			}
		}
	}
	if count > 0 {
		return nil, refuse(kerr.InvalidRequest, "broker %d still holds replicas of %d partitions", c.ID, count)
	}
	brokers := maps.Clone(e.img.Brokers)
	delete(brokers, c.ID)
	e.img.Brokers, e.ownBrokers = brokers, true
	if e.img.BrokerConfig[c.ID] != nil {
		configs := maps.Clone(e.img.BrokerConfig)
		delete(configs, c.ID)
		e.img.BrokerConfig, e.ownConf = configs, true
	}
	return nil, nil
}

// putPartition replaces one partition of a topic.
func (e *edit) putPartition(t *Topic, p Partition) {
	next := *t
	next.Partitions = slices.Clone(t.Partitions)
	next.Partitions[p.ID] = p
	e.putTopic(&next)
}

func (c SetReplicas) apply(e *edit) (any, error) {
	t, p, ok := e.img.Lookup(c.Topic, c.Partition)
	if !ok {
		return nil, e.img.unknownPartition(c.Topic, c.Partition)
	}
	if err := e.img.checkNodes(c.Nodes); err != nil {
		return nil, err
	}
	if slices.EqualFunc(p.Replicas, c.Nodes, func(r Replica, n int32) bool { return r.Node == n }) {
		return nil, nil
	}
	if err := p.checkEpoch(t, c.Epoch); err != nil {
		return nil, err
	}
	next := *p
	next.Replicas = make([]Replica, 0, len(c.Nodes))
	leaving := append(slices.Clone(p.Replicas), p.Removing...)
	for _, node := range c.Nodes {
		// A replica that is there, or on its way out, is kept; but not one that was lost.
		i := slices.IndexFunc(leaving, func(r Replica) bool {
			return r.Node == node && r.Incarnation == e.img.Brokers[node].Incarnation
		})
		if i < 0 {
			next.Replicas = append(next.Replicas, e.newReplica(node))
			continue
		}
		next.Replicas = append(next.Replicas, leaving[i])
		leaving = slices.Delete(leaving, i, i+1)
	}
	next.Removing = leaving
	next.Created = false
	next.Epoch++
	e.putPartition(t, next)
	return nil, nil
}

// checkEpoch refuses what was decided from another epoch; -1: from any.
func (p *Partition) checkEpoch(t *Topic, epoch int32) error {
	if epoch >= 0 && epoch != p.Epoch {
		return refuse(kerr.InvalidReplicaAssignment, "the replicas of %s-%d changed meanwhile (epoch %d, not %d)", t.Name, p.ID, p.Epoch, epoch)
	}
	return nil
}

func (c ReplaceReplica) apply(e *edit) (any, error) {
	t, p, ok := e.img.Lookup(c.Topic, c.Partition)
	if !ok {
		return nil, e.img.unknownPartition(c.Topic, c.Partition)
	}
	old, removing, ok := p.Find(c.ID)
	if !ok || removing {
		return nil, refuse(kerr.InvalidReplicaAssignment, "%s-%d has no replica %d", t.Name, p.ID, c.ID)
	}
	if err := p.checkEpoch(t, c.Epoch); err != nil {
		return nil, err
	}
	next := e.succeed(*p, old)
	e.putPartition(t, next)
	r, _ := next.OnNode(old.Node)
	return r, nil
}

func (c ReplicasRemoved) apply(e *edit) (any, error) {
	t, p, ok := e.img.Lookup(c.Topic, c.Partition)
	if !ok {
		return nil, e.img.unknownPartition(c.Topic, c.Partition)
	}
	gone := func(r Replica) bool { return slices.Contains(c.IDs, r.ID) }
	if !slices.ContainsFunc(p.Removing, gone) {
		return nil, nil
	}
	next := *p
	next.Removing = slices.DeleteFunc(slices.Clone(p.Removing), gone)
	e.putPartition(t, next)
	return nil, nil
}
