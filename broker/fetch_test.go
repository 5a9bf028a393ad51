package broker

import (
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
)

// fetchOf asks for partition 0 (and others) of a topic from offset on, without a session.
func fetchOf(topic string, id meta.TopicID, offset int64, partitions ...int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.MaxBytes, req.MinBytes, req.MaxWaitMillis, req.SessionEpoch = 50<<20, 1, 0, -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	for _, p := range partitions {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = p, offset, 10<<20, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func (c *rawConn) produce(topic *meta.Topic, partition int32, values ...string) {
	c.t.Helper()
	req := produceRequest(topic.Name, topic.ID, -1, batchOf(0, values...))
	req.Topics[0].Partitions[0].Partition = partition
	if p := c.ask(req, 13).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
		c.t.Fatal(protocol.ErrorName(p.ErrorCode))
	}
}

func only(t *testing.T, resp kmsg.Response) *kmsg.FetchResponseTopicPartition {
	t.Helper()
	f := resp.(*kmsg.FetchResponse)
	if f.ErrorCode != 0 || len(f.Topics) != 1 || len(f.Topics[0].Partitions) != 1 {
		t.Fatalf("%+v", f)
	}
	return &f.Topics[0].Partitions[0]
}

func TestFetchVersions(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	c.produce(topic, 0, "a", "b")
	c.produce(topic, 0, "c")
	for v := int16(4); v <= 18; v++ {
		p := only(t, c.ask(fetchOf("t", topic.ID, 2, 0), v))
		if p.ErrorCode != 0 || p.HighWatermark != 3 || p.LastStableOffset != 3 || v >= 5 && p.LogStartOffset != 0 {
			t.Fatalf("v%d: %+v", v, p)
		}
		b, err := record.Check(p.RecordBatches)
		if err != nil || b.BaseOffset() != 2 || len(b) != len(p.RecordBatches) {
			t.Fatalf("v%d: %v", v, err)
		}
		// From inside a batch the whole batch comes.
		p = only(t, c.ask(fetchOf("t", topic.ID, 1, 0), v))
		if b, err := record.Check(p.RecordBatches); err != nil || b.BaseOffset() != 0 {
			t.Fatalf("v%d: %v", v, err)
		}
	}
}

func TestFetchErrors(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	c.produce(topic, 0, "a")
	part, _ := node.Partition(topic.ID, 0)
	epoch, _ := part.Leading()
	for name, x := range map[string]struct {
		req     *kmsg.FetchRequest
		change  func(*kmsg.FetchRequestTopicPartition)
		version int16
		code    int16
	}{
		"topic":         {fetchOf("nope", meta.TopicID{}, 0, 0), nil, 12, protocol.UnknownTopicOrPartition},
		"topic id":      {fetchOf("", meta.TopicID{7, 7}, 0, 0), nil, 13, protocol.UnknownTopicID},
		"partition":     {fetchOf("t", topic.ID, 0, 3), nil, 13, protocol.UnknownTopicOrPartition},
		"above the end": {fetchOf("t", topic.ID, 2, 0), nil, 13, protocol.OffsetOutOfRange},
		"negative":      {fetchOf("t", topic.ID, -1, 0), nil, 13, protocol.OffsetOutOfRange},
		"old epoch":     {fetchOf("t", topic.ID, 0, 0), func(p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = epoch - 1 }, 13, protocol.FencedLeaderEpoch},
		"new epoch":     {fetchOf("t", topic.ID, 0, 0), func(p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = epoch + 1 }, 13, protocol.UnknownLeaderEpoch},
		"this epoch":    {fetchOf("t", topic.ID, 0, 0), func(p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = epoch }, 13, 0},
		"at the end":    {fetchOf("t", topic.ID, 1, 0), nil, 13, 0},
	} {
		if x.change != nil {
			x.change(&x.req.Topics[0].Partitions[0])
		}
		x.req.MaxWaitMillis = 0
		if p := only(t, c.ask(x.req, x.version)); p.ErrorCode != x.code {
			t.Errorf("%s: %s, want %s", name, protocol.ErrorName(p.ErrorCode), protocol.ErrorName(x.code))
		}
	}
	// An error is answered at once, whatever the wait.
	long := fetchOf("nope", meta.TopicID{}, 0, 0)
	long.MaxWaitMillis = 60_000
	only(t, c.ask(long, 12))

	node.away.Store(true)
	for v := int16(4); v <= 18; v++ {
		resp := c.ask(fetchOf("t", topic.ID, 0, 0), v)
		p := only(t, resp)
		if p.ErrorCode != protocol.NotLeaderOrFollower {
			t.Fatalf("v%d: %+v", v, p)
		}
		if b := resp.(*kmsg.FetchResponse).Brokers; v >= 16 && (p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch != 9 || len(b) != 1 || b[0].Host != "elsewhere") {
			t.Fatalf("v%d: %+v %+v", v, p.CurrentLeader, b)
		}
	}
}

func TestFetchZstdOfOldClient(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	c.produce(topic, 0, "a")
	if p := only(t, c.ask(fetchOf("t", topic.ID, 0, 0), 9)); p.ErrorCode != 0 {
		t.Fatal(p.ErrorCode)
	}
	c.ask(produceRequest("t", topic.ID, -1, batchOf(4, "z")), 9)
	if p := only(t, c.ask(fetchOf("t", topic.ID, 0, 0), 9)); p.ErrorCode != protocol.UnsupportedCompressionType || len(p.RecordBatches) > 0 {
		t.Fatal(p.ErrorCode)
	}
	if p := only(t, c.ask(fetchOf("t", topic.ID, 0, 0), 10)); p.ErrorCode != 0 {
		t.Fatal(p.ErrorCode)
	}
}

// TestFetchLimits: at most max bytes, but a first batch that is larger; and partitions in the order asked.
func TestFetchLimits(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 3, nil)
	c := dialRaw(t, addr)
	for p := range int32(3) {
		for range 3 {
			c.produce(topic, p, strings.Repeat("x", 1000))
		}
	}
	req := fetchOf("t", topic.ID, 0, 0, 1, 2)
	sizes := func() (out [3]int) {
		resp := c.ask(req, 13).(*kmsg.FetchResponse)
		for _, p := range resp.Topics[0].Partitions {
			out[p.Partition] = len(p.RecordBatches) / 1000
		}
		return out
	}
	for _, x := range []struct {
		max, part int32
		want      [3]int
	}{
		{1, 1 << 20, [3]int{1, 0, 0}},
		{1 << 20, 1, [3]int{1, 0, 0}},
		{1 << 20, 1500, [3]int{1, 1, 1}},
		{5000, 1 << 20, [3]int{3, 1, 0}},
		{1 << 20, 1 << 20, [3]int{3, 3, 3}},
	} {
		req.MaxBytes = x.max
		for i := range req.Topics[0].Partitions {
			req.Topics[0].Partitions[i].PartitionMaxBytes = x.part
		}
		if got := sizes(); got != x.want {
			t.Errorf("max %d, per partition %d: %v, want %v", x.max, x.part, got, x.want)
		}
	}
}

// TestFetchWaits: a fetch waits for min bytes, wakes by a produce, ends at max wait, and holds nothing meanwhile.
func TestFetchWaits(t *testing.T) {
	node, s, addr := startSolo(t, nil)
	for name, n := range map[string]int32{"few": 2, "many": 20} {
		topic := node.topic(name, n, nil)
		parts := make([]int32, n)
		for i := range parts {
			parts[i] = int32(i)
		}
		consumer, producer := dialRaw(t, addr), dialRaw(t, addr)
		req := fetchOf(name, topic.ID, 0, parts...)
		req.MaxWaitMillis = 60_000
		consumer.send(req, 13)
		producer.produce(topic, n-1, "wake")
		resp := consumer.read(req, 13).(*kmsg.FetchResponse)
		if p := resp.Topics[0].Partitions[n-1]; len(p.RecordBatches) == 0 {
			t.Fatalf("%+v", p)
		}
		req = fetchOf(name, topic.ID, 0, parts...)
		req.MinBytes, req.MaxWaitMillis = 250, 60_000
		consumer.send(req, 13)
		for range 3 {
			producer.produce(topic, 0, strings.Repeat("x", 100))
		}
		consumer.read(req, 13)

		req = fetchOf(name, topic.ID, 0, parts...)
		req.MinBytes, req.MaxWaitMillis = 1<<20, 50
		begin := time.Now()
		resp = consumer.ask(req, 13).(*kmsg.FetchResponse)
		if time.Since(begin) < 50*time.Millisecond || len(resp.Topics[0].Partitions[0].RecordBatches) == 0 {
			t.Error("did not wait, or came back without what there is")
		}
		// A client that leaves ends its wait.
		req.MaxWaitMillis = 600_000
		consumer.send(req, 13)
		_ = consumer.Close()
		open := s.Connections
		for deadline := time.Now().Add(10 * time.Second); open() > 1 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if open() > 1 {
			t.Error("the fetch of a client that is gone goes on")
		}
		_ = producer.Close()
	}
}

func TestFetchSessionOnTheWire(t *testing.T) {
	node, s, addr := startSolo(t, nil)
	topic := node.topic("t", 3, nil)
	c := dialRaw(t, addr)
	c.produce(topic, 0, "a")
	req := fetchOf("t", topic.ID, 0, 0, 1, 2)
	req.SessionEpoch = 0
	resp := c.ask(req, 13).(*kmsg.FetchResponse)
	if resp.SessionID == 0 || len(resp.Topics[0].Partitions) != 3 {
		t.Fatalf("%+v", resp)
	}
	incremental := func(epoch int32, change func(*kmsg.FetchRequest)) *kmsg.FetchResponse {
		r := kmsg.NewPtrFetchRequest()
		r.MaxBytes, r.MinBytes, r.MaxWaitMillis = 50<<20, 0, 0
		r.SessionID, r.SessionEpoch = resp.SessionID, epoch
		if change != nil {
			change(r)
		}
		return c.ask(r, 13).(*kmsg.FetchResponse)
	}
	// The same data again for partition 0, nothing of the others.
	r := incremental(1, nil)
	if r.ErrorCode != 0 || r.SessionID != resp.SessionID || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.Topics[0].Partitions[0].Partition != 0 {
		t.Fatalf("%+v", r)
	}
	// Move on: no news at all.
	r = incremental(2, func(f *kmsg.FetchRequest) { f.Topics = fetchOf("t", topic.ID, 1, 0).Topics })
	if r.ErrorCode != 0 || len(r.Topics) != 0 {
		t.Fatalf("%+v", r)
	}
	c.produce(topic, 2, "b")
	if r = incremental(3, nil); len(r.Topics) != 1 || r.Topics[0].Partitions[0].Partition != 2 {
		t.Fatalf("%+v", r)
	}
	// A forgotten partition is not told of.
	r = incremental(4, func(f *kmsg.FetchRequest) {
		ft := kmsg.NewFetchRequestForgottenTopic()
		ft.TopicID, ft.Partitions = topic.ID, []int32{2}
		f.ForgottenTopics = append(f.ForgottenTopics, ft)
	})
	if len(r.Topics) != 0 {
		t.Fatalf("%+v", r)
	}
	if r = incremental(4, nil); r.ErrorCode != protocol.InvalidFetchSessionEpoch {
		t.Fatalf("%+v", r)
	}
	// An end.
	req.SessionID, req.SessionEpoch = resp.SessionID, -1
	if r := c.ask(req, 13).(*kmsg.FetchResponse); r.SessionID != 0 || s.sessions.len() != 0 {
		t.Fatalf("%+v", r)
	}
	if r = incremental(5, nil); r.ErrorCode != protocol.FetchSessionIDNotFound {
		t.Fatalf("%+v", r)
	}
}

// TestCloseAnswers: a stop answers what waits, and returns.
func TestCloseAnswers(t *testing.T) {
	node, s, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	req := fetchOf("t", topic.ID, 0, 0)
	req.MaxWaitMillis = 600_000
	c.send(req, 13)
	c.send(kmsg.NewPtrApiVersionsRequest(), 3)
	for inFlight(s) < 2 {
		time.Sleep(time.Millisecond)
	}
	if err := s.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	only(t, c.read(req, 13))
	c.read(kmsg.NewPtrApiVersionsRequest(), 3)
	c.closed()
}

// inFlight counts the requests that were read and not answered.
func inFlight(s *Server) (n int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.conns {
		n += k.inFlight.Load()
	}
	return n
}

// TestFetchUnreadable: a partition that cannot be read is answered with an error; its neighbours are not harmed.
func TestFetchUnreadable(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	good, bad := node.topic("good", 1, nil), node.topic("bad", 1, nil)
	c := dialRaw(t, addr)
	c.produce(good, 0, "a")
	c.produce(bad, 0, "b")
	req := fetchOf("bad", bad.ID, 0, 0)
	req.Topics = append(req.Topics, fetchOf("good", good.ID, 0, 0).Topics...)
	name := "bad-0"
	node.fs.bad.Store(&name)
	resp := c.ask(req, 13).(*kmsg.FetchResponse)
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != protocol.KafkaStorageError || len(p.RecordBatches) > 0 {
		t.Errorf("%+v", p)
	}
	if p := resp.Topics[1].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		t.Errorf("%+v", p)
	}
	node.fs.bad.Store(nil)
	resp = c.ask(req, 13).(*kmsg.FetchResponse)
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
		t.Errorf("%+v", p)
	}
}

// TestRestart: what was produced is there after the partition was closed and opened again.
func TestRestart(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	c.produce(topic, 0, "a", "b")
	part, _ := node.Partition(topic.ID, 0)
	if err := part.Close(); err != nil {
		t.Fatal(err)
	}
	if p := only(t, c.ask(fetchOf("t", topic.ID, 0, 0), 13)); p.ErrorCode != protocol.NotLeaderOrFollower {
		t.Fatalf("%+v", p)
	}
	if err := node.open(topic, 0, false); err != nil {
		t.Fatal(err)
	}
	if err := node.awaitLeader(testContext(t), topic, 0); err != nil {
		t.Fatal(err)
	}
	c.produce(topic, 0, "c")
	got := consume(t, addr, "t", 3)
	for i, r := range got {
		if r.Offset != int64(i) || string(r.Value) != string("abc"[i]) {
			t.Fatalf("%d: %s", r.Offset, r.Value)
		}
	}
}
