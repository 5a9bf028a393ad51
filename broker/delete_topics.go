package broker

// DeleteTopics (key 20, versions 1 to 6)
//
// By name, or from version 6 by topic ID. The metadata forgets the topics before the answer; the brokers delete the
// files afterwards.

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/protocol"
)

func handleDeleteTopics(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DeleteTopicsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteTopicsResponse)
	ctx, cancel := r.adminTimeout(req.TimeoutMillis)
	defer cancel()

	asked := req.Topics
	for i := range req.TopicNames {
		asked = append(asked, kmsg.DeleteTopicsRequestTopic{Topic: &req.TopicNames[i]})
	}
	img := s.node.Image()
	// What is asked for, by the topic that it means: a name and an ID may mean the same.
	found := make([]*meta.Topic, len(asked))
	meant := map[meta.TopicID]int{}
	for i := range asked {
		if found[i] = topicOf(img, &asked[i]); found[i] != nil {
			meant[found[i].ID]++
		}
	}
	twice := duplicates(asked, func(t kmsg.DeleteTopicsRequestTopic) string {
		if t.Topic != nil {
			return "name " + *t.Topic
		}
		return "id " + string(t.TopicID[:])
	})
	var ids []meta.TopicID
	var at []int // index in resp.Topics of each id
	for i := range asked {
		a, t := &asked[i], found[i]
		rt := kmsg.NewDeleteTopicsResponseTopic()
		rt.TopicID = a.TopicID
		if a.Topic != nil {
			rt.Topic = new(keep(*a.Topic))
		}
		var err error
		switch {
		case a.Topic != nil && a.TopicID != (meta.TopicID{}):
			err = refusal(protocol.InvalidRequest, "You may not specify both topic name and topic id.")
		case a.Topic == nil && a.TopicID == (meta.TopicID{}):
			err = refusal(protocol.InvalidRequest, "Neither topic name nor id were specified.")
		case !s.config().DeleteTopics():
			code := protocol.TopicDeletionDisabled
			if req.Version < 3 {
				code = protocol.InvalidRequest
			}
			err = refusal(code, "Topic deletion is disabled.")
		case a.Topic != nil && twice["name "+*a.Topic]:
			err = refusal(protocol.InvalidRequest, "Duplicate topic name.")
		case a.Topic == nil && twice["id "+string(a.TopicID[:])]:
			err = refusal(protocol.InvalidRequest, "Duplicate topic id.")
		case t == nil && a.Topic != nil:
			err = refusal(protocol.UnknownTopicOrPartition, "This server does not host this topic-partition.")
		case t == nil:
			err = refusal(protocol.UnknownTopicID, fmt.Sprintf("There is no topic with ID %s.", meta.TopicID(a.TopicID)))
		case meant[t.ID] > 1:
			err = refusal(protocol.InvalidRequest, "The provided topic name maps to an ID that was already supplied.")
		default:
			rt.Topic, rt.TopicID = &t.Name, t.ID
			ids, at = append(ids, t.ID), append(at, len(resp.Topics))
		}
		rt.ErrorCode, rt.ErrorMessage = adminError(err)
		resp.Topics = append(resp.Topics, rt)
	}
	if len(ids) == 0 {
		return resp, nil
	}
	for i, err := range s.node.DeleteTopics(ctx, ids) {
		rt := &resp.Topics[at[i]]
		rt.ErrorCode, rt.ErrorMessage = adminError(err)
		if rt.ErrorCode == protocol.UnknownTopicID && asked[at[i]].Topic != nil {
			rt.ErrorCode = protocol.UnknownTopicOrPartition // deleted meanwhile
		}
	}
	return resp, nil
}

func topicOf(img *meta.Image, a *kmsg.DeleteTopicsRequestTopic) *meta.Topic {
	if a.Topic != nil {
		return img.Topics[*a.Topic]
	}
	return img.TopicsByID[a.TopicID]
}
