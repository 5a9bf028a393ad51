package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

// OffsetForLeaderEpoch, versions 2-4: where a leader epoch ended, by which a consumer notices that what it read was
// replaced. Only leaders answer.

func handleOffsetForLeaderEpoch(s *Server, _ *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	img := s.image()
	resp.Topics = make([]kmsg.OffsetForLeaderEpochResponseTopic, len(req.Topics))
	for i := range req.Topics {
		rt, out := &req.Topics[i], &resp.Topics[i]
		out.Topic = rt.Topic
		out.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(rt.Partitions))
		t := img.Topics[rt.Topic]
		for j := range rt.Partitions {
			rp, op := &rt.Partitions[j], &out.Partitions[j]
			*op = kmsg.OffsetForLeaderEpochResponseTopicPartition{Partition: rp.Partition, LeaderEpoch: -1, EndOffset: -1}
			if !knownPartition(t, rp.Partition) {
				op.ErrorCode = protocol.UnknownTopicOrPartition
			} else if p, _, err := s.leaderOf(t, rp.Partition, rp.CurrentLeaderEpoch); err != nil {
				op.ErrorCode = codeOf(err)
			} else {
				op.LeaderEpoch, op.EndOffset = p.EpochEnd(rp.LeaderEpoch)
			}
			s.m.failed(op.ErrorCode)
		}
	}
	return resp, nil
}
