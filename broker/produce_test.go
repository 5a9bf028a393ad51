package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
)

func batchOf(codec int8, values ...string) []byte {
	b := record.Builder{Codec: codec}
	for i, v := range values {
		b.Add(time.Now().UnixMilli(), fmt.Append(nil, "key", i), []byte(v))
	}
	return b.Build()
}

func produceRequest(topic string, id [16]byte, acks int16, batches ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 10_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, id
	for i, b := range batches {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = int32(i), b
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func TestProduceVersions(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 2, nil)
	c := dialRaw(t, addr)
	next := int64(0)
	for v := int16(3); v <= 13; v++ {
		req := produceRequest("t", topic.ID, -1, batchOf(0, "a", "b"), batchOf(2, "c"))
		resp := c.ask(req, v).(*kmsg.ProduceResponse)
		rt := resp.Topics[0]
		if len(resp.Topics) != 1 || len(rt.Partitions) != 2 || v < 13 && rt.Topic != "t" || v >= 13 && rt.TopicID != topic.ID {
			t.Fatalf("v%d: %+v", v, resp)
		}
		p := rt.Partitions[0]
		if p.ErrorCode != 0 || p.BaseOffset != next || p.LogAppendTime != -1 || v >= 5 && p.LogStartOffset != 0 {
			t.Fatalf("v%d: %+v", v, p)
		}
		if p := rt.Partitions[1]; p.ErrorCode != 0 || p.BaseOffset != next/2 || p.Partition != 1 {
			t.Fatalf("v%d: %+v", v, p)
		}
		next += 2
	}
}

// TestProduceRefuses has a case per rule. A refused batch leaves nothing behind.
func TestProduceRefuses(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, map[string]string{"max.message.bytes": "2000"})
	compacted := node.topic("compacted", 1, map[string]string{"cleanup.policy": "compact"})
	c := dialRaw(t, addr)
	stamp := func(b []byte, f func(b record.Batch)) []byte {
		f(b)
		record.Batch(b).StampCRC()
		return b
	}
	late := record.Builder{}
	late.Add(time.Now().UnixMilli(), nil, []byte("x"))
	late.Add(time.Now().Add(2*time.Hour).UnixMilli(), nil, []byte("x"))
	nullKey := record.Builder{}
	nullKey.Add(time.Now().UnixMilli(), []byte("k"), nil)
	nullKey.Add(time.Now().UnixMilli(), nil, []byte("x"))
	txn := "txn"
	garbage := stamp(batchOf(0, "a"), func(b record.Batch) { copy(b[record.HeaderSize:], bytes.Repeat([]byte{0xff}, 8)) })
	for _, x := range []struct {
		name    string
		topic   string
		id      [16]byte
		records []byte
		change  func(*kmsg.ProduceRequest)
		version int16
		code    int16
		faults  []int32
	}{
		{name: "no such topic", topic: "nope", records: batchOf(0, "a"), version: 9, code: protocol.UnknownTopicOrPartition},
		{name: "no such topic id", id: [16]byte{9, 9}, records: batchOf(0, "a"), version: 13, code: protocol.UnknownTopicID},
		{
			name: "no such partition", topic: "t", records: batchOf(0, "a"), version: 9, code: protocol.UnknownTopicOrPartition,
			change: func(r *kmsg.ProduceRequest) { r.Topics[0].Partitions[0].Partition = 7 },
		},
		{
			name: "acks", topic: "t", records: batchOf(0, "a"), version: 9, code: protocol.InvalidRequiredAcks,
			change: func(r *kmsg.ProduceRequest) { r.Acks = 2 },
		},
		{name: "null records", topic: "t", version: 9, code: protocol.InvalidRecord},
		{name: "two batches", topic: "t", records: append(batchOf(0, "a"), batchOf(0, "b")...), version: 9, code: protocol.InvalidRecord},
		{name: "cut batch", topic: "t", records: batchOf(0, "abc")[:70], version: 9, code: protocol.InvalidRecord},
		{name: "old magic", topic: "t", records: stamp(batchOf(0, "a"), func(b record.Batch) { b[16] = 1 }), version: 9, code: protocol.InvalidRecord},
		{name: "crc", topic: "t", records: func() []byte { b := batchOf(0, "a"); b[len(b)-1] ^= 1; return b }(), version: 9, code: protocol.CorruptMessage},
		{name: "control", topic: "t", records: record.BuildControl(1, 0, time.Now().UnixMilli(), true, 0), version: 9, code: protocol.InvalidRecord},
		{name: "count", topic: "t", records: stamp(batchOf(0, "a", "b"), func(b record.Batch) { binary.BigEndian.PutUint32(b[57:], 1) }), version: 9, code: protocol.InvalidRecord},
		{name: "garbage", topic: "t", records: garbage, version: 9, code: protocol.InvalidRecord},
		{name: "garbage snappy", topic: "t", records: stamp(batchOf(2, "abcdef"), func(b record.Batch) { copy(b[81:], "\xff\xff\xff\xff") }), version: 9, code: protocol.InvalidRecord},
		{name: "unknown codec", topic: "t", records: stamp(batchOf(0, "a"), func(b record.Batch) { b[22] = 7 }), version: 9, code: protocol.UnsupportedCompressionType},
		{name: "old zstd", topic: "t", records: batchOf(4, "a"), version: 6, code: protocol.UnsupportedCompressionType},
		{name: "zstd", topic: "t", records: batchOf(4, "a"), version: 7},
		{name: "too large", topic: "t", records: batchOf(0, string(make([]byte, 2000))), version: 9, code: protocol.MessageTooLarge},
		{name: "future", topic: "t", records: late.Build(), version: 9, code: protocol.InvalidTimestamp, faults: []int32{1}},
		{name: "null key", topic: "compacted", id: compacted.ID, records: nullKey.Build(), version: 9, code: protocol.InvalidRecord, faults: []int32{1}},
		{
			name: "transactional batch", topic: "t", version: 9, code: protocol.InvalidTxnState,
			records: func() []byte {
				b := record.Builder{Transactional: true, HasProducer: true, ProducerID: 5}
				b.Add(time.Now().UnixMilli(), nil, []byte("x"))
				return b.Build()
			}(),
		},
		{
			name: "transactional id", topic: "t", records: batchOf(0, "a"), version: 9, code: protocol.InvalidTxnState,
			change: func(r *kmsg.ProduceRequest) { r.TransactionID = &txn },
		},
		{name: "fine", topic: "t", id: topic.ID, records: batchOf(0, "a"), version: 13},
	} {
		req := produceRequest(x.topic, x.id, -1, x.records)
		if x.change != nil {
			x.change(req)
		}
		resp := c.ask(req, x.version).(*kmsg.ProduceResponse)
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != x.code {
			t.Errorf("%s: %s, want %s", x.name, protocol.ErrorName(p.ErrorCode), protocol.ErrorName(x.code))
		}
		if (p.ErrorCode == 0) == (p.BaseOffset < 0) {
			t.Errorf("%s: base offset %d", x.name, p.BaseOffset)
		}
		var at []int32
		for _, e := range p.ErrorRecords {
			if e.ErrorMessage == nil || *e.ErrorMessage == "" {
				t.Errorf("%s: record %d without a message", x.name, e.RelativeOffset)
			}
			at = append(at, e.RelativeOffset)
		}
		if fmt.Sprint(at) != fmt.Sprint(x.faults) {
			t.Errorf("%s: faults at %v, want %v", x.name, at, x.faults)
		}
	}
	part, _ := node.Partition(topic.ID, 0)
	if hw := part.HighWatermark(); hw != 2 { // the two that were fine
		t.Errorf("high watermark %d", hw)
	}
}

func TestProduceToAnotherLeader(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	node.away.Store(true)
	c := dialRaw(t, addr)
	for v := int16(3); v <= 13; v++ {
		resp := c.ask(produceRequest("t", topic.ID, 1, batchOf(0, "a")), v).(*kmsg.ProduceResponse)
		p := resp.Topics[0].Partitions[0]
		if p.ErrorCode != protocol.NotLeaderOrFollower {
			t.Fatalf("v%d: %+v", v, p)
		}
		if v >= 10 {
			if p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch != 9 || len(resp.Brokers) != 1 || resp.Brokers[0].Host != "elsewhere" {
				t.Fatalf("v%d: %+v %+v", v, p.CurrentLeader, resp.Brokers)
			}
		}
	}
}

func TestProduceWithoutAcks(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	c.send(produceRequest("t", topic.ID, 0, batchOf(0, "a")), 9)
	// No answer to it: the next one is this request's.
	c.ask(kmsg.NewPtrApiVersionsRequest(), 3)
	part, _ := node.Partition(topic.ID, 0)
	if part.HighWatermark() != 1 {
		t.Error("not appended")
	}
	// An error costs the connection.
	c.send(produceRequest("t", topic.ID, 0, batchOf(0, "a")[:70]), 9)
	c.closed()
}

// TestProduceIsPipelined: many requests on one connection, answered in order, stored in order.
func TestProduceIsPipelined(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	const n = 500
	go func() {
		for i := range int32(n) {
			req := produceRequest("t", [16]byte{}, -1, batchOf(0, fmt.Sprint(i)))
			if _, err := c.Write(frameOf(req, 9, i)); err != nil {
				return
			}
		}
	}()
	for i := range int64(n) {
		corr, b := c.frame()
		resp := kmsg.NewPtrProduceResponse()
		resp.SetVersion(9)
		if err := resp.ReadFrom(b[1:]); err != nil {
			t.Fatal(err)
		}
		if p := resp.Topics[0].Partitions[0]; int64(corr) != i || p.ErrorCode != 0 || p.BaseOffset != i {
			t.Fatalf("answer %d: %d %+v", i, corr, p)
		}
	}
	for i, r := range consume(t, addr, "t", n) {
		if string(r.Value) != fmt.Sprint(i) {
			t.Fatalf("record %d is %s", i, r.Value)
		}
	}
}

func TestLogAppendTimeAndCompressionType(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	node.topic("append", 1, map[string]string{"message.timestamp.type": "LogAppendTime"})
	node.topic("zstd", 1, map[string]string{"compression.type": "zstd"})
	node.topic("plain", 1, map[string]string{"compression.type": "uncompressed"})
	c := dialRaw(t, addr)
	old := record.Builder{}
	old.Add(1000, nil, []byte("x"))
	old.Add(2000, nil, []byte("y"))
	before := time.Now().UnixMilli()
	p := c.ask(produceRequest("append", [16]byte{}, -1, old.Build()), 9).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	if p.ErrorCode != 0 || p.LogAppendTime < before || p.LogAppendTime > time.Now().UnixMilli() {
		t.Fatalf("%+v", p)
	}
	for _, r := range consume(t, addr, "append", 2) {
		if r.Timestamp.UnixMilli() != p.LogAppendTime || r.Attrs.TimestampType() != 1 {
			t.Errorf("%v %v", r.Timestamp, r.Attrs.TimestampType())
		}
	}
	for topic, codec := range map[string]uint8{"zstd": 4, "plain": 0} {
		for _, from := range []int8{0, 1, 2, 3, 4} {
			p := c.ask(produceRequest(topic, [16]byte{}, -1, batchOf(from, "a", "b", "c")), 9).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
			if p.ErrorCode != 0 {
				t.Fatalf("%s: %+v", topic, p)
			}
		}
		for i, r := range consume(t, addr, topic, 15) {
			if r.Attrs.CompressionType() != codec || string(r.Value) != string("abc"[i%3]) {
				t.Errorf("%s: %d %s", topic, r.Attrs.CompressionType(), r.Value)
			}
		}
	}
}

// TestBytesAreKept: what is fetched is what was sent, but for base offset and leader epoch.
func TestBytesAreKept(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	var sent []byte
	for codec := range int8(5) {
		b := batchOf(codec, "one", "two", "three")
		if p := c.ask(produceRequest("t", topic.ID, -1, b), 13).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatal(p.ErrorCode)
		}
		record.Batch(b).SetBaseOffset(3 * int64(codec))
		sent = append(sent, b...)
	}
	p := c.ask(fetchOf(topic.Name, topic.ID, 0, 0), 13).(*kmsg.FetchResponse).Topics[0].Partitions[0]
	got := p.RecordBatches
	for rest := got; len(rest) > 0; {
		b, err := record.Check(rest)
		if err != nil {
			t.Fatal(err)
		}
		if b.LeaderEpoch() < 1 {
			t.Errorf("leader epoch %d", b.LeaderEpoch())
		}
		rest = rest[len(b):]
		b.SetLeaderEpoch(-1)
	}
	if !bytes.Equal(got, sent) {
		t.Error("other bytes")
	}
}

// FuzzProduceRequest: any body either is malformed, as kmsg says too, or is answered for exactly its partitions.
func FuzzProduceRequest(f *testing.F) {
	s, err := New(Options{Node: newMetaNode(1)})
	if err != nil {
		f.Fatal(err)
	}
	for v := int16(3); v <= 13; v++ {
		req := produceRequest("t", [16]byte{1}, -1, batchOf(0, "a"), nil, []byte("xyz"))
		req.SetVersion(v)
		f.Add(v, req.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, v int16, b []byte) {
		v = 3 + int16(uint16(v)%11)
		r := &request{body: b, start: time.Now()}
		r.header.Version = v
		c, err := s.startProduce(r)
		if err != nil {
			return // stricter than kmsg about array lengths and numbers of tagged fields (kmsg counts to any number)
		}
		req := kmsg.NewPtrProduceRequest()
		req.SetVersion(v)
		kerr := req.ReadFrom(b)
		if kerr != nil {
			return // kmsg reads known tags
		}
		parts := 0
		for i, rt := range req.Topics {
			if c.topics[i].name != rt.Topic || c.topics[i].id != rt.TopicID || c.topics[i].parts != len(rt.Partitions) {
				t.Fatalf("%+v, kmsg %+v", c.topics[i], rt)
			}
			parts += len(rt.Partitions)
		}
		if parts != len(c.parts) || c.acks != req.Acks {
			t.Fatalf("%d partitions, kmsg has %d", len(c.parts), parts)
		}
		for _, p := range c.parts {
			if p.code == 0 || p.pending != nil {
				t.Fatalf("%+v", p)
			}
		}
	})
}
