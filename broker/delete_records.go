package broker

import (
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/balsa-broker/balsa/protocol"
)

// DeleteRecords, versions 0-2: moves a partition's log start, to the high watermark for offset -1. The answer comes when
// the command that does it is committed.

func handleDeleteRecords(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DeleteRecordsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	ctx, cancel := r.adminTimeout(req.TimeoutMillis)
	defer cancel()
	img := s.image()
	var g errgroup.Group
	g.SetLimit(lookupsAtOnce)
	resp.Topics = make([]kmsg.DeleteRecordsResponseTopic, len(req.Topics))
	for i := range req.Topics {
		rt, out := &req.Topics[i], &resp.Topics[i]
		out.Topic = rt.Topic
		out.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(rt.Partitions))
		t := img.Topics[rt.Topic]
		for j := range rt.Partitions {
			rp, op := &rt.Partitions[j], &out.Partitions[j]
			*op = kmsg.DeleteRecordsResponseTopicPartition{Partition: rp.Partition, LowWatermark: -1}
			switch {
			case !knownPartition(t, rp.Partition):
				op.ErrorCode = protocol.UnknownTopicOrPartition
			case t.Internal:
				op.ErrorCode = protocol.InvalidTopicException
			case !s.topicConfig(img, t).CleanupDelete:
				op.ErrorCode = protocol.PolicyViolation
			case rp.Offset < -1:
				op.ErrorCode = protocol.OffsetOutOfRange
			default:
				g.Go(func() error {
					p, _, err := s.leaderOf(t, rp.Partition, -1)
					if err == nil {
						op.LowWatermark, err = p.DeleteRecords(ctx, rp.Offset)
					}
					if err != nil {
						op.LowWatermark, op.ErrorCode = -1, codeOf(err)
					}
					return nil
				})
			}
		}
	}
	_ = g.Wait()
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			s.m.failed(resp.Topics[i].Partitions[j].ErrorCode)
		}
	}
	return resp, nil
}
