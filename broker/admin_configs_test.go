package broker

import (
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol"
)

const (
	topicRes  = kmsg.ConfigResourceTypeTopic
	brokerRes = kmsg.ConfigResourceTypeBroker
)

func describeOne(t *testing.T, s *Server, kind kmsg.ConfigResourceType, name string, version int16, names ...string) kmsg.DescribeConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.IncludeSynonyms, req.IncludeDocumentation = true, true
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: names}}
	return call[*kmsg.DescribeConfigsResponse](t, s, req, version).Resources[0]
}

// incremental runs IncrementalAlterConfigs with operations written as "+name=value" (append), "-name=value" (subtract),
// "!name" (delete) or "name=value" (set).
func incremental(t *testing.T, s *Server, validate bool, kind kmsg.ConfigResourceType, name string, ops ...string) kmsg.IncrementalAlterConfigsResponseResource {
	t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.ValidateOnly = validate
	res := kmsg.NewIncrementalAlterConfigsRequestResource()
	res.ResourceType, res.ResourceName = kind, name
	for _, op := range ops {
		c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		switch op[0] {
		case '!':
			c.Op = kmsg.IncrementalAlterConfigOpDelete
		case '+':
			c.Op = kmsg.IncrementalAlterConfigOpAppend
		case '-':
			c.Op = kmsg.IncrementalAlterConfigOpSubtract
		case '?':
			c.Op = 9
		}
		k, v, ok := strings.Cut(strings.TrimLeft(op, "!+-?"), "=")
		if c.Name = k; ok {
			c.Value = &v
		}
		res.Configs = append(res.Configs, c)
	}
	req.Resources = append(req.Resources, res)
	return call[*kmsg.IncrementalAlterConfigsResponse](t, s, req, 1).Resources[0]
}

func TestDescribeConfigs(t *testing.T) {
	n := newMetaNode(1, 2)
	s := adminServer(t, n, map[string]string{"log.retention.hours": "1"})
	create(t, s, newTopic("t", 1, 1, "segment.bytes", "2097152"))
	for version := int16(1); version <= 4; version++ {
		got := describeOne(t, s, topicRes, "t", version)
		if got.ErrorCode != 0 || len(got.Configs) != len(config.Settings(config.ScopeTopic)) {
			t.Fatalf("version %d: %+v", version, got)
		}
		for _, c := range got.Configs {
			switch c.Name {
			case "segment.bytes":
				if text(c.Value) != "2097152" || c.Source != 1 || len(c.ConfigSynonyms) != 2 || c.ReadOnly {
					t.Errorf("version %d: %+v", version, c)
				}
			case "retention.ms":
				if text(c.Value) != "3600000" || c.Source != 4 || c.ConfigSynonyms[0].Name != "log.retention.hours" {
					t.Errorf("version %d: %+v", version, c)
				}
			case "remote.storage.enable":
				if !c.ReadOnly || c.Source != 5 {
					t.Errorf("version %d: %+v", version, c)
				}
			}
			if version >= 3 && (c.ConfigType == 0 || text(c.Documentation) == "") {
				t.Errorf("%+v", c)
			}
		}
	}
	if got := describeOne(t, s, topicRes, "t", 4, "segment.bytes", "no.such"); len(got.Configs) != 1 {
		t.Errorf("%+v", got.Configs)
	}
	plain := kmsg.NewPtrDescribeConfigsRequest()
	plain.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: topicRes, ResourceName: "t", ConfigNames: []string{"segment.bytes"}}}
	if c := call[*kmsg.DescribeConfigsResponse](t, s, plain, 4).Resources[0].Configs[0]; len(c.ConfigSynonyms) != 0 || c.Documentation != nil {
		t.Errorf("unasked: %+v", c)
	}
	for _, c := range []struct {
		kind kmsg.ConfigResourceType
		name string
		code int16
	}{
		{topicRes, "none", protocol.UnknownTopicOrPartition},
		{topicRes, "a b", protocol.InvalidTopicException},
		{brokerRes, "1", 0},
		{brokerRes, "", 0},
		{brokerRes, "2", protocol.InvalidRequest},
		{brokerRes, "one", protocol.InvalidRequest},
		{kmsg.ConfigResourceTypeBrokerLogger, "1", 0},
		{kmsg.ConfigResourceTypeGroupConfig, "g", 0},
		{kmsg.ConfigResourceTypeClientMetrics, "m", 0},
		{77, "x", protocol.InvalidRequest},
	} {
		if got := describeOne(t, s, c.kind, c.name, 4); got.ErrorCode != c.code {
			t.Errorf("%v %q: %s %s", c.kind, c.name, protocol.ErrorName(got.ErrorCode), text(got.ErrorMessage))
		}
	}
}

func TestIncrementalAlterConfigs(t *testing.T) {
	n := newMetaNode(1, 2)
	s := adminServer(t, n, nil)
	create(t, s, newTopic("t", 1, 1, "retention.ms", "5"))
	for _, c := range []struct {
		kind kmsg.ConfigResourceType
		name string
		ops  []string
		code int16
		msg  string
	}{
		{topicRes, "t", []string{"segment.bytes=2000000", "!retention.ms"}, 0, ""},
		{topicRes, "t", []string{"+cleanup.policy=compact"}, 0, ""},
		{topicRes, "t", []string{"-cleanup.policy=delete"}, 0, ""},
		{topicRes, "t", []string{"-cleanup.policy=compact"}, protocol.InvalidConfig, "must not be empty"},
		{topicRes, "t", []string{"+segment.bytes=1"}, protocol.InvalidConfig, "not LIST"},
		{topicRes, "t", []string{"segment.bytes=1"}, protocol.InvalidConfig, "at least 1048576"},
		{topicRes, "t", []string{"segment.byte=1"}, protocol.InvalidConfig, "did you mean segment.bytes?"},
		{topicRes, "t", []string{"!no.such"}, protocol.InvalidConfig, "Unknown"},
		{topicRes, "t", []string{"segment.bytes"}, protocol.InvalidRequest, "Null value"},
		{topicRes, "t", []string{"flush.ms=1", "!flush.ms"}, protocol.InvalidRequest, "duplicate"},
		{topicRes, "t", []string{"?flush.ms=1"}, protocol.InvalidRequest, "operation type 9"},
		{topicRes, "none", []string{"flush.ms=1"}, protocol.UnknownTopicOrPartition, ""},
		{brokerRes, "", []string{"log.segment.bytes=3000000"}, 0, ""},
		{brokerRes, "2", []string{"balsa.disk.min.free.bytes=7"}, 0, ""},
		{brokerRes, "2", []string{"log.segment.bytes=3000000"}, protocol.InvalidRequest, "broker level"},
		{brokerRes, "", []string{"num.partitions=3"}, protocol.InvalidRequest, "dynamically"},
		{brokerRes, "", []string{"no.such=3"}, protocol.InvalidConfig, "Unknown broker config"},
		{brokerRes, "9", []string{"balsa.disk.min.free.bytes=7"}, protocol.BrokerIDNotRegistered, "9"},
		{brokerRes, "x", []string{"balsa.disk.min.free.bytes=7"}, protocol.InvalidRequest, "integer"},
		{kmsg.ConfigResourceTypeGroupConfig, "g", []string{"x=1"}, protocol.InvalidConfig, "Unknown group config"},
		{kmsg.ConfigResourceTypeBrokerLogger, "1", []string{"x=INFO"}, protocol.InvalidRequest, "resource type"},
	} {
		before := n.img
		if got := incremental(t, s, true, c.kind, c.name, c.ops...); got.ErrorCode != c.code && c.code != protocol.BrokerIDNotRegistered || n.img != before {
			t.Errorf("validate %q %v: %s", c.name, c.ops, protocol.ErrorName(got.ErrorCode))
		}
		got := incremental(t, s, false, c.kind, c.name, c.ops...)
		if got.ErrorCode != c.code || !strings.Contains(text(got.ErrorMessage), c.msg) {
			t.Errorf("%q %v: %s %q", c.name, c.ops, protocol.ErrorName(got.ErrorCode), text(got.ErrorMessage))
		}
	}
	if got := n.img.Topics["t"].Configs; len(got) != 2 || got["segment.bytes"] != "2000000" || got["cleanup.policy"] != "compact" {
		t.Error(got)
	}
	if c := describeOne(t, s, brokerRes, "1", 4, "log.segment.bytes").Configs[0]; text(c.Value) != "3000000" || c.Source != 3 {
		t.Errorf("%+v", c)
	}
	if got := describeOne(t, s, brokerRes, "", 4).Configs; len(got) != 1 || got[0].Name != "log.segment.bytes" {
		t.Errorf("%+v", got)
	}
	if n.img.BrokerConfig[2]["balsa.disk.min.free.bytes"] != "7" {
		t.Error(n.img.BrokerConfig)
	}
}

func TestAlterConfigsReplacesAll(t *testing.T) {
	n := newMetaNode(1)
	s := adminServer(t, n, nil)
	create(t, s, newTopic("t", 1, 1, "retention.ms", "5", "flush.ms", "9"))
	alter := func(validate bool, kv ...string) kmsg.AlterConfigsResponseResource {
		req := kmsg.NewPtrAlterConfigsRequest()
		req.ValidateOnly = validate
		res := kmsg.AlterConfigsRequestResource{ResourceType: topicRes, ResourceName: "t"}
		for i := 0; i+1 < len(kv); i += 2 {
			res.Configs = append(res.Configs, kmsg.AlterConfigsRequestResourceConfig{Name: kv[i], Value: &kv[i+1]})
		}
		req.Resources = []kmsg.AlterConfigsRequestResource{res}
		if len(kv)%2 == 1 {
			req.Resources = append(req.Resources, res)
		}
		return call[*kmsg.AlterConfigsResponse](t, s, req, 2).Resources[0]
	}
	if got := alter(true, "segment.ms", "1000"); got.ErrorCode != 0 || len(n.img.Topics["t"].Configs) != 2 {
		t.Errorf("%+v", got)
	}
	if got := alter(false, "segment.ms", "0"); got.ErrorCode != protocol.InvalidConfig {
		t.Errorf("%+v", got)
	}
	if got := alter(false, "twice"); got.ErrorCode != protocol.InvalidRequest {
		t.Errorf("%+v", got)
	}
	if got := alter(false, "segment.ms", "1000"); got.ErrorCode != 0 {
		t.Errorf("%+v", got)
	}
	if got := n.img.Topics["t"].Configs; len(got) != 1 || got["segment.ms"] != "1000" {
		t.Error(got)
	}
}

func TestListConfigResources(t *testing.T) {
	s := adminServer(t, newMetaNode(1, 2), nil)
	create(t, s, newTopic("t", 1, 1))
	req := kmsg.NewPtrListConfigResourcesRequest()
	if got := call[*kmsg.ListConfigResourcesResponse](t, s, req, 1).ConfigResources; len(got) != 3 || got[0].Name != "t" {
		t.Errorf("%+v", got)
	}
	req.ResourceTypes = []int8{int8(brokerRes)}
	if got := call[*kmsg.ListConfigResourcesResponse](t, s, req, 1).ConfigResources; len(got) != 2 {
		t.Errorf("%+v", got)
	}
	if got := call[*kmsg.ListConfigResourcesResponse](t, s, req, 0).ConfigResources; len(got) != 0 {
		t.Errorf("%+v", got)
	}
}
