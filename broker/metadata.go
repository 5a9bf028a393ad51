package broker

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/protocol"
)

// Metadata, versions 0-13.
//
// Addresses are those of the listener by which the client came. Topics that are not there are created if the broker
// (auto.create.topics.enable) and the client allow it; Kafka answers LEADER_NOT_AVAILABLE meanwhile, here the answer
// waits a moment for the leaders and then mostly has them. Authorised operations are not computed until there is
// authorisation.

const (
	// autoCreateTime is how long an answer waits for topics that it creates.
	autoCreateTime = 5 * time.Second
	// maxAutoCreate bounds the topics that one request creates.
	maxAutoCreate = 100
)

// image is the newest metadata; empty before there is any.
func (s *Server) image() *meta.Image {
	if img := s.node.Image(); img != nil {
		return img
	}
	return &meta.Image{}
}

// alive says whether a broker is to be shown to clients.
func (s *Server) alive(img *meta.Image, id int32) bool {
	if id == s.node.Self() {
		return true
	}
	return img.Brokers[id] != nil && s.node.Alive(id)
}

func handleMetadata(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.MetadataRequest)
	resp := req.ResponseKind().(*kmsg.MetadataResponse)
	resp.AuthorizedOperations = math.MinInt32
	// Version 0 asks for all topics by an empty array, later ones by null.
	all := req.Topics == nil || req.Version == 0 && len(req.Topics) == 0
	created := map[string]int16{}
	if !all && s.config().AutoCreateTopics() && (req.AllowAutoTopicCreation || req.Version < 4) {
		created = s.autoCreate(r.ctx, req)
	}

	img := s.image()
	resp.ControllerID = s.node.Controller()
	if img.ClusterID != "" {
		resp.ClusterID = &img.ClusterID
	}
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		if !s.alive(img, id) {
			continue
		}
		if e, ok := endpointOf(img.Brokers[id], r.listener); ok {
			resp.Brokers = append(resp.Brokers, kmsg.MetadataResponseBroker{NodeID: id, Host: e.host, Port: e.port, Rack: e.rack})
		}
	}
	if all {
		resp.Topics = make([]kmsg.MetadataResponseTopic, 0, len(img.Topics))
		for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
			resp.Topics = append(resp.Topics, s.metadataTopic(img, img.Topics[name], r.listener, req.Version))
		}
		return resp, nil
	}
	for i := range req.Topics {
		resp.Topics = append(resp.Topics, s.askedTopic(img, &req.Topics[i], created, r.listener, req.Version))
	}
	return resp, nil
}

// askedTopic answers one topic of a request, by name or by id.
func (s *Server) askedTopic(img *meta.Image, rt *kmsg.MetadataRequestTopic, created map[string]int16, listener string, version int16) kmsg.MetadataResponseTopic {
	out := kmsg.NewMetadataResponseTopic()
	out.AuthorizedOperations = math.MinInt32
	if rt.Topic == nil {
		if t := img.TopicsByID[rt.TopicID]; t != nil {
			return s.metadataTopic(img, t, listener, version)
		}
		out.TopicID, out.ErrorCode = rt.TopicID, protocol.UnknownTopicID
		if version < 12 { // the name may not be null
			empty := ""
			out.Topic = &empty
		}
		s.m.failed(out.ErrorCode)
		return out
	}
	name := *rt.Topic
	if t := img.Topics[name]; t != nil {
		return s.metadataTopic(img, t, listener, version)
	}
	out.Topic = &name
	switch code, tried := created[name]; {
	case tried:
		out.ErrorCode = code
	case meta.ValidateName(name) != nil:
		out.ErrorCode = protocol.InvalidTopicException
	default:
		out.ErrorCode = protocol.UnknownTopicOrPartition
	}
	s.m.failed(out.ErrorCode)
	return out
}

// autoCreate creates the topics that are missing and gives the code to answer for those that still are.
func (s *Server) autoCreate(ctx context.Context, req *kmsg.MetadataRequest) map[string]int16 {
	img := s.image()
	var specs []cluster.TopicSpec
	codes := map[string]int16{}
	for i := range req.Topics {
		name := req.Topics[i].Topic
		if name == nil || img.Topics[*name] != nil || meta.ValidateName(*name) != nil {
			continue
		}
		if _, twice := codes[*name]; twice {
			continue
		}
		codes[*name] = protocol.LeaderNotAvailable // retriable
		if len(specs) < maxAutoCreate {
			specs = append(specs, cluster.TopicSpec{Name: *name, Partitions: -1, ReplicationFactor: -1})
		}
	}
	if len(specs) == 0 {
		return codes
	}
	ctx, cancel := context.WithTimeout(ctx, autoCreateTime)
	defer cancel()
	_, errs := s.node.CreateTopics(ctx, specs, false)
	for i, err := range errs {
		var refused *meta.Error
		switch {
		case err == nil:
			s.log.Info("created a topic that a client asked for", "topic", specs[i].Name)
		case errors.As(err, &refused) && refused.Code != protocol.TopicAlreadyExists && refused.Code != protocol.RequestTimedOut:
			codes[specs[i].Name] = refused.Code
			s.log.Warn("creating a topic that a client asked for was refused", "topic", specs[i].Name, "err", err)
		case !errors.As(err, &refused):
			s.log.Warn("creating a topic that a client asked for did not end well", "topic", specs[i].Name, "err", err)
		}
	}
	return codes
}

// leadership of a partition as clients are told: what Metadata and DescribeTopicPartitions share.
type leadership struct {
	code          int16
	leader, epoch int32
	replicas      []int32
	isr, offline  []int32
}

func (s *Server) leadership(img *meta.Image, t *meta.Topic, p *meta.Partition, listener string) leadership {
	l := leadership{leader: -1, epoch: -1, replicas: make([]int32, 0, len(p.Replicas)), isr: []int32{}, offline: []int32{}}
	inSync := s.node.InSync(t.ID, p.ID)
	who, known := s.node.Leader(t.ID, p.ID)
	if known {
		l.epoch = who.Epoch
		if s.alive(img, who.Node) {
			l.leader = who.Node
		}
	}
	for _, r := range p.Replicas {
		l.replicas = append(l.replicas, r.Node)
		switch {
		case !s.alive(img, r.Node):
			l.offline = append(l.offline, r.Node)
		case len(inSync) == 0 || slices.Contains(inSync, r.Node) || r.Node == l.leader:
			l.isr = append(l.isr, r.Node)
		}
	}
	switch {
	case l.leader < 0:
		l.code = protocol.LeaderNotAvailable
	case img.Brokers[l.leader] == nil:
		l.code, l.leader = protocol.LeaderNotAvailable, -1
	default:
		if _, ok := endpointOf(img.Brokers[l.leader], listener); !ok {
			l.code, l.leader = protocol.ListenerNotFound, -1
		}
	}
	return l
}

func (s *Server) metadataTopic(img *meta.Image, t *meta.Topic, listener string, version int16) kmsg.MetadataResponseTopic {
	out := kmsg.NewMetadataResponseTopic()
	out.Topic, out.TopicID, out.IsInternal = &t.Name, t.ID, t.Internal
	out.AuthorizedOperations = math.MinInt32
	out.Partitions = make([]kmsg.MetadataResponseTopicPartition, len(t.Partitions))
	for i := range t.Partitions {
		l := s.leadership(img, t, &t.Partitions[i], listener)
		if l.code == protocol.ListenerNotFound && version < 6 {
			l.code = protocol.LeaderNotAvailable
		}
		out.Partitions[i] = kmsg.MetadataResponseTopicPartition{
			ErrorCode: l.code, Partition: t.Partitions[i].ID, Leader: l.leader, LeaderEpoch: l.epoch,
			Replicas: l.replicas, ISR: l.isr, OfflineReplicas: l.offline,
		}
		s.m.failed(l.code)
	}
	return out
}
