package broker

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol"
)

// ListOffsets, versions 1-11.
//
// Only leaders answer. Without tiered storage -4 (earliest local) is the log start, -5 (latest tiered) and -6 (earliest
// pending upload) have no offset. The leader epoch is given for latest, and for offsets found by time.

const (
	latestTimestamp          = -1
	earliestTimestamp        = -2
	maxTimestamp             = -3 // v7
	earliestLocalTimestamp   = -4 // v8
	latestTieredTimestamp    = -5 // v9
	earliestPendingTimestamp = -6 // v11
)

// lookupsAtOnce bounds the partitions of one request that are looked up at the same time.
const lookupsAtOnce = 16

// minListOffsetsVersion of the special timestamps.
var minListOffsetsVersion = map[int64]int16{
	maxTimestamp: 7, earliestLocalTimestamp: 8, latestTieredTimestamp: 9, earliestPendingTimestamp: 11,
}

// leaderOf finds the local replica of a partition and checks that it leads, in the epoch that the client believes in
// (-1: any).
func (s *Server) leaderOf(t *meta.Topic, p, epoch int32) (*partition.Partition, int32, error) {
	local, ok := s.node.Partition(t.ID, p)
	if !ok {
		return nil, -1, partition.ErrNotLeader
	}
	current, leading := local.Leading()
	if !leading {
		if l, ok := s.node.Leader(t.ID, p); ok && l.Node == s.node.Self() {
			return nil, -1, partition.ErrLeaderNotReady
		}
		return nil, -1, partition.ErrNotLeader
	}
	switch {
	case epoch >= 0 && epoch < current:
		return nil, current, partition.ErrFencedEpoch
	case epoch > current:
		return nil, current, partition.ErrUnknownEpoch
	}
	return local, current, nil
}

// knownPartition says whether a topic has a partition.
func knownPartition(t *meta.Topic, p int32) bool {
	return t != nil && p >= 0 && int(p) < len(t.Partitions)
}

func handleListOffsets(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListOffsetsRequest)
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	timeout := 30 * time.Second
	if req.TimeoutMillis > 0 {
		timeout = min(timeout, time.Duration(req.TimeoutMillis)*time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(r.ctx, timeout)
	defer cancel()
	img := s.image()
	seen := map[string]map[int32]int{}
	for i := range req.Topics {
		for _, p := range req.Topics[i].Partitions {
			if seen[req.Topics[i].Topic] == nil {
				seen[req.Topics[i].Topic] = map[int32]int{}
			}
			seen[req.Topics[i].Topic][p.Partition]++
		}
	}
	var g errgroup.Group
	g.SetLimit(lookupsAtOnce)
	resp.Topics = make([]kmsg.ListOffsetsResponseTopic, len(req.Topics))
	for i := range req.Topics {
		rt := &req.Topics[i]
		out := &resp.Topics[i]
		out.Topic = rt.Topic
		out.Partitions = make([]kmsg.ListOffsetsResponseTopicPartition, len(rt.Partitions))
		t := img.Topics[rt.Topic]
		for j := range rt.Partitions {
			rp, op := &rt.Partitions[j], &out.Partitions[j]
			*op = kmsg.ListOffsetsResponseTopicPartition{Partition: rp.Partition, Timestamp: -1, Offset: -1, LeaderEpoch: -1}
			switch {
			case seen[rt.Topic][rp.Partition] > 1:
				op.ErrorCode = protocol.InvalidRequest
			case !knownPartition(t, rp.Partition):
				op.ErrorCode = protocol.UnknownTopicOrPartition
			case req.Version < minListOffsetsVersion[rp.Timestamp] || rp.Timestamp < earliestPendingTimestamp:
				op.ErrorCode = protocol.UnsupportedVersion
			default:
				g.Go(func() error {
					op.ErrorCode = s.listOffset(ctx, t, rp, op, req.IsolationLevel == 1, req.Version)
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

func (s *Server) listOffset(ctx context.Context, t *meta.Topic, rp *kmsg.ListOffsetsRequestTopicPartition, out *kmsg.ListOffsetsResponseTopicPartition, committed bool, version int16) int16 {
	code := func(err error) int16 {
		if errors.Is(err, partition.ErrLeaderNotReady) {
			if version >= 5 {
				return protocol.OffsetNotAvailable
			}
			return protocol.LeaderNotAvailable
		}
		return codeOf(err)
	}
	p, epoch, err := s.leaderOf(t, rp.Partition, rp.CurrentLeaderEpoch)
	if err != nil {
		return code(err)
	}
	switch rp.Timestamp {
	case latestTimestamp:
		// Clients start from this answer and never look behind it, so a deposed leader must not give it (rule 16).
		if err := p.VerifyLeader(ctx); err != nil {
			return code(err)
		}
		out.Offset, out.LeaderEpoch = p.HighWatermark(), epoch
		if committed {
			out.Offset = p.LastStableOffset()
		}
	case earliestTimestamp, earliestLocalTimestamp:
		out.Offset = p.LogStart()
	case latestTieredTimestamp, earliestPendingTimestamp:
	case maxTimestamp:
		out.Offset, out.Timestamp, out.LeaderEpoch, err = p.OffsetForMaxTime(ctx)
	default:
		out.Offset, out.Timestamp, out.LeaderEpoch, err = p.OffsetForTime(ctx, rp.Timestamp)
	}
	if err != nil {
		out.Offset, out.Timestamp, out.LeaderEpoch = -1, -1, -1
		return code(err)
	}
	return 0
}
