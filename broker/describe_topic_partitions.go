package broker

import (
	"maps"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

// DescribeTopicPartitions, version 0.
//
// Topics come in the order of their names, at most the smaller of the request's limit and
// max.request.partition.size.limit partitions; the cursor says where to go on. There are no eligible leader replicas
// beside the in-sync ones: a leader always has every acknowledged record.

func handleDescribeTopicPartitions(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeTopicPartitionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	img := s.image()
	var names []string
	if len(req.Topics) == 0 {
		names = slices.Sorted(maps.Keys(img.Topics))
	} else {
		for i := range req.Topics {
			names = append(names, req.Topics[i].Topic)
		}
		slices.Sort(names)
		names = slices.Compact(names)
	}
	from := 0
	if c := req.Cursor; c != nil {
		i, _ := slices.BinarySearch(names, c.Topic)
		names = names[i:]
		if len(names) > 0 && names[0] == c.Topic {
			from = max(0, int(c.Partition))
		}
	}
	left := s.config().RequestPartitionLimit()
	if req.ResponsePartitionLimit > 0 {
		left = min(left, int(req.ResponsePartitionLimit))
	}
	for _, name := range names {
		out := kmsg.NewDescribeTopicPartitionsResponseTopic()
		out.Topic, out.AuthorizedOperations = &name, math.MinInt32
		t := img.Topics[name]
		if t == nil {
			out.ErrorCode = protocol.UnknownTopicOrPartition
			s.m.failed(out.ErrorCode)
			resp.Topics = append(resp.Topics, out)
			from = 0
			continue
		}
		if left <= 0 {
			next := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
			next.Topic, next.Partition = name, int32(from)
			resp.NextCursor = &next
			break
		}
		out.TopicID, out.IsInternal = t.ID, t.Internal
		for i := min(from, len(t.Partitions)); i < len(t.Partitions) && left > 0; i++ {
			l := s.leadership(img, t, &t.Partitions[i], r.listener)
			p := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
			p.ErrorCode, p.Partition, p.LeaderID, p.LeaderEpoch = l.code, t.Partitions[i].ID, l.leader, l.epoch
			p.Replicas, p.ISR, p.OfflineReplicas = l.replicas, l.isr, l.offline
			p.EligibleLeaderReplicas, p.LastKnownELR = []int32{}, []int32{}
			out.Partitions = append(out.Partitions, p)
			from = i + 1
			left--
		}
		resp.Topics = append(resp.Topics, out)
		if from < len(t.Partitions) {
			next := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
			next.Topic, next.Partition = name, int32(from)
			resp.NextCursor = &next
			break
		}
		from = 0
	}
	return resp, nil
}
