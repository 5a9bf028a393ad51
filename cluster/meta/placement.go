package meta

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Policy is what the configuration of the deciding broker says about new topics; zero values are replaced by defaults.
type Policy struct {
	DefaultPartitions        int32 // 1
	DefaultReplicationFactor int16 // 1
	MaxTopics                int   // 10,000
	MaxPartitionsPerTopic    int   // 10,000
	MaxPartitions            int   // 100,000, in the cluster
}

func (p Policy) withDefaults() Policy {
	p.DefaultPartitions = cmp.Or(p.DefaultPartitions, 1)
	p.DefaultReplicationFactor = cmp.Or(p.DefaultReplicationFactor, 1)
	p.MaxTopics = cmp.Or(p.MaxTopics, 10_000)
	p.MaxPartitionsPerTopic = cmp.Or(p.MaxPartitionsPerTopic, 10_000)
	p.MaxPartitions = cmp.Or(p.MaxPartitions, 100_000)
	return p
}

// TopicSpec asks for a topic. Partitions or ReplicationFactor -1: the defaults. Assignment (partition to brokers), when
// set, wins, and then both must be -1.
type TopicSpec struct {
	Name              string
	Partitions        int32
	ReplicationFactor int16
	Assignment        map[int32][]int32
	Configs           map[string]string
}

// ValidateCreate checks a request and decides on which brokers its replicas go, preferred leader first. alive says who
// is alive (nil: the image's unfenced brokers). It changes nothing: for validate_only it is all there is to do.
// Settings are not its business beyond their limits.
func ValidateCreate(img *Image, spec TopicSpec, alive func(int32) bool, policy Policy) ([][]int32, error) {
	policy = policy.withDefaults()
	if alive == nil {
		alive = img.Unfenced
	}
	if err := img.checkNewName(spec.Name); err != nil {
		return nil, err
	}
	if len(img.Topics) >= policy.MaxTopics {
		return nil, refuse(kerr.PolicyViolation, "the cluster has %d topics, the limit is %d", len(img.Topics), policy.MaxTopics)
	}
	if err := checkConfigs(spec.Configs); err != nil {
		return nil, err
	}
	count, factor := int(spec.Partitions), int(spec.ReplicationFactor)
	if len(spec.Assignment) > 0 {
		if count != -1 || factor != -1 {
			return nil, refuse(kerr.InvalidRequest, "a topic with an assignment takes neither a number of partitions nor a replication factor")
		}
		count = len(spec.Assignment)
	} else if count == -1 {
		count = int(policy.DefaultPartitions)
	}
	if factor == -1 {
		factor = int(policy.DefaultReplicationFactor)
	}
	if count <= 0 {
		return nil, refuse(kerr.InvalidPartitions, "Number of partitions must be larger than 0.")
	}
	if err := img.checkGrowth(spec.Name, 0, count, policy.MaxPartitionsPerTopic, policy.MaxPartitions); err != nil {
		return nil, err
	}
	if len(spec.Assignment) == 0 {
		return Place(img, count, factor, alive)
	}
	parts := make([][]int32, count)
	for i := range parts {
		nodes, ok := spec.Assignment[int32(i)]
		if !ok {
			return nil, refuse(kerr.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence: %d is missing", i)
		}
		parts[i] = slices.Clone(nodes)
	}
	return parts, img.checkAssignment(parts, len(parts[0]), alive)
}

// ValidateGrow does the same for new partitions of a topic: count is how many it is to have in the end.
func ValidateGrow(img *Image, topic string, count int32, assignment [][]int32, alive func(int32) bool, policy Policy) ([][]int32, error) {
	policy = policy.withDefaults()
	if alive == nil {
		alive = img.Unfenced
	}
	t := img.Topics[topic]
	if t == nil {
		return nil, refuse(kerr.UnknownTopicOrPartition, "there is no topic %.300q", topic)
	}
	have := len(t.Partitions)
	more := int(count) - have
	switch {
	case more == 0:
		return nil, refuse(kerr.InvalidPartitions, "Topic already has %d partition(s).", have)
	case more < 0:
		return nil, refuse(kerr.InvalidPartitions, "The topic %s currently has %d partition(s); %d would not be an increase.", topic, have, count)
	}
	if err := img.checkGrowth(topic, have, more, policy.MaxPartitionsPerTopic, policy.MaxPartitions); err != nil {
		return nil, err
	}
	factor := len(t.Partitions[0].Replicas)
	if len(assignment) == 0 {
		return Place(img, more, factor, alive)
	}
	if len(assignment) != more {
		return nil, refuse(kerr.InvalidReplicaAssignment, "Attempted to add %d additional partition(s), but only %d assignment(s) were specified.", more, len(assignment))
	}
	parts := make([][]int32, more)
	for i, nodes := range assignment {
		parts[i] = slices.Clone(nodes)
	}
	return parts, img.checkAssignment(parts, factor, alive)
}

// checkAssignment checks replicas that were chosen by hand.
func (i *Image) checkAssignment(parts [][]int32, factor int, alive func(int32) bool) error {
	for p, nodes := range parts {
		if err := i.checkNodes(nodes); err != nil {
			return err
		}
		if len(nodes) != factor {
			return refuse(kerr.InvalidReplicaAssignment, "The manual partition assignment includes a partition with %d replica(s), but this is not consistent with previous partitions, which have %d replica(s).", len(nodes), factor)
		}
		living := 0
		for _, n := range nodes {
			if alive(n) {
				living++
			}
		}
		if living <= len(nodes)/2 {
			return refuse(kerr.InvalidReplicaAssignment, "partition %d of the assignment has %d of %d brokers alive: it could have no leader", p, living, len(nodes))
		}
	}
	return nil
}

// load is what a broker carries while replicas are placed.
type load struct {
	id       int32
	rack     string
	alive    bool
	replicas int
	leaders  int
}

// Place chooses the brokers of count new partitions. Every partition is spread over as many racks as there are, then
// replicas and leaders (a partition's first replica) go where there are fewest, existing ones counted. Brokers that are
// not alive are taken only for want of others, never for a majority of a partition. Deterministic.
func Place(img *Image, count, factor int, alive func(int32) bool) ([][]int32, error) {
	if factor <= 0 || factor > HardMaxReplicas {
		return nil, refuse(kerr.InvalidReplicationFactor, "Replication factor must be between 1 and %d.", HardMaxReplicas)
	}
	loads, living := img.loads(alive)
	if len(loads) < factor || living <= factor/2 {
		return nil, refuse(kerr.InvalidReplicationFactor,
			"The target replication factor of %d cannot be reached because only %d broker(s) are registered, and %d of them are alive.", factor, len(loads), living)
	}
	parts := make([][]int32, count)
	for i := range parts {
		parts[i] = placeOne(loads, factor)
	}
	return parts, nil
}

// loads counts what every registered broker carries, by id.
func (i *Image) loads(alive func(int32) bool) (loads []load, living int) {
	at := make(map[int32]int, len(i.Brokers))
	for _, id := range slices.Sorted(maps.Keys(i.Brokers)) {
		l := load{id: id, rack: i.Brokers[id].Rack, alive: alive(id)}
		if l.alive {
			living++
		}
		at[id] = len(loads)
		loads = append(loads, l)
	}
	for _, t := range i.Topics {
		for p := range t.Partitions {
			for k, r := range t.Partitions[p].Replicas {
				if n, ok := at[r.Node]; ok {
					loads[n].replicas++
					if k == 0 {
						loads[n].leaders++
					}
				}
			}
		}
	}
	return loads, living
}

// placeOne takes the replicas of one partition and counts them. The leader goes where there are fewest leaders, each
// follower into the rack that has fewest replicas of this partition and there to the broker with fewest replicas. Ties go
// round the ring of brokers from the one before, so that two brokers do not always share their partitions.
func placeOne(loads []load, factor int) []int32 {
	nodes := make([]int32, 0, factor)
	taken := make([]bool, len(loads))
	racks := map[string]int{}
	last := len(loads) - 1
	for range factor {
		best, bestCost := -1, [4]int{math.MaxInt}
		for k := range loads {
			n := (last + 1 + k) % len(loads)
			if taken[n] {
				continue
			}
			l := &loads[n]
			cost := [4]int{0, racks[l.rack], l.replicas, l.leaders}
			if len(nodes) == 0 {
				cost = [4]int{0, l.leaders, l.replicas, 0}
			}
			if !l.alive {
				cost[0] = 1
			}
			if best < 0 || slices.Compare(cost[:], bestCost[:]) < 0 {
				best, bestCost = n, cost
			}
		}
		l := &loads[best]
		if len(nodes) == 0 {
			l.leaders++
		}
		l.replicas++
		taken[best] = true
		racks[l.rack]++
		last = best
		nodes = append(nodes, l.id)
	}
	return nodes
}
