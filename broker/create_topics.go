package broker

// CreateTopics (key 19, versions 2 to 7)
//
// The answer comes when every partition has a leader that all live brokers know, so that a client's next produce works;
// else REQUEST_TIMED_OUT, and the topic may still appear. Deviations: timeout_ms <= 0 waits 30 s; -1 partitions or
// replicas are the defaults in every version; preallocate=true, unclean.leader.election.enable=true and
// remote.storage.enable=true are INVALID_CONFIG.

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol"
)

// maxPartitionsPerRequest is Kafka's bound too.
const maxPartitionsPerRequest = 10_000

func handleCreateTopics(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.CreateTopicsRequest)
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	ctx, cancel := r.adminTimeout(req.TimeoutMillis)
	defer cancel()

	twice := duplicates(req.Topics, func(t kmsg.CreateTopicsRequestTopic) string { return t.Topic })
	tooMany := partitionsAsked(req, s.config()) > maxPartitionsPerRequest
	answered := map[string]bool{}
	var specs []cluster.TopicSpec
	var at []int // index in resp.Topics of each spec
	for i := range req.Topics {
		t := &req.Topics[i]
		name := keep(t.Topic)
		if answered[name] {
			continue
		}
		answered[name] = true
		rt := kmsg.NewCreateTopicsResponseTopic()
		rt.Topic = name
		var spec cluster.TopicSpec
		var err error
		switch {
		case twice[name]:
			err = refusal(protocol.InvalidRequest, "Duplicate topic name.")
		case tooMany:
			err = refusal(protocol.PolicyViolation, fmt.Sprintf("Excessively large number of partitions per request: the limit is %d.", maxPartitionsPerRequest))
		default:
			spec, err = topicSpec(t)
		}
		if err != nil {
			rt.ErrorCode, rt.ErrorMessage = adminError(err)
		} else {
			specs, at = append(specs, spec), append(at, len(resp.Topics))
		}
		resp.Topics = append(resp.Topics, rt)
	}
	if len(specs) == 0 {
		return resp, nil
	}
	topics, errs := s.node.CreateTopics(ctx, specs, req.ValidateOnly)
	for i := range specs {
		rt := &resp.Topics[at[i]]
		if errs[i] != nil {
			rt.ErrorCode, rt.ErrorMessage = adminError(errs[i])
			continue
		}
		s.createdTopic(rt, &specs[i], topics[i], req.ValidateOnly)
	}
	return resp, nil
}

func partitionsAsked(req *kmsg.CreateTopicsRequest, c *config.Broker) (n int64) {
	for i := range req.Topics {
		t := &req.Topics[i]
		switch {
		case len(t.ReplicaAssignment) > 0:
			n += int64(len(t.ReplicaAssignment))
		case t.NumPartitions == -1:
			n += int64(c.NumPartitions())
		default:
			n += max(0, int64(t.NumPartitions))
		}
	}
	return n
}

// topicSpec checks what needs no metadata and copies the topic out of the request.
func topicSpec(t *kmsg.CreateTopicsRequestTopic) (cluster.TopicSpec, error) {
	spec := cluster.TopicSpec{Name: keep(t.Topic), Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor}
	if err := meta.ValidateName(spec.Name); err != nil {
		return spec, err
	}
	if len(t.ReplicaAssignment) > 0 {
		switch {
		case t.NumPartitions != -1:
			return spec, refusal(protocol.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1.")
		case t.ReplicationFactor != -1:
			return spec, refusal(protocol.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1.")
		}
		spec.Assignment = make(map[int32][]int32, len(t.ReplicaAssignment))
		for _, a := range t.ReplicaAssignment {
			if _, ok := spec.Assignment[a.Partition]; ok {
				return spec, refusal(protocol.InvalidReplicaAssignment, fmt.Sprintf("Found multiple manual partition assignments for partition %d", a.Partition))
			}
			spec.Assignment[a.Partition] = a.Replicas
		}
	} else {
		switch {
		case t.NumPartitions == 0 || t.NumPartitions < -1:
			return spec, refusal(protocol.InvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
		case t.ReplicationFactor == 0 || t.ReplicationFactor < -1:
			return spec, refusal(protocol.InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value.")
		}
	}
	spec.Configs = make(map[string]string, len(t.Configs))
	for _, c := range t.Configs {
		if c.Value == nil {
			return spec, refusal(protocol.InvalidConfig, "Null value not supported for topic configs: "+c.Name)
		}
		spec.Configs[keep(c.Name)] = keep(*c.Value)
	}
	return spec, config.ValidateTopic(spec.Configs)
}

// createdTopic fills in the answer for a topic that was created, or could be.
func (s *Server) createdTopic(rt *kmsg.CreateTopicsResponseTopic, spec *cluster.TopicSpec, t *meta.Topic, validateOnly bool) {
	rt.NumPartitions, rt.ReplicationFactor = max(spec.Partitions, int32(len(spec.Assignment))), spec.ReplicationFactor
	if t != nil && len(t.Partitions) > 0 {
		rt.NumPartitions, rt.ReplicationFactor = int32(len(t.Partitions)), int16(len(t.Partitions[0].Replicas))
		if !validateOnly {
			rt.TopicID = t.ID
		}
	}
	if rt.ReplicationFactor == 2 {
		s.log.Warn("replication factor 2 survives no failure: a majority of two is two", "topic", spec.Name)
	}
	rt.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
	for _, e := range config.DescribeTopic(spec.Configs, s.config()) {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.ReadOnly, c.Source, c.IsSensitive = e.Name, shownValue(&e), e.ReadOnly, int8(e.Source), e.Sensitive
		rt.Configs = append(rt.Configs, c)
	}
}

// shownValue of a setting: null when it is not set, or secret.
func shownValue(e *config.Entry) *string {
	if e.Null || e.Sensitive {
		return nil
	}
	return &e.Value
}
