package broker

// CreatePartitions (key 37, versions 0 to 3)

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

func handleCreatePartitions(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	ctx, cancel := r.adminTimeout(req.TimeoutMillis)
	defer cancel()

	twice := duplicates(req.Topics, func(t kmsg.CreatePartitionsRequestTopic) string { return t.Topic })
	answered := map[string]bool{}
	img := s.node.Image()
	grown := int64(0)
	for i := range req.Topics {
		t := &req.Topics[i]
		name := keep(t.Topic)
		if answered[name] {
			continue
		}
		answered[name] = true
		rt := kmsg.NewCreatePartitionsResponseTopic()
		rt.Topic = name
		var assignment [][]int32
		for _, a := range t.Assignment {
			assignment = append(assignment, a.Replicas)
		}
		topic := img.Topics[name]
		if topic != nil {
			grown += max(0, int64(t.Count)-int64(len(topic.Partitions)))
		}
		var err error
		switch {
		case twice[name]:
			err = refusal(protocol.InvalidRequest, "Duplicate topic name.")
		case topic == nil:
			err = refusal(protocol.UnknownTopicOrPartition, "This server does not host this topic-partition.")
		case grown > maxPartitionsPerRequest:
			err = refusal(protocol.PolicyViolation, fmt.Sprintf("Excessively large number of partitions per request: the limit is %d.", maxPartitionsPerRequest))
		case ctx.Err() != nil:
			err = ctx.Err()
		default:
			err = s.node.CreatePartitions(ctx, name, t.Count, assignment, req.ValidateOnly)
		}
		rt.ErrorCode, rt.ErrorMessage = adminError(err)
		resp.Topics = append(resp.Topics, rt)
	}
	return resp, nil
}
