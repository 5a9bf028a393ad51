package meta

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
)

// one of every kind, and its bytes: the log's format does not change by accident.
var golden = []struct {
	name string
	c    Command
	hex  string
}{
	{"SetClusterID", SetClusterID{ClusterID: "abc"}, "0101" + "03616263"},
	{
		"RegisterBroker",
		RegisterBroker{Broker: Broker{ID: 1, Incarnation: 0x0102030405060708, Rack: "r", Version: "v", ClusterAddr: "h:1", Listeners: []Listener{{"PLAIN", "h", 9092}}}},
		"0201" + "02" + "0102030405060708" + "0172" + "0176" + "03683a31" + "01" + "05504c41494e" + "0168" + "888e01" + "00",
	},
	{"FenceBroker", FenceBroker{ID: 300, Incarnation: 1}, "0301" + "d804" + "0000000000000001"},
	{"UnfenceBroker", UnfenceBroker{ID: 0, Incarnation: 2}, "0401" + "00" + "0000000000000002"},
	{"RemoveBroker", RemoveBroker{ID: 3}, "0501" + "06"},
	{
		"CreateTopic",
		CreateTopic{ID: TopicID{15: 9}, Name: "t", Internal: true, Partitions: [][]int32{{1, 2}, {2, 1}}, Configs: map[string]string{"b": "2", "a": ""}},
		"0601" + strings.Repeat("00", 15) + "09" + "0174" + "01" + "02" + "020204" + "020402" + "02" + "0161" + "00" + "0162" + "0132",
	},
	{"DeleteTopic", DeleteTopic{ID: TopicID{0: 1}}, "0701" + "01" + strings.Repeat("00", 15)},
	{"CreatePartitions", CreatePartitions{Topic: TopicID{0: 1}, From: 2, Partitions: [][]int32{{1}}}, "0801" + "01" + strings.Repeat("00", 15) + "04" + "01" + "0102"},
	{"SetReplicas", SetReplicas{Topic: TopicID{0: 1}, Partition: 1, Epoch: -1, Nodes: []int32{1, 3}}, "0901" + "01" + strings.Repeat("00", 15) + "02" + "01" + "020206"},
	{"ReplaceReplica", ReplaceReplica{Topic: TopicID{0: 1}, Partition: 1, Epoch: 3, ID: 300}, "0f01" + "01" + strings.Repeat("00", 15) + "02" + "06" + "ac02"},
	{
		"ChooseReplica",
		ChooseReplica{Topic: TopicID{0: 1}, Partition: 1, Epoch: 3, ID: 300, Term: 7, Last: LogEnd{6, 5}, Loss: Loss{Node: 2, Replica: 300, At: 1, LogEnd: 4, Known: -1, Since: 64, Unheard: 1}},
		"1001" + "01" + strings.Repeat("00", 15) + "02" + "06" + "ac02" + "07" + "0605" + "04" + "ac02" + "02" + "08" + "01" + "8001" + "02",
	},
	{"FinishRecovery", FinishRecovery{Topic: TopicID{0: 1}, Partition: 1, ID: 300, Term: 7}, "1101" + "01" + strings.Repeat("00", 15) + "02" + "ac02" + "07"},
	{"ReplicasRemoved", ReplicasRemoved{Topic: TopicID{0: 1}, Partition: 1, IDs: []uint64{5, 6}}, "0b01" + "01" + strings.Repeat("00", 15) + "02" + "020506"},
	{"SetTopicConfigs", SetTopicConfigs{Topic: TopicID{0: 1}, Set: map[string]*string{"b": nil, "a": new("1")}}, "0c01" + "01" + strings.Repeat("00", 15) + "02" + "0161" + "010131" + "0162" + "00" + "00"},
	{"SetBrokerConfigs", SetBrokerConfigs{Node: -1, Set: map[string]*string{"a": new("1")}, ReplaceAll: true}, "0d01" + "01" + "01" + "0161" + "010131" + "01"},
	{"AllocateProducerIDs", AllocateProducerIDs{Node: 2}, "0e01" + "04"},
}

func TestCommandsGolden(t *testing.T) {
	for _, g := range golden {
		b := EncodeCommand(g.c)
		if got := hex.EncodeToString(b); got != g.hex {
			t.Errorf("%s\n got %s\nwant %s", g.name, got, g.hex)
		}
		c, err := DecodeCommand(b)
		if err != nil {
			t.Errorf("%s: %v", g.name, err)
			continue
		}
		if again := EncodeCommand(c); !bytes.Equal(again, b) {
			t.Errorf("%s: decoded and encoded again: %x", g.name, again)
		}
		// Cut short or with something behind it, it is refused; never half applied.
		for n := range b {
			if _, err := DecodeCommand(b[:n]); err == nil {
				t.Errorf("%s: %d of %d bytes are taken", g.name, n, len(b))
			}
		}
		if _, err := DecodeCommand(append(bytes.Clone(b), 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s with a byte behind it: %v", g.name, err)
		}
		b[1]++
		if _, err := DecodeCommand(b); !errors.Is(err, ErrTooNew) {
			t.Errorf("%s of the next version: %v", g.name, err)
		}
	}
	if _, err := DecodeCommand([]byte{200, 1}); !errors.Is(err, ErrTooNew) {
		t.Errorf("an unknown kind: %v", err)
	}
}

// world applies commands one after another.
type world struct {
	t   *testing.T
	img *Image
}

func (w *world) do(c Command) (any, error) {
	next, result, err := Apply(w.img, w.img.Version+1, c)
	if next.Version != w.img.Version+1 {
		w.t.Fatalf("version %d after %d", next.Version, w.img.Version)
	}
	w.img = next
	return result, err
}

func (w *world) must(c Command) any {
	w.t.Helper()
	result, err := w.do(c)
	if err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
	return result
}

func (w *world) refused(c Command, want *Error) *Error {
	w.t.Helper()
	before := EncodeImage(w.img)
	_, err := w.do(c)
	if !errors.Is(err, want) {
		w.t.Fatalf("%T: got %v, want code %d", c, err, want.Code)
	}
	same := *w.img
	same.Version--
	if !bytes.Equal(before, EncodeImage(&same)) {
		w.t.Fatalf("%T was refused and changed the image", c)
	}
	var e *Error
	errors.As(err, &e)
	return e
}

func newWorld(t *testing.T, racks ...string) *world {
	w := &world{t: t, img: NewImage()}
	w.must(SetClusterID{ClusterID: "c"})
	for i, r := range racks {
		w.must(RegisterBroker{Broker: Broker{ID: int32(i + 1), Incarnation: uint64(100 + i + 1), Rack: r, ClusterAddr: fmt.Sprintf("h%d:9192", i+1)}})
	}
	return w
}

func TestClusterIDIsSetOnce(t *testing.T) {
	w := newWorld(t)
	w.must(SetClusterID{ClusterID: "c"})
	w.refused(SetClusterID{ClusterID: "d"}, ErrWrongCluster)
	w.refused(SetClusterID{}, ErrInvalid)
}

func TestBrokerIdentity(t *testing.T) {
	w := newWorld(t, "", "")
	e := w.refused(RegisterBroker{Broker: Broker{ID: 1, Incarnation: 7, ClusterAddr: "other:1"}}, ErrDuplicateBroker)
	if !strings.Contains(e.Message, "h1:9192") || !strings.Contains(e.Message, "other:1") {
		t.Errorf("both brokers should be named: %s", e.Message)
	}
	// The same disk may come back at any time, with other addresses.
	w.must(RegisterBroker{Broker: Broker{ID: 1, Incarnation: 101, ClusterAddr: "moved:1"}})
	if got := w.img.Brokers[1].ClusterAddr; got != "moved:1" {
		t.Errorf("address %s", got)
	}
	w.refused(FenceBroker{ID: 1, Incarnation: 7}, ErrStaleBroker)
	w.refused(FenceBroker{ID: 9, Incarnation: 7}, ErrUnknownBroker)
	w.must(FenceBroker{ID: 1, Incarnation: 101})
	if w.img.Unfenced(1) || !w.img.Unfenced(2) {
		t.Error("1 should be fenced, 2 not")
	}
	// Once it is known to be dead another disk may take the id.
	w.must(RegisterBroker{Broker: Broker{ID: 1, Incarnation: 7}})
	if b := w.img.Brokers[1]; b.Fenced || b.Incarnation != 7 {
		t.Errorf("%+v", b)
	}
	w.refused(UnfenceBroker{ID: 1, Incarnation: 101}, ErrStaleBroker)
	w.refused(RegisterBroker{Broker: Broker{ID: -1, Incarnation: 7}}, ErrInvalid)
	w.refused(RegisterBroker{Broker: Broker{ID: 5}}, ErrInvalid)
}

// Rule 1: what a wiped disk held gets new ids; the old ones are taken out of the groups and never come back.
func TestNewDiskGetsNewReplicas(t *testing.T) {
	w := newWorld(t, "", "", "")
	topic := w.must(CreateTopic{ID: TopicID{1}, Name: "t", Partitions: [][]int32{{1, 2, 3}, {2, 3}}}).(*Topic)
	old := topic.Partitions[0].Replicas
	if p := topic.Partitions[0]; !p.Created || p.Epoch != 0 || old[0] != (Replica{1, 1, 101}) || old[2] != (Replica{3, 3, 103}) {
		t.Fatalf("%+v", p)
	}
	w.must(FenceBroker{ID: 1, Incarnation: 101})
	w.must(RegisterBroker{Broker: Broker{ID: 1, Incarnation: 7}})

	_, p, _ := w.img.Lookup(TopicID{1}, 0)
	now, _ := p.OnNode(1)
	if now != (Replica{1, 6, 7}) || p.Created || p.Epoch != 1 {
		t.Fatalf("%+v", p)
	}
	if p.InitialReplica(now.ID) || !p.InitialReplica(old[0].ID) || len(p.Initial) != 3 {
		t.Error("the creation record must stay as it was")
	}
	if len(p.Removing) != 1 || p.Removing[0].ID != old[0].ID || p.Removing[0].Incarnation != 0 {
		t.Errorf("removing %+v", p.Removing)
	}
	if _, q, _ := w.img.Lookup(TopicID{1}, 1); !q.Created {
		t.Error("a partition without replicas there changed")
	}
	// Away and back again: its new replica is kept, the lost one is not revived.
	w.must(SetReplicas{Topic: TopicID{1}, Epoch: -1, Nodes: []int32{2, 3}})
	w.must(ReplicasRemoved{Topic: TopicID{1}, IDs: []uint64{now.ID}})
	w.must(SetReplicas{Topic: TopicID{1}, Epoch: -1, Nodes: []int32{1, 2, 3}})
	_, p, _ = w.img.Lookup(TopicID{1}, 0)
	if r, _ := p.OnNode(1); r.ID == old[0].ID || r.ID == now.ID {
		t.Errorf("replica %d was revived", r.ID)
	}
}

func TestReassignment(t *testing.T) {
	w := newWorld(t, "", "", "", "")
	id := TopicID{1}
	w.must(CreateTopic{ID: id, Name: "t", Partitions: [][]int32{{1, 2, 3}}})
	w.refused(SetReplicas{Topic: id, Epoch: 5, Nodes: []int32{1, 2, 4}}, ErrInvalidAssignment)
	w.refused(SetReplicas{Topic: id, Epoch: -1, Nodes: []int32{1, 2, 9}}, ErrInvalidAssignment)
	w.refused(SetReplicas{Topic: id, Epoch: -1, Nodes: []int32{1, 2, 2}}, ErrInvalidAssignment)
	w.refused(SetReplicas{Topic: id, Epoch: -1}, ErrInvalidAssignment)
	w.refused(SetReplicas{Topic: id, Partition: 1, Epoch: -1, Nodes: []int32{1}}, ErrUnknownTopic)
	w.refused(SetReplicas{Topic: TopicID{2}, Epoch: -1, Nodes: []int32{1}}, ErrUnknownTopicID)

	w.must(SetReplicas{Topic: id, Epoch: 0, Nodes: []int32{4, 1, 2}})
	w.must(SetReplicas{Topic: id, Epoch: 0, Nodes: []int32{4, 1, 2}}) // the same once more
	_, p, _ := w.img.Lookup(id, 0)
	if fmt.Sprint(p.Replicas) != "[4/4 1/1 2/2]" || fmt.Sprint(p.Removing) != "[3/3]" || p.Epoch != 1 {
		t.Fatalf("%+v", p)
	}
	w.refused(RemoveBroker{ID: 3}, ErrInvalid) // still in the Raft group
	// Cancelled: the replica on its way out is kept.
	w.must(SetReplicas{Topic: id, Epoch: 1, Nodes: []int32{1, 2, 3}})
	_, p, _ = w.img.Lookup(id, 0)
	if fmt.Sprint(p.Replicas) != "[1/1 2/2 3/3]" || fmt.Sprint(p.Removing) != "[4/4]" {
		t.Fatalf("%+v", p)
	}
	w.must(ReplicasRemoved{Topic: id, IDs: []uint64{4, 99}})
	w.must(RemoveBroker{ID: 4})
	w.refused(RemoveBroker{ID: 4}, ErrUnknownBroker)

	r := w.must(ReplaceReplica{Topic: id, Epoch: -1, ID: 2}).(Replica)
	_, p, _ = w.img.Lookup(id, 0)
	if r.Node != 2 || r.ID <= 4 || fmt.Sprint(p.Replicas) != fmt.Sprintf("[1/1 %s 3/3]", r) {
		t.Fatalf("%+v", p)
	}
	w.refused(ReplaceReplica{Topic: id, Epoch: -1, ID: 2}, ErrInvalidAssignment)
}

func TestTopics(t *testing.T) {
	w := newWorld(t, "", "", "")
	make1 := func(id byte, name string) CreateTopic {
		return CreateTopic{ID: TopicID{id}, Name: name, Partitions: [][]int32{{1}}, Configs: map[string]string{"k": "v"}}
	}
	w.must(make1(1, "a.b"))
	w.must(make1(1, "a.b")) // the answer was lost, the request comes again
	w.refused(make1(2, "a.b"), ErrTopicExists)
	w.refused(make1(1, "other"), ErrInvalid)
	w.refused(make1(2, "a_b"), ErrInvalidTopic)
	w.must(make1(2, "a-b"))
	for _, name := range []string{"", ".", "..", "a b", "a/b", "ä", strings.Repeat("x", 250)} {
		w.refused(make1(9, name), ErrInvalidTopic)
	}
	w.must(make1(3, strings.Repeat("x", 249)))
	w.refused(CreateTopic{ID: TopicID{9}, Name: "n"}, ErrInvalidPartitions)
	w.refused(CreateTopic{ID: TopicID{9}, Name: "n", Partitions: [][]int32{{1}, {}}}, ErrInvalidAssignment)

	grow := CreatePartitions{Topic: TopicID{1}, From: 1, Partitions: [][]int32{{2}, {3}}}
	w.must(grow)
	w.must(grow)
	w.refused(CreatePartitions{Topic: TopicID{1}, From: 1, Partitions: [][]int32{{2}}}, ErrInvalidPartitions)
	w.refused(CreatePartitions{Topic: TopicID{1}, From: 3}, ErrInvalidPartitions)
	if n := len(w.img.Topics["a.b"].Partitions); n != 3 || w.img.PartitionCount != 5 {
		t.Errorf("%d partitions, %d in all", n, w.img.PartitionCount)
	}
	if p := w.img.Topics["a.b"].Partitions[2]; p.ID != 2 || !p.Created {
		t.Errorf("%+v", p)
	}

	w.must(SetTopicConfigs{Topic: TopicID{1}, Set: map[string]*string{"x": new("1")}})
	w.must(SetTopicConfigs{Topic: TopicID{1}, Set: map[string]*string{"k": nil, "y": new("2")}})
	if got := fmt.Sprint(w.img.Topics["a.b"].Configs); got != "map[x:1 y:2]" {
		t.Error(got)
	}
	w.must(SetTopicConfigs{Topic: TopicID{1}, Set: map[string]*string{"z": new("3")}, ReplaceAll: true})
	if got := fmt.Sprint(w.img.TopicsByID[TopicID{1}].Configs); got != "map[z:3]" {
		t.Error(got)
	}
	w.must(SetBrokerConfigs{Node: -1, Set: map[string]*string{"c": new("1")}})
	w.must(SetBrokerConfigs{Node: 2, Set: map[string]*string{"c": new("2")}})
	w.refused(SetBrokerConfigs{Node: 9}, ErrUnknownBroker)
	if w.img.ClusterConfig["c"] != "1" || w.img.BrokerConfig[2]["c"] != "2" {
		t.Error("broker configs")
	}
	w.must(SetBrokerConfigs{Node: 2, ReplaceAll: true})
	if w.img.BrokerConfig[2] != nil {
		t.Error("empty configs stay")
	}

	w.must(DeleteTopic{ID: TopicID{1}})
	w.refused(DeleteTopic{ID: TopicID{1}}, ErrUnknownTopicID)
	if w.img.Topics["a.b"] != nil || w.img.PartitionCount != 2 {
		t.Error("still there")
	}
	// A name comes back as another topic, with replica ids never used.
	again := w.must(make1(4, "a.b")).(*Topic)
	if again.Partitions[0].Replicas[0].ID != 6 {
		t.Errorf("%+v", again.Partitions[0])
	}
}

func TestProducerIDs(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		if got := w.must(AllocateProducerIDs{}).(ProducerIDs); got != (ProducerIDs{int64(i) * 1000, 1000}) {
			t.Errorf("%+v", got)
		}
	}
}

func TestResults(t *testing.T) {
	w := newWorld(t, "")
	topic := w.must(CreateTopic{ID: TopicID{1}, Name: "t", Partitions: [][]int32{{1}}})
	for _, r := range []any{nil, topic, ProducerIDs{5, 6}, Replica{1, 2, 3}} {
		b := EncodeResult(r)
		back, err := DecodeResult(b)
		if err != nil || !bytes.Equal(EncodeResult(back), b) {
			t.Errorf("%v: %v %v", r, back, err)
		}
	}
}

func TestValidate(t *testing.T) {
	w := newWorld(t, "", "", "")
	w.must(CreateTopic{ID: TopicID{1}, Name: "have", Partitions: [][]int32{{1, 2, 3}, {2, 3, 1}}})
	w.must(FenceBroker{ID: 3, Incarnation: 103})
	policy := Policy{DefaultPartitions: 2, DefaultReplicationFactor: 2, MaxPartitionsPerTopic: 10, MaxPartitions: 20}
	spec := func(name string, n int32, rf int16) TopicSpec {
		return TopicSpec{Name: name, Partitions: n, ReplicationFactor: rf}
	}
	for _, c := range []struct {
		spec TopicSpec
		want *kerr.Error
	}{
		{spec("a", -1, -1), nil},
		{spec("a", 1, 3), nil}, // two of three are alive
		{spec("a", 1, 4), kerr.InvalidReplicationFactor},
		{spec("a", 1, 0), kerr.InvalidReplicationFactor},
		{spec("a", 0, 1), kerr.InvalidPartitions},
		{spec("a", -2, 1), kerr.InvalidPartitions},
		{spec("a", 11, 1), kerr.InvalidPartitions},
		{spec("have", 1, 1), kerr.TopicAlreadyExists},
		{spec("a b", 1, 1), kerr.InvalidTopicException},
		{TopicSpec{Name: "a", Partitions: -1, ReplicationFactor: -1, Assignment: map[int32][]int32{0: {1, 2}, 1: {2, 1}}}, nil},
		{TopicSpec{Name: "a", Partitions: 2, ReplicationFactor: -1, Assignment: map[int32][]int32{0: {1}}}, kerr.InvalidRequest},
		{TopicSpec{Name: "a", Partitions: -1, ReplicationFactor: -1, Assignment: map[int32][]int32{1: {1}}}, kerr.InvalidReplicaAssignment},
		{TopicSpec{Name: "a", Partitions: -1, ReplicationFactor: -1, Assignment: map[int32][]int32{0: {1}, 1: {1, 2}}}, kerr.InvalidReplicaAssignment},
		{TopicSpec{Name: "a", Partitions: -1, ReplicationFactor: -1, Assignment: map[int32][]int32{0: {3}}}, kerr.InvalidReplicaAssignment},
	} {
		parts, err := ValidateCreate(w.img, c.spec, nil, policy)
		var e *Error
		switch {
		case c.want == nil && err != nil, c.want != nil && (!errors.As(err, &e) || e.Code != c.want.Code):
			t.Errorf("%+v: %v", c.spec, err)
		case err == nil:
			w.must(CreateTopic{ID: TopicID{2}, Name: c.spec.Name, Partitions: parts})
			w.must(DeleteTopic{ID: TopicID{2}})
		}
	}
	if parts, err := ValidateGrow(w.img, "have", 5, nil, nil, policy); err != nil || len(parts) != 3 || len(parts[0]) != 3 {
		t.Errorf("%v %v", parts, err)
	}
	for _, count := range []int32{0, 1, 2, 11} {
		if _, err := ValidateGrow(w.img, "have", count, nil, nil, policy); !errors.Is(err, ErrInvalidPartitions) {
			t.Errorf("to %d: %v", count, err)
		}
	}
	if _, err := ValidateGrow(w.img, "have", 3, [][]int32{{1, 2}}, nil, policy); !errors.Is(err, ErrInvalidAssignment) {
		t.Errorf("%v", err)
	}
	if _, err := ValidateGrow(w.img, "none", 3, nil, nil, policy); !errors.Is(err, ErrUnknownTopic) {
		t.Errorf("%v", err)
	}
}

func TestDiff(t *testing.T) {
	w := newWorld(t, "", "")
	w.must(CreateTopic{ID: TopicID{1}, Name: "a", Partitions: [][]int32{{1}, {1}}})
	w.must(CreateTopic{ID: TopicID{2}, Name: "b", Partitions: [][]int32{{1}}})
	old := w.img
	if d := Diff(nil, old); len(d.Added) != 2 || len(d.Brokers) != 2 {
		t.Errorf("%+v", d)
	}
	w.must(SetReplicas{Topic: TopicID{1}, Partition: 1, Epoch: -1, Nodes: []int32{2}})
	w.must(SetTopicConfigs{Topic: TopicID{1}, Set: map[string]*string{"x": new("1")}})
	w.must(DeleteTopic{ID: TopicID{2}})
	w.must(CreateTopic{ID: TopicID{3}, Name: "b", Partitions: [][]int32{{1}}})
	w.must(FenceBroker{ID: 2, Incarnation: 102})
	w.must(SetBrokerConfigs{Node: 1, Set: map[string]*string{"x": new("1")}})
	check := func(next *Image) {
		t.Helper()
		d := Diff(old, next)
		if len(d.Changed) != 1 || !d.Changed[0].Configs || fmt.Sprint(d.Changed[0].Partitions) != "[1]" ||
			len(d.Added) != 1 || d.Added[0].ID != (TopicID{3}) || len(d.Removed) != 1 || d.Removed[0].ID != (TopicID{2}) ||
			fmt.Sprint(d.Brokers) != "[2]" || fmt.Sprint(d.BrokerConfigs) != "[1]" || d.ClusterConfig || d.Empty() {
			t.Errorf("%+v", d)
		}
	}
	check(w.img)
	// The same after a snapshot, where nothing is shared.
	next, err := DecodeImage(EncodeImage(w.img))
	if err != nil {
		t.Fatal(err)
	}
	check(next)
	if d := Diff(w.img, next); !d.Empty() {
		t.Errorf("%+v", d)
	}
}

// Rule 13: of two choices one stands; the chosen replica alone ends the recovery; then all others have successors.
func TestRule13Recovery(t *testing.T) {
	w := newWorld(t, "", "", "", "")
	id := TopicID{1}
	w.must(CreateTopic{ID: id, Name: "t", Partitions: [][]int32{{1, 2, 3}}})
	w.must(SetReplicas{Topic: id, Epoch: 0, Nodes: []int32{1, 2, 4}}) // 3/3 is on its way out
	choose := func(epoch int32, replica, term uint64) ChooseReplica {
		return ChooseReplica{Topic: id, Epoch: epoch, ID: replica, Term: term, Loss: Loss{Replica: replica, LogEnd: 10, Known: -1}}
	}
	w.must(choose(1, 2, 7))
	w.must(choose(1, 2, 7)) // the answer was lost
	w.refused(choose(1, 3, 8), ErrInvalidAssignment)
	w.refused(ReplaceReplica{Topic: id, Epoch: 1, ID: 2}, ErrInvalidAssignment) // decided before
	w.refused(FinishRecovery{Topic: id, ID: 3, Term: 8}, ErrInvalidAssignment)
	_, p, _ := w.img.Lookup(id, 0)
	if fmt.Sprint(p.Replicas, p.Removing) != "[1/1 2/2 4/4] [3/3]" || p.Removing[0].Incarnation == 0 || p.Recovery.Replica != 2 {
		t.Fatalf("nothing of the others may be touched yet: %+v", p)
	}
	if img, err := DecodeImage(EncodeImage(w.img)); err != nil || !bytes.Equal(EncodeImage(img), EncodeImage(w.img)) {
		t.Fatal(err)
	}
	w.must(choose(2, 3, 9)) // an operator takes another
	w.refused(FinishRecovery{Topic: id, ID: 2, Term: 7}, ErrInvalidAssignment)
	w.must(choose(3, 2, 11))
	w.must(FinishRecovery{Topic: id, ID: 2, Term: 11})
	w.must(FinishRecovery{Topic: id, ID: 2, Term: 11})
	_, p, _ = w.img.Lookup(id, 0)
	if fmt.Sprint(p.Replicas, p.Removing) != "[1/5 2/2 4/6] [3/3 1/1 4/4]" || p.Recovery != nil || p.Losses != 1 || p.Loss.LogEnd != 10 {
		t.Fatalf("%+v", p)
	}
	for _, r := range p.Removing {
		if r.Incarnation != 0 {
			t.Errorf("%s may come back", r)
		}
	}
	// The chosen replica's disk is lost before it was ready: to be chosen anew.
	w.must(choose(p.Epoch, 2, 12))
	w.must(FenceBroker{ID: 2, Incarnation: w.img.Brokers[2].Incarnation})
	w.must(RegisterBroker{Broker: Broker{ID: 2, Incarnation: 99}})
	if _, p, _ = w.img.Lookup(id, 0); p.Recovery != nil {
		t.Errorf("%+v", p.Recovery)
	}
}
