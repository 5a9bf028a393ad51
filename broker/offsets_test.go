package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
)

func listOffsets(topic string, ts int64, partitions ...int32) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	rt := kmsg.NewListOffsetsRequestTopic()
	rt.Topic = topic
	for _, p := range partitions {
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = p, ts, -1
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func TestListOffsets(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	node.topic("empty", 1, nil)
	c := dialRaw(t, addr)
	base := time.Now().UnixMilli() - 100_000
	for i := range 3 { // offsets 0-2, 3-5, 6-8; times base + 0, 10, 20 ...
		b := record.Builder{Codec: int8(i)}
		for j := range 3 {
			b.Add(base+int64(30*i+10*j), nil, fmt.Append(nil, i, j))
		}
		c.ask(produceRequest("t", topic.ID, -1, b.Build()), 9)
	}
	for _, x := range []struct {
		topic   string
		ts      int64
		version int16
		offset  int64
		time    int64
		code    int16
	}{
		{"t", -1, 1, 9, -1, 0},
		{"t", -2, 1, 0, -1, 0},
		{"t", -3, 7, 8, base + 80, 0},
		{"t", -3, 6, -1, -1, protocol.UnsupportedVersion},
		{"t", -4, 8, 0, -1, 0},
		{"t", -5, 9, -1, -1, 0},
		{"t", -6, 11, -1, -1, 0},
		{"t", -6, 10, -1, -1, protocol.UnsupportedVersion},
		{"t", -7, 11, -1, -1, protocol.UnsupportedVersion},
		{"t", base, 1, 0, base, 0},
		{"t", base + 35, 1, 4, base + 40, 0}, // inside a compressed batch
		{"t", base + 80, 4, 8, base + 80, 0},
		{"t", base + 81, 4, -1, -1, 0},
		{"empty", -1, 11, 0, -1, 0},
		{"empty", -3, 11, -1, -1, 0},
		{"nope", -1, 11, -1, -1, protocol.UnknownTopicOrPartition},
	} {
		p := c.ask(listOffsets(x.topic, x.ts, 0), x.version).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
		if p.ErrorCode != x.code || p.Offset != x.offset || p.Timestamp != x.time {
			t.Errorf("%s %d v%d: %+v", x.topic, x.ts, x.version, p)
		}
	}
	// Twice in one request, and a stale epoch.
	resp := c.ask(listOffsets("t", -1, 0, 0), 4).(*kmsg.ListOffsetsResponse)
	if resp.Topics[0].Partitions[1].ErrorCode != protocol.InvalidRequest {
		t.Errorf("%+v", resp)
	}
	req := listOffsets("t", -1, 0)
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 0
	if p := c.ask(req, 4).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; p.ErrorCode != protocol.FencedLeaderEpoch {
		t.Errorf("%+v", p)
	}
	node.away.Store(true)
	if p := c.ask(listOffsets("t", -1, 0), 4).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; p.ErrorCode != protocol.NotLeaderOrFollower {
		t.Errorf("%+v", p)
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	c := dialRaw(t, addr)
	c.produce(topic, 0, "a", "b", "c")
	part, _ := node.Partition(topic.ID, 0)
	epoch, _ := part.Leading()
	for v := int16(2); v <= 4; v++ {
		for _, x := range []struct {
			epoch int32
			end   int64
		}{{epoch, 3}, {epoch + 1, -1}} {
			req := kmsg.NewPtrOffsetForLeaderEpochRequest()
			rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
			rt.Topic = "t"
			rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			rp.CurrentLeaderEpoch, rp.LeaderEpoch = epoch, x.epoch
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
			p := c.ask(req, v).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
			if p.ErrorCode != 0 || p.EndOffset != x.end {
				t.Errorf("v%d epoch %d: %+v", v, x.epoch, p)
			}
		}
	}
}

func TestDeleteRecords(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	node.topic("compacted", 1, map[string]string{"cleanup.policy": "compact"})
	c := dialRaw(t, addr)
	c.produce(topic, 0, "a", "b", "c")
	c.produce(topic, 0, "d")
	ask := func(topic string, offset int64, v int16) *kmsg.DeleteRecordsResponseTopicPartition {
		req := kmsg.NewPtrDeleteRecordsRequest()
		req.TimeoutMillis = 10_000
		rt := kmsg.NewDeleteRecordsRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewDeleteRecordsRequestTopicPartition()
		rp.Offset = offset
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		return &c.ask(req, v).(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]
	}
	for v, x := range []struct {
		topic       string
		offset, low int64
		code        int16
	}{{"t", 2, 2, 0}, {"t", 9, -1, protocol.OffsetOutOfRange}, {"t", -1, 4, 0}, {"compacted", 0, -1, protocol.PolicyViolation}, {"nope", 0, -1, protocol.UnknownTopicOrPartition}} {
		if p := ask(x.topic, x.offset, int16(v%3)); p.ErrorCode != x.code || p.LowWatermark != x.low {
			t.Errorf("%s %d: %+v", x.topic, x.offset, p)
		}
	}
	if p := only(t, c.ask(fetchOf("t", topic.ID, 3, 0), 13)); p.ErrorCode != protocol.OffsetOutOfRange || p.LogStartOffset != 4 {
		t.Errorf("%+v", p)
	}
	if p := c.ask(listOffsets("t", -2, 0), 4).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; p.Offset != 4 {
		t.Errorf("%+v", p)
	}
}

func TestInitProducerID(t *testing.T) {
	_, _, addr := startSolo(t, nil)
	c := dialRaw(t, addr)
	seen := map[int64]bool{}
	for v := int16(0); v <= 5; v++ {
		resp := c.ask(kmsg.NewPtrInitProducerIDRequest(), v).(*kmsg.InitProducerIDResponse)
		if resp.ErrorCode != 0 || resp.ProducerEpoch != 0 || seen[resp.ProducerID] {
			t.Fatalf("v%d: %+v", v, resp)
		}
		seen[resp.ProducerID] = true
		if v >= 3 {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.ProducerID, req.ProducerEpoch = resp.ProducerID, 4
			if next := c.ask(req, v).(*kmsg.InitProducerIDResponse); next.ProducerID != resp.ProducerID || next.ProducerEpoch != 5 {
				t.Fatalf("v%d: %+v", v, next)
			}
			req.ProducerEpoch = 1<<15 - 2
			if next := c.ask(req, v).(*kmsg.InitProducerIDResponse); next.ErrorCode != 0 || next.ProducerID == resp.ProducerID || next.ProducerEpoch != 0 {
				t.Fatalf("v%d: %+v", v, next)
			}
		}
		txn := "t"
		req := kmsg.NewPtrInitProducerIDRequest()
		req.TransactionalID = &txn
		if next := c.ask(req, v).(*kmsg.InitProducerIDResponse); next.ErrorCode != protocol.CoordinatorNotAvailable {
			t.Fatalf("v%d: %+v", v, next)
		}
	}
}

func TestMetadataOfTopics(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 3, nil)
	c := dialRaw(t, addr)
	ask := func(v int16, change func(*kmsg.MetadataRequestTopic)) *kmsg.MetadataResponseTopic {
		req := kmsg.NewPtrMetadataRequest()
		rt := kmsg.NewMetadataRequestTopic()
		change(&rt)
		req.Topics = append(req.Topics, rt)
		return &c.ask(req, v).(*kmsg.MetadataResponse).Topics[0]
	}
	name := func(s string) func(*kmsg.MetadataRequestTopic) {
		return func(rt *kmsg.MetadataRequestTopic) { rt.Topic = &s }
	}
	for v := int16(4); v <= 13; v++ { // earlier ones cannot forbid creation
		rt := ask(v, name("t"))
		if rt.ErrorCode != 0 || len(rt.Partitions) != 3 || v >= 10 && rt.TopicID != topic.ID {
			t.Fatalf("v%d: %+v", v, rt)
		}
		for i, p := range rt.Partitions {
			if p.ErrorCode != 0 || p.Leader != 1 || fmt.Sprint(p.Replicas, p.ISR, p.OfflineReplicas) != "[1] [1] []" || int(p.Partition) != i || v >= 7 && p.LeaderEpoch < 1 {
				t.Fatalf("v%d: %+v", v, p)
			}
		}
		if rt := ask(v, name("nope")); rt.ErrorCode != protocol.UnknownTopicOrPartition {
			t.Fatalf("v%d: %+v", v, rt)
		}
		if rt := ask(v, name("no/pe")); rt.ErrorCode != protocol.InvalidTopicException {
			t.Fatalf("v%d: %+v", v, rt)
		}
		if v >= 12 {
			if rt := ask(v, func(rt *kmsg.MetadataRequestTopic) { rt.TopicID = topic.ID }); rt.ErrorCode != 0 || *rt.Topic != "t" {
				t.Fatalf("v%d: %+v", v, rt)
			}
			if rt := ask(v, func(rt *kmsg.MetadataRequestTopic) { rt.TopicID = meta.TopicID{8} }); rt.ErrorCode != protocol.UnknownTopicID || rt.Topic != nil {
				t.Fatalf("v%d: %+v", v, rt)
			}
		}
	}
	if all := c.ask(kmsg.NewPtrMetadataRequest(), 12).(*kmsg.MetadataResponse); len(all.Topics) != 1 || len(all.Brokers) != 2 {
		t.Fatalf("%+v", all)
	}
}

func TestDescribeTopicPartitions(t *testing.T) {
	node, _, addr := startSolo(t, map[string]string{"max.request.partition.size.limit": "5"})
	for _, name := range []string{"a", "b", "c"} {
		node.topic(name, 4, nil)
	}
	c := dialRaw(t, addr)
	var got []string
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.ResponsePartitionLimit = 3
	for pages := 1; ; pages++ {
		resp := c.ask(req, 0).(*kmsg.DescribeTopicPartitionsResponse)
		for _, rt := range resp.Topics {
			for _, p := range rt.Partitions {
				if p.ErrorCode != 0 || p.LeaderID != 1 {
					t.Fatalf("%+v", p)
				}
				got = append(got, fmt.Sprint(*rt.Topic, p.Partition))
			}
		}
		if resp.NextCursor == nil {
			if pages != 4 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		cur := kmsg.NewDescribeTopicPartitionsRequestCursor()
		cur.Topic, cur.Partition = resp.NextCursor.Topic, resp.NextCursor.Partition
		req.Cursor = &cur
	}
	if want := "[a0 a1 a2 a3 b0 b1 b2 b3 c0 c1 c2 c3]"; fmt.Sprint(got) != want {
		t.Errorf("%v", got)
	}
	req = kmsg.NewPtrDescribeTopicPartitionsRequest()
	rt := kmsg.NewDescribeTopicPartitionsRequestTopic()
	rt.Topic = "nope"
	req.Topics = append(req.Topics, rt)
	if resp := c.ask(req, 0).(*kmsg.DescribeTopicPartitionsResponse); resp.Topics[0].ErrorCode != protocol.UnknownTopicOrPartition {
		t.Errorf("%+v", resp)
	}
}
