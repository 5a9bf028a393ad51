package broker

// DescribeConfigs (key 32, versions 1 to 4)
//
// Topics, brokers ("" are the settings for all brokers; the static ones of a broker only that broker knows, so the request
// goes to it, as in Kafka), groups and client metrics (nothing yet). Settings that are accepted and not acted on are
// read_only. An answer has a bound: resources beyond it get POLICY_VIOLATION.

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol"
)

// maxDescribedBytes bounds the answer, roughly: a small request may name every topic, with documentation.
const maxDescribedBytes = 64 << 20

func handleDescribeConfigs(s *Server, _ *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeConfigsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
	size := 0
	for i := range req.Resources {
		res := &req.Resources[i]
		rr := kmsg.NewDescribeConfigsResponseResource()
		rr.ResourceType, rr.ResourceName = res.ResourceType, keep(res.ResourceName)
		var entries []config.Entry
		err := refusal(protocol.PolicyViolation, fmt.Sprintf("The answer would exceed %d MiB: ask for fewer resources at once.", maxDescribedBytes>>20))
		if size < maxDescribedBytes {
			entries, err = s.describe(rr.ResourceType, rr.ResourceName)
		}
		rr.ErrorCode, rr.ErrorMessage = adminError(err)
		rr.Configs = []kmsg.DescribeConfigsResponseResourceConfig{}
		for j := range entries {
			if len(res.ConfigNames) > 0 && !slices.Contains(res.ConfigNames, entries[j].Name) {
				continue
			}
			c, n := describedConfig(&entries[j], req.IncludeSynonyms, req.IncludeDocumentation)
			rr.Configs = append(rr.Configs, c)
			size += n
		}
		resp.Resources = append(resp.Resources, rr)
	}
	return resp, nil
}

func (s *Server) describe(t kmsg.ConfigResourceType, name string) ([]config.Entry, error) {
	img := s.node.Image()
	switch t {
	case kmsg.ConfigResourceTypeTopic:
		if err := meta.ValidateName(name); err != nil {
			return nil, err
		}
		topic := img.Topics[name]
		if topic == nil {
			return nil, refusal(protocol.UnknownTopicOrPartition, "This server does not host this topic-partition.")
		}
		return config.DescribeTopic(topic.Configs, s.config()), nil
	case kmsg.ConfigResourceTypeBroker:
		if name == "" {
			return config.DescribeClusterDefaults(img.ClusterConfig), nil
		}
		if err := s.isSelf(name); err != nil {
			return nil, err
		}
		return config.DescribeBroker(s.config()), nil
	case kmsg.ConfigResourceTypeBrokerLogger:
		return nil, s.isSelf(name)
	case kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigResourceTypeGroupConfig:
		return nil, nil
	}
	return nil, refusal(protocol.InvalidRequest, fmt.Sprintf("Unsupported resource type: %d", t))
}

// isSelf refuses a broker resource that is not this broker.
func (s *Server) isSelf(name string) error {
	id, err := strconv.ParseInt(name, 10, 32)
	if err != nil {
		return refusal(protocol.InvalidRequest, fmt.Sprintf("Broker id must be an integer, but it is: %.100s", name))
	}
	if int32(id) != s.node.Self() {
		return refusal(protocol.InvalidRequest, fmt.Sprintf("Unexpected broker id, expected %d or empty string, but received %d", s.node.Self(), id))
	}
	return nil
}

// describedConfig encodes an entry, and says about how many bytes it takes.
func describedConfig(e *config.Entry, synonyms, documentation bool) (kmsg.DescribeConfigsResponseResourceConfig, int) {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value, c.ReadOnly, c.IsSensitive = e.Name, shownValue(e), e.ReadOnly, e.Sensitive
	c.Source, c.IsDefault = kmsg.ConfigSource(e.Source), e.Source == config.SourceDefault
	c.ConfigType = kmsg.ConfigType(e.Type)
	c.ConfigSynonyms = []kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{}
	size := 16 + len(e.Name) + len(e.Value)
	if synonyms {
		for i := range e.Synonyms {
			y := &e.Synonyms[i]
			k := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			k.Name, k.Source = y.Name, kmsg.ConfigSource(y.Source)
			if !y.Null && !e.Sensitive {
				k.Value = &y.Value
			}
			c.ConfigSynonyms = append(c.ConfigSynonyms, k)
			size += 8 + len(y.Name) + len(y.Value)
		}
	}
	if documentation {
		c.Documentation = &e.Doc
		size += len(e.Doc)
	}
	return c, size
}
