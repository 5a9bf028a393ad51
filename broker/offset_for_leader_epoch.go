package broker

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/balsa-broker/balsa/protocol"
)

// OffsetForLeaderEpoch, versions 2-4: where a leader epoch ended, by which a consumer notices that what it read was
// replaced. Only leaders answer.

// epochTimeout bounds the wait for majorities to confirm their leaders.
const epochTimeout = 10 * time.Second

func handleOffsetForLeaderEpoch(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	img := s.image()
	ctx, cancel := context.WithTimeout(r.ctx, epochTimeout)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(lookupsAtOnce)
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
				g.Go(func() error {
					var err error
					op.LeaderEpoch, op.EndOffset, err = p.EpochEnd(ctx, rp.LeaderEpoch)
					op.ErrorCode = codeOf(err)
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
