package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
)

// TopicSpec asks for a topic. Partitions or ReplicationFactor -1: the defaults. Assignment, when set, wins.
type TopicSpec struct {
	Name              string
	Partitions        int32
	ReplicationFactor int16
	Assignment        map[int32][]int32
	Configs           map[string]string
}

// CreateTopics and the other administrative requests are decided here on the newest image and proposed to the
// controller, wherever it is. Each returns one error per item (nil: done); a *meta.Error carries the Kafka error code
// and a message. CreateTopics returns when every partition has a leader that all live brokers know, or with ctx's
// error for those that have none yet (they exist all the same).
func (n *Node) CreateTopics(ctx context.Context, specs []TopicSpec, validateOnly bool) ([]*meta.Topic, []error) {
	topics := make([]*meta.Topic, len(specs))
	errs := make([]error, len(specs))
	var wg sync.WaitGroup
	var mu sync.Mutex // placements are decided one after another, each seeing the one before
	for i, s := range specs {
		wg.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			topics[i], errs[i] = n.createTopic(ctx, s, validateOnly)
		})
	}
	wg.Wait()
	if validateOnly {
		return topics, errs
	}
	for i, t := range topics {
		if errs[i] == nil {
			wg.Go(func() { errs[i] = n.waitLed(ctx, t) })
		}
	}
	wg.Wait()
	return topics, errs
}

// registrationGrace is how long a topic waits for brokers that are alive to be registered.
const registrationGrace = 2 * time.Second

func (n *Node) createTopic(ctx context.Context, s TopicSpec, validateOnly bool) (*meta.Topic, error) {
	img := n.Image()
	if err := config.ValidateTopic(s.Configs); err != nil {
		return nil, invalidConfig(err)
	}
	spec := meta.TopicSpec{
		Name: s.Name, Partitions: s.Partitions, ReplicationFactor: s.ReplicationFactor, Assignment: s.Assignment, Configs: s.Configs,
	}
	nodes, err := meta.ValidateCreate(img, spec, n.placeable(img), n.policy(img))
	for deadline := time.Now().Add(registrationGrace); errors.Is(err, meta.ErrInvalidFactor) && time.Now().Before(deadline); {
		// A broker that has just come may be alive here and not yet in this broker's image.
		if !slices.ContainsFunc(n.alive.list(), func(id int32) bool { return !img.Unfenced(id) }) || !sleep(ctx, 20*time.Millisecond) {
			break
		}
		img = n.Image()
		nodes, err = meta.ValidateCreate(img, spec, n.placeable(img), n.policy(img))
	}
	if err != nil {
		return nil, err
	}
	cmd := meta.CreateTopic{ID: meta.TopicID(uuid.New()), Name: s.Name, Partitions: nodes, Configs: s.Configs}
	if validateOnly {
		_, result, err := meta.Apply(img, img.Version+1, cmd)
		t, _ := result.(*meta.Topic)
		return t, err
	}
	result, err := n.ctl.Propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	t, ok := result.(*meta.Topic)
	if !ok {
		return nil, fmt.Errorf("cluster: the controller answered %T", result)
	}
	return t, nil
}

// placeable says which brokers are alive, both as the controller and as this broker sees it.
func (n *Node) placeable(img *meta.Image) func(int32) bool {
	return func(id int32) bool { return img.Unfenced(id) && n.alive.isAlive(id) }
}

// policy of new topics. A replication factor that nobody set is that of the cluster: the smaller of 3 and the brokers
// it was founded with or has.
func (n *Node) policy(img *meta.Image) meta.Policy {
	c := n.Config()
	p := meta.Policy{
		DefaultPartitions: c.NumPartitions(), DefaultReplicationFactor: c.DefaultReplicationFactor(),
		MaxTopics: c.MaxTopics(), MaxPartitions: c.MaxPartitions(), MaxPartitionsPerTopic: c.MaxPartitionsPerTopic(),
	}
	if p.DefaultReplicationFactor <= 0 {
		expect := n.opt.BootstrapExpect
		for _, m := range n.gossip.known() {
			expect = max(expect, m.Expect)
		}
		p.DefaultReplicationFactor = int16(min(3, max(1, expect, len(img.Brokers))))
	}
	return p
}

// waitLed returns when every partition of a topic has a leader that all live brokers know.
func (n *Node) waitLed(ctx context.Context, t *meta.Topic) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		waiting := n.unledAnywhere(ctx, t)
		if waiting == "" {
			return nil
		}
		if !sleep(ctx, wait) {
			return fmt.Errorf("cluster: topic %s was created, but %s: %w", t.Name, waiting, ctx.Err())
		}
	}
}

// unledAnywhere asks this broker, then every other, and says what is still missing.
func (n *Node) unledAnywhere(ctx context.Context, t *meta.Topic) string {
	if k := n.ledHere(t.ID, len(t.Partitions)); k < len(t.Partitions) {
		return fmt.Sprintf("only %d of its %d partitions have a leader", k, len(t.Partitions))
	}
	payload := binary.AppendUvarint(append([]byte(nil), t.ID[:]...), uint64(len(t.Partitions)))
	var mu sync.Mutex
	missing := ""
	var wg sync.WaitGroup
	for _, node := range n.alivePeers() {
		wg.Go(func() {
			cctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			b, err := n.call(cctx, node, kindConfirm, payload)
			r := reader{b: b}
			if k := r.uvarint(); err == nil && !r.bad && k >= uint64(len(t.Partitions)) || !n.alive.isAlive(node) {
				return
			}
			mu.Lock()
			missing = fmt.Sprintf("broker %d does not know all its leaders", node)
			mu.Unlock()
		})
	}
	wg.Wait()
	return missing
}

// ledHere counts the partitions of a topic whose leader this broker knows; 0 while it does not know the topic.
func (n *Node) ledHere(id meta.TopicID, partitions int) (count int) {
	t := n.Image().TopicsByID[id]
	if t == nil {
		return 0
	}
	for p := range min(partitions, len(t.Partitions)) {
		if _, ok := n.Leader(id, int32(p)); ok {
			count++
		}
	}
	return count
}

func (n *Node) answerConfirm(payload []byte) ([]byte, error) {
	r := reader{b: payload}
	var id meta.TopicID
	copy(id[:], r.bytes(16))
	count := r.uvarint()
	if r.bad || count > meta.HardMaxPartitionsPerTopic {
		return nil, errMalformed
	}
	return binary.AppendUvarint(nil, uint64(n.ledHere(id, int(count)))), nil
}

// DeleteTopics deletes topics by id.
func (n *Node) DeleteTopics(ctx context.Context, ids []meta.TopicID) []error {
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() { _, errs[i] = n.ctl.Propose(ctx, meta.DeleteTopic{ID: id}) })
	}
	wg.Wait()
	return errs
}

// CreatePartitions grows a topic to count partitions. Returns when the new ones have leaders that all live brokers
// know, or ctx ends.
func (n *Node) CreatePartitions(ctx context.Context, topic string, count int32, assignment [][]int32, validateOnly bool) error {
	img := n.Image()
	nodes, err := meta.ValidateGrow(img, topic, count, assignment, n.placeable(img), n.policy(img))
	if err != nil || validateOnly {
		return err
	}
	t := img.Topics[topic]
	result, err := n.ctl.Propose(ctx, meta.CreatePartitions{Topic: t.ID, From: int32(len(t.Partitions)), Partitions: nodes})
	if err != nil {
		return err
	}
	if grown, ok := result.(*meta.Topic); ok {
		return n.waitLed(ctx, grown)
	}
	return nil
}

// Kinds of resources, with Kafka's numbers.
const (
	ResourceTopic  int8 = 2
	ResourceBroker int8 = 4
)

// AlterConfigs replaces (nil value: removes) keys. Resource is a topic name, a broker id ("1"), or "" for the cluster.
func (n *Node) AlterConfigs(ctx context.Context, resourceType int8, resource string, set map[string]*string, replaceAll bool) error {
	img := n.Image()
	var cmd meta.Command
	switch resourceType {
	case ResourceTopic:
		t := img.Topics[resource]
		if t == nil {
			return meta.ErrUnknownTopic
		}
		if err := config.ValidateTopic(altered(t.Configs, set, replaceAll)); err != nil {
			return invalidConfig(err)
		}
		cmd = meta.SetTopicConfigs{Topic: t.ID, Set: set, ReplaceAll: replaceAll}
	case ResourceBroker:
		node := int32(-1)
		if resource != "" {
			id, err := strconv.ParseInt(resource, 10, 32)
			if err != nil || img.Brokers[int32(id)] == nil {
				return meta.ErrUnknownBroker
			}
			node = int32(id)
		}
		for k, v := range set {
			if v == nil {
				continue
			}
			if err := config.ValidateBroker(k, *v, node >= 0); err != nil {
				return invalidConfig(err)
			}
		}
		cmd = meta.SetBrokerConfigs{Node: node, Set: set, ReplaceAll: replaceAll}
	default:
		return &meta.Error{Code: meta.ErrInvalid.Code, Message: fmt.Sprintf("resource type %d has no configuration", resourceType)}
	}
	_, err := n.ctl.Propose(ctx, cmd)
	return err
}

func altered(old map[string]string, set map[string]*string, replaceAll bool) map[string]string {
	out := make(map[string]string)
	if !replaceAll {
		maps.Copy(out, old)
	}
	for k, v := range set {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = *v
		}
	}
	return out
}

const codeInvalidConfig = 40

func invalidConfig(err error) error {
	if e, ok := errors.AsType[*config.Error](err); ok {
		return &meta.Error{Code: codeInvalidConfig, Message: e.Error()}
	}
	return err
}

// ProducerIDs allocates a block of producer ids: [first, first+count).
func (n *Node) ProducerIDs(ctx context.Context) (first int64, count int, err error) {
	result, err := n.ctl.Propose(ctx, meta.AllocateProducerIDs{Node: n.self})
	if err != nil {
		return 0, 0, err
	}
	ids, ok := result.(meta.ProducerIDs)
	if !ok {
		return 0, 0, fmt.Errorf("cluster: the controller answered %T", result)
	}
	return ids.First, int(ids.Count), nil
}

// SetReplicas moves a partition to other brokers: the decision, which the partition's leader then carries out step by
// step. epoch is that of the metadata which it was taken from.
func (n *Node) SetReplicas(ctx context.Context, topic meta.TopicID, part, epoch int32, nodes []int32) error {
	_, err := n.ctl.Propose(ctx, meta.SetReplicas{Topic: topic, Partition: part, Epoch: epoch, Nodes: nodes})
	return err
}
