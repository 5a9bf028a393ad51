package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol"
)

// metaNode is the metadata without replicas: requests are decided and applied as the controller does it, at once.
type metaNode struct {
	mu     sync.Mutex
	img    *meta.Image
	nextID byte

	controller int32
	hang       bool // administrative requests wait for their context
}

func newMetaNode(brokers ...int32) *metaNode {
	n := &metaNode{img: meta.NewImage(), controller: 2}
	n.apply(meta.SetClusterID{ClusterID: "c1"})
	for _, id := range brokers {
		n.apply(meta.RegisterBroker{Broker: meta.Broker{ID: id, Incarnation: uint64(id) + 100, Rack: "r" + strconv.Itoa(int(id)), Listeners: []meta.Listener{
			{Name: "IN", Host: "in", Port: 1000 + id}, {Name: "OUT", Host: "out", Port: 2000 + id},
		}}})
	}
	return n
}

func (n *metaNode) apply(c meta.Command) (any, error) {
	next, result, err := meta.Apply(n.img, n.img.Version+1, c)
	n.img = next
	return result, err
}

func (n *metaNode) Self() int32         { return 1 }
func (n *metaNode) Controller() int32   { return n.controller }
func (n *metaNode) Alive(id int32) bool { return n.Image().Brokers[id] != nil }
func (n *metaNode) Image() *meta.Image {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.img
}

func (n *metaNode) Partition(meta.TopicID, int32) (*partition.Partition, bool) { return nil, false }
func (n *metaNode) Leader(meta.TopicID, int32) (cluster.Leader, bool)          { return cluster.Leader{}, false }
func (n *metaNode) InSync(meta.TopicID, int32) []int32                         { return nil }
func (n *metaNode) ProducerIDs(context.Context) (int64, int, error)            { return 0, 0, nil }

func (n *metaNode) wait(ctx context.Context) error {
	if n.hang {
		<-ctx.Done()
	}
	return ctx.Err()
}

func (n *metaNode) CreateTopics(ctx context.Context, specs []cluster.TopicSpec, validateOnly bool) ([]*meta.Topic, []error) {
	topics, errs := make([]*meta.Topic, len(specs)), make([]error, len(specs))
	err := n.wait(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, s := range specs {
		if errs[i] = err; err != nil {
			continue
		}
		parts, err := meta.ValidateCreate(n.img, meta.TopicSpec(s), nil, meta.Policy{DefaultPartitions: 3, DefaultReplicationFactor: 2})
		if err != nil || validateOnly {
			errs[i] = err
			continue
		}
		n.nextID++
		result, err := n.apply(meta.CreateTopic{ID: meta.TopicID{n.nextID}, Name: s.Name, Partitions: parts, Configs: s.Configs})
		if topics[i], errs[i] = nil, err; err == nil {
			topics[i] = result.(*meta.Topic)
		}
	}
	return topics, errs
}

func (n *metaNode) DeleteTopics(_ context.Context, ids []meta.TopicID) []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	errs := make([]error, len(ids))
	for i, id := range ids {
		_, errs[i] = n.apply(meta.DeleteTopic{ID: id})
	}
	return errs
}

func (n *metaNode) CreatePartitions(ctx context.Context, topic string, count int32, assignment [][]int32, validateOnly bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	parts, err := meta.ValidateGrow(n.img, topic, count, assignment, nil, meta.Policy{})
	if err != nil || validateOnly {
		return err
	}
	t := n.img.Topics[topic]
	_, err = n.apply(meta.CreatePartitions{Topic: t.ID, From: int32(len(t.Partitions)), Partitions: parts})
	return err
}

func (n *metaNode) AlterConfigs(_ context.Context, kind int8, name string, set map[string]*string, replaceAll bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if kind == int8(kmsg.ConfigResourceTypeTopic) {
		_, err := n.apply(meta.SetTopicConfigs{Topic: n.img.Topics[name].ID, Set: set, ReplaceAll: replaceAll})
		return err
	}
	node := int32(-1)
	if name != "" {
		id, _ := strconv.Atoi(name)
		node = int32(id)
	}
	_, err := n.apply(meta.SetBrokerConfigs{Node: node, Set: set, ReplaceAll: replaceAll})
	return err
}

// adminServer is a server over a metaNode, whose configuration follows the metadata as cli wires it.
func adminServer(t *testing.T, n *metaNode, static map[string]string) *Server {
	t.Helper()
	b, err := config.NewBroker(static)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Node: n, Config: func() *config.Broker {
		img := n.Image()
		dyn, err := b.With(img.ClusterConfig, img.BrokerConfig[1])
		if err != nil {
			t.Error(err)
		}
		return dyn
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// call sends a request through its encoding of that version, both ways, and the handler table.
func call[R kmsg.Response](t *testing.T, s *Server, req kmsg.Request, version int16) R {
	t.Helper()
	h := handlers[req.Key()]
	if h == nil || version < h.min || version > h.max {
		t.Fatalf("%T: no version %d", req, version)
	}
	req.SetVersion(version)
	frame := req.AppendTo(nil)
	got := kmsg.RequestForKey(req.Key())
	got.SetVersion(version)
	if err := got.(interface{ UnsafeReadFrom([]byte) error }).UnsafeReadFrom(frame); err != nil {
		t.Fatal(err)
	}
	resp, err := h.handle(s, &requestContext{ctx: t.Context(), listener: "OUT"}, got)
	if err != nil {
		t.Fatal(err)
	}
	clear(frame) // the frame goes back to the pool
	out := req.ResponseKind()
	out.SetVersion(version)
	if err := out.ReadFrom(resp.AppendTo(nil)); err != nil {
		t.Fatalf("%T version %d: %v", out, version, err)
	}
	return out.(R)
}

func newTopic(name string, partitions int32, factor int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, factor
	for i := 0; i+1 < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], &configs[i+1]
		t.Configs = append(t.Configs, c)
	}
	return t
}

func create(t *testing.T, s *Server, topics ...kmsg.CreateTopicsRequestTopic) []kmsg.CreateTopicsResponseTopic {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = topics
	return call[*kmsg.CreateTopicsResponse](t, s, req, 7).Topics
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}

func TestCreateTopicsAnswers(t *testing.T) {
	n := newMetaNode(1, 2, 3)
	s := adminServer(t, n, nil)
	create(t, s, newTopic("there", 1, 1), newTopic("a.b", 1, 1))
	manual := func(name string, partitions int32, factor int16, a map[int32][]int32) kmsg.CreateTopicsRequestTopic {
		mt := newTopic(name, partitions, factor)
		for _, p := range slices.Sorted(maps.Keys(a)) {
			mt.ReplicaAssignment = append(mt.ReplicaAssignment, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: p, Replicas: a[p]})
		}
		return mt
	}
	null := newTopic("null", 1, 1, "retention.ms", "")
	null.Configs[0].Value = nil
	twofold := manual("twofold", -1, -1, map[int32][]int32{0: {1}})
	twofold.ReplicaAssignment = append(twofold.ReplicaAssignment, twofold.ReplicaAssignment[0])
	for _, c := range []struct {
		topic kmsg.CreateTopicsRequestTopic
		code  int16
		msg   string
	}{
		{newTopic("ok", 4, 3), 0, ""},
		{newTopic("defaults", -1, -1), 0, ""},
		{newTopic("there", 1, 1), protocol.TopicAlreadyExists, "already exists"},
		{newTopic("a_b", 1, 1), protocol.InvalidTopicException, "collides"},
		{newTopic("sp ace", 1, 1), protocol.InvalidTopicException, "character"},
		{newTopic("", 1, 1), protocol.InvalidTopicException, "empty"},
		{newTopic(strings.Repeat("x", 250), 1, 1), protocol.InvalidTopicException, "249"},
		{newTopic("p0", 0, 1), protocol.InvalidPartitions, "non-positive"},
		{newTopic("p-2", -2, 1), protocol.InvalidPartitions, "non-positive"},
		{newTopic("r0", 1, 0), protocol.InvalidReplicationFactor, "larger than 0"},
		{newTopic("r4", 1, 4), protocol.InvalidReplicationFactor, "4 cannot be reached because only 3 broker(s)"},
		{newTopic("huge", maxPartitionsPerRequest+1, 1), protocol.PolicyViolation, "10000"},
		{newTopic("conf", 1, 1, "retention.ms", "soon"), protocol.InvalidConfig, "Not a number of type LONG"},
		{newTopic("conf", 1, 1, "no.such", "1"), protocol.InvalidConfig, "Unknown topic config name: no.such"},
		{newTopic("conf", 1, 1, "unclean.leader.election.enable", "true"), protocol.InvalidConfig, "only false"},
		{newTopic("conf", 1, 1, "flush.policy", "replicated", "retention.ms", "-1"), 0, ""},
		{null, protocol.InvalidConfig, "Null value"},
		{manual("m-ok", -1, -1, map[int32][]int32{0: {1, 2}, 1: {3, 1}}), 0, ""},
		{manual("m-n", 2, -1, map[int32][]int32{0: {1}}), protocol.InvalidRequest, "numPartitions"},
		{manual("m-r", -1, 2, map[int32][]int32{0: {1}}), protocol.InvalidRequest, "replication factor"},
		{manual("m-gap", -1, -1, map[int32][]int32{0: {1}, 2: {1}}), protocol.InvalidReplicaAssignment, "consecutive"},
		{manual("m-odd", -1, -1, map[int32][]int32{0: {1}, 1: {1, 2}}), protocol.InvalidReplicaAssignment, "not consistent"},
		{manual("m-self", -1, -1, map[int32][]int32{0: {1, 1}}), protocol.InvalidReplicaAssignment, "twice"},
		{manual("m-gone", -1, -1, map[int32][]int32{0: {9}}), protocol.InvalidReplicaAssignment, "not registered"},
		{twofold, protocol.InvalidReplicaAssignment, "multiple manual"},
	} {
		got := create(t, s, c.topic)[0]
		if got.ErrorCode != c.code || !strings.Contains(text(got.ErrorMessage), c.msg) || got.Topic != c.topic.Topic {
			t.Errorf("%s: %s %q, want %s %q", c.topic.Topic, protocol.ErrorName(got.ErrorCode), text(got.ErrorMessage), protocol.ErrorName(c.code), c.msg)
		}
		if c.code == 0 && (n.img.Topics[c.topic.Topic] == nil || got.TopicID != n.img.Topics[c.topic.Topic].ID || len(got.Configs) == 0) {
			t.Errorf("%s: not created, or not told: %+v", c.topic.Topic, got)
		}
	}
	if got := n.img.Topics["conf"].Configs; len(got) != 2 || got["flush.policy"] != "replicated" {
		t.Error("configs do not outlive the frame:", got)
	}
}

func TestCreateTopicsTogether(t *testing.T) {
	n := newMetaNode(1, 2, 3)
	s := adminServer(t, n, nil)
	got := create(t, s, newTopic("twice", 1, 1), newTopic("once", -1, -1), newTopic("twice", 2, 1))
	if len(got) != 2 || got[0].ErrorCode != protocol.InvalidRequest || got[1].ErrorCode != 0 || got[1].NumPartitions != 3 || got[1].ReplicationFactor != 2 {
		t.Errorf("%+v", got)
	}
	for version := int16(2); version <= 7; version++ {
		req := kmsg.NewPtrCreateTopicsRequest()
		req.ValidateOnly = true
		req.Topics = []kmsg.CreateTopicsRequestTopic{newTopic("only", 5, 1), newTopic("once", 1, 1)}
		got := call[*kmsg.CreateTopicsResponse](t, s, req, version).Topics
		if got[0].ErrorCode != 0 || got[1].ErrorCode != protocol.TopicAlreadyExists {
			t.Errorf("version %d: %+v", version, got)
		}
		if version >= 5 && (got[0].NumPartitions != 5 || got[0].ReplicationFactor != 1) || got[0].TopicID != (meta.TopicID{}) {
			t.Errorf("version %d: %+v", version, got[0])
		}
	}
	if n.img.Topics["only"] != nil {
		t.Error("validate_only created a topic")
	}
	n.hang = true
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 1
	req.Topics = []kmsg.CreateTopicsRequestTopic{newTopic("late", 1, 1)}
	if got := call[*kmsg.CreateTopicsResponse](t, s, req, 7).Topics[0]; got.ErrorCode != protocol.RequestTimedOut {
		t.Errorf("%+v", got)
	}
}

func TestDeleteTopics(t *testing.T) {
	n := newMetaNode(1)
	s := adminServer(t, n, nil)
	for i := range 6 {
		create(t, s, newTopic(fmt.Sprint("t", i), 1, 1))
	}
	id := func(name string) meta.TopicID { return n.img.Topics[name].ID }
	byName := func(name string) kmsg.DeleteTopicsRequestTopic { return kmsg.DeleteTopicsRequestTopic{Topic: &name} }
	t1 := id("t1")
	req := kmsg.NewPtrDeleteTopicsRequest()
	both := byName("t5")
	both.TopicID = id("t5")
	req.Topics = []kmsg.DeleteTopicsRequestTopic{
		byName("t0"),
		{TopicID: t1},
		byName("t2"),
		{TopicID: id("t2")},
		byName("t3"), byName("t3"),
		byName("none"),
		{TopicID: meta.TopicID{99}},
		{},
		both,
	}
	want := []int16{
		0, 0, protocol.InvalidRequest, protocol.InvalidRequest, protocol.InvalidRequest, protocol.InvalidRequest,
		protocol.UnknownTopicOrPartition, protocol.UnknownTopicID, protocol.InvalidRequest, protocol.InvalidRequest,
	}
	got := call[*kmsg.DeleteTopicsResponse](t, s, req, 6).Topics
	for i := range want {
		if got[i].ErrorCode != want[i] {
			t.Errorf("%d: %s %s", i, protocol.ErrorName(got[i].ErrorCode), text(got[i].ErrorMessage))
		}
	}
	if text(got[1].Topic) != "t1" || got[1].TopicID != t1 || n.img.Topics["t0"] != nil || n.img.Topics["t1"] != nil || n.img.Topics["t2"] == nil || n.img.Topics["t3"] == nil {
		t.Errorf("%+v", got[1])
	}
	for version := int16(1); version <= 5; version++ {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TopicNames = []string{"none", "none"}
		if got := call[*kmsg.DeleteTopicsResponse](t, s, req, version).Topics; len(got) != 2 || got[0].ErrorCode != protocol.InvalidRequest {
			t.Errorf("version %d: %+v", version, got)
		}
	}
	off := adminServer(t, n, map[string]string{"delete.topic.enable": "false"})
	req = kmsg.NewPtrDeleteTopicsRequest()
	req.Topics = []kmsg.DeleteTopicsRequestTopic{byName("t2")}
	if got := call[*kmsg.DeleteTopicsResponse](t, off, req, 6).Topics[0]; got.ErrorCode != protocol.TopicDeletionDisabled || n.img.Topics["t2"] == nil {
		t.Errorf("%+v", got)
	}
}

func TestCreatePartitions(t *testing.T) {
	n := newMetaNode(1, 2, 3)
	s := adminServer(t, n, nil)
	create(t, s, newTopic("t", 2, 2), newTopic("twice", 1, 1))
	grow := func(name string, count int32, assignment ...[]int32) kmsg.CreatePartitionsRequestTopic {
		g := kmsg.CreatePartitionsRequestTopic{Topic: name, Count: count}
		for _, a := range assignment {
			g.Assignment = append(g.Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: a})
		}
		return g
	}
	for i, c := range []struct {
		topics   []kmsg.CreatePartitionsRequestTopic
		validate bool
		code     int16
		parts    int
	}{
		{[]kmsg.CreatePartitionsRequestTopic{grow("t", 3)}, true, 0, 2},
		{[]kmsg.CreatePartitionsRequestTopic{grow("t", 3)}, false, 0, 3},
		{[]kmsg.CreatePartitionsRequestTopic{grow("t", 3)}, false, protocol.InvalidPartitions, 3},
		{[]kmsg.CreatePartitionsRequestTopic{grow("t", 1)}, false, protocol.InvalidPartitions, 3},
		{[]kmsg.CreatePartitionsRequestTopic{grow("t", 5, []int32{1, 2}, []int32{2, 3})}, false, 0, 5},
		{[]kmsg.CreatePartitionsRequestTopic{grow("t", 6, []int32{1})}, false, protocol.InvalidReplicaAssignment, 5},
		{[]kmsg.CreatePartitionsRequestTopic{grow("t", 1<<30)}, false, protocol.PolicyViolation, 5},
		{[]kmsg.CreatePartitionsRequestTopic{grow("none", 6)}, false, protocol.UnknownTopicOrPartition, 5},
		{[]kmsg.CreatePartitionsRequestTopic{grow("twice", 6), grow("twice", 7)}, false, protocol.InvalidRequest, 5},
	} {
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Topics, req.ValidateOnly = c.topics, c.validate
		got := call[*kmsg.CreatePartitionsResponse](t, s, req, int16(i%4)).Topics
		if len(got) != 1 || got[0].ErrorCode != c.code || len(n.img.Topics["t"].Partitions) != c.parts {
			t.Errorf("%d: %+v %q, %d partitions", i, got, text(got[0].ErrorMessage), len(n.img.Topics["t"].Partitions))
		}
	}
}

func TestDescribeCluster(t *testing.T) {
	n := newMetaNode(1, 2, 3)
	if _, err := n.apply(meta.FenceBroker{ID: 3, Incarnation: 103}); err != nil {
		t.Fatal(err)
	}
	s := adminServer(t, n, nil)
	for version := int16(0); version <= 2; version++ {
		got := call[*kmsg.DescribeClusterResponse](t, s, kmsg.NewPtrDescribeClusterRequest(), version)
		if got.ErrorCode != 0 || got.ClusterID != "c1" || got.ControllerID != 2 || len(got.Brokers) != 2 || got.Brokers[1].Host != "out" || got.Brokers[1].Port != 2002 || text(got.Brokers[1].Rack) != "r2" {
			t.Errorf("version %d: %+v", version, got)
		}
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeFencedBrokers = true
	if got := call[*kmsg.DescribeClusterResponse](t, s, req, 2); len(got.Brokers) != 3 || !got.Brokers[2].IsFenced || got.Brokers[1].IsFenced {
		t.Errorf("%+v", got.Brokers)
	}
	req.EndpointType = 2
	if got := call[*kmsg.DescribeClusterResponse](t, s, req, 1); got.ErrorCode != protocol.MismatchedEndpointType {
		t.Errorf("%+v", got)
	}
}

func TestDescribeLogDirs(t *testing.T) {
	dir := t.TempDir()
	s := adminServer(t, newMetaNode(1), map[string]string{"log.dirs": dir})
	for version := int16(1); version <= 5; version++ {
		got := call[*kmsg.DescribeLogDirsResponse](t, s, kmsg.NewPtrDescribeLogDirsRequest(), version)
		if len(got.Dirs) != 1 || got.Dirs[0].ErrorCode != 0 || got.Dirs[0].Dir != dir || version >= 4 && (got.Dirs[0].TotalBytes <= 0 || got.Dirs[0].UsableBytes <= 0) {
			t.Errorf("version %d: %+v", version, got.Dirs)
		}
	}
}
