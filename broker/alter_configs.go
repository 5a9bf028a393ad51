package broker

// AlterConfigs (key 33, versions 0 to 2) replaces all settings of a resource; IncrementalAlterConfigs (key 44, versions 0
// to 1) sets, deletes, appends to and subtracts from single ones.
//
// Topics, and the dynamic settings of one broker (by id) or of all (""). Any broker answers for any. Append and subtract
// read this broker's metadata: two at once for one list may lose one. Deviations: unknown broker settings are refused
// (Kafka keeps them), with INVALID_CONFIG as unknown topic settings.

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol"
)

func handleAlterConfigs(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.AlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	ctx, cancel := r.adminTimeout(0)
	defer cancel()
	twice := duplicates(req.Resources, func(a kmsg.AlterConfigsRequestResource) resource {
		return resource{a.ResourceType, a.ResourceName}
	})
	for i := range req.Resources {
		a := &req.Resources[i]
		res := resource{a.ResourceType, keep(a.ResourceName)}
		err := s.alter(ctx, res, twice[res], req.ValidateOnly, true, func(target) (map[string]*string, error) {
			set := make(map[string]*string, len(a.Configs))
			for _, c := range a.Configs {
				if c.Value == nil {
					return nil, refusal(protocol.InvalidRequest, "Null value not supported for : "+c.Name)
				}
				set[keep(c.Name)] = new(keep(*c.Value))
			}
			return set, nil
		})
		ra := kmsg.NewAlterConfigsResponseResource()
		ra.ResourceType, ra.ResourceName = res.kind, res.name
		ra.ErrorCode, ra.ErrorMessage = adminError(err)
		resp.Resources = append(resp.Resources, ra)
	}
	return resp, nil
}

func handleIncrementalAlterConfigs(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.IncrementalAlterConfigsRequest)
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	ctx, cancel := r.adminTimeout(0)
	defer cancel()
	twice := duplicates(req.Resources, func(a kmsg.IncrementalAlterConfigsRequestResource) resource {
		return resource{a.ResourceType, a.ResourceName}
	})
	for i := range req.Resources {
		a := &req.Resources[i]
		res := resource{a.ResourceType, keep(a.ResourceName)}
		err := s.alter(ctx, res, twice[res], req.ValidateOnly, false, func(t target) (map[string]*string, error) {
			return t.incremental(a.Configs)
		})
		ra := kmsg.NewIncrementalAlterConfigsResponseResource()
		ra.ResourceType, ra.ResourceName = res.kind, res.name
		ra.ErrorCode, ra.ErrorMessage = adminError(err)
		resp.Resources = append(resp.Resources, ra)
	}
	return resp, nil
}

type resource struct {
	kind kmsg.ConfigResourceType
	name string
}

// target is a resource whose settings are to be altered.
type target struct {
	scope     config.Scope
	perBroker bool
	current   map[string]string // what is set on it now
	inherited func(name string) string
}

// alter checks and carries out the change that want works out.
func (s *Server) alter(ctx context.Context, res resource, twice, validateOnly, replaceAll bool, want func(target) (map[string]*string, error)) error {
	if twice {
		return refusal(protocol.InvalidRequest, "Each resource must appear at most once.")
	}
	t, err := s.target(res)
	if err != nil {
		return err
	}
	set, err := want(t)
	if err != nil {
		return err
	}
	if err := t.check(set, replaceAll); err != nil {
		return err
	}
	if validateOnly {
		return nil
	}
	return s.node.AlterConfigs(ctx, int8(res.kind), res.name, set, replaceAll)
}

func (s *Server) target(res resource) (target, error) {
	img, b := s.node.Image(), s.config()
	switch res.kind {
	case kmsg.ConfigResourceTypeTopic:
		if err := meta.ValidateName(res.name); err != nil {
			return target{}, err
		}
		topic := img.Topics[res.name]
		if topic == nil {
			return target{}, refusal(protocol.UnknownTopicOrPartition, "This server does not host this topic-partition.")
		}
		return target{scope: config.ScopeTopic, current: topic.Configs, inherited: func(name string) string {
			return config.InheritedByTopic(name, b)
		}}, nil
	case kmsg.ConfigResourceTypeBroker:
		t := target{scope: config.ScopeBroker, current: img.ClusterConfig, inherited: func(name string) string {
			v, _ := b.Get(name)
			return v
		}}
		if res.name == "" {
			return t, nil
		}
		id, err := strconv.ParseInt(res.name, 10, 32)
		if err != nil {
			return t, refusal(protocol.InvalidRequest, fmt.Sprintf("Unable to parse broker name as integer: %.100s", res.name))
		}
		t.perBroker, t.current = true, img.BrokerConfig[int32(id)]
		return t, nil
	case kmsg.ConfigResourceTypeGroupConfig:
		return target{scope: config.ScopeGroup}, nil
	}
	return target{}, refusal(protocol.InvalidRequest, fmt.Sprintf("Unsupported resource type: %d", res.kind))
}

// incremental turns operations into new values (nil: removed).
func (t target) incremental(ops []kmsg.IncrementalAlterConfigsRequestResourceConfig) (map[string]*string, error) {
	set := make(map[string]*string, len(ops))
	for _, op := range ops {
		name := keep(op.Name)
		if _, twice := set[name]; twice {
			return nil, refusal(protocol.InvalidRequest, "Error due to duplicate config keys: "+name)
		}
		if op.Op == kmsg.IncrementalAlterConfigOpDelete {
			set[name] = nil
			continue
		}
		if op.Value == nil {
			return nil, refusal(protocol.InvalidRequest, "Null value not supported for : "+name)
		}
		value := keep(*op.Value)
		switch op.Op {
		case kmsg.IncrementalAlterConfigOpSet:
		case kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract:
			st := config.Lookup(t.scope, name)
			if st != nil && st.Type != config.List {
				return nil, refusal(protocol.InvalidConfig, fmt.Sprintf("Can't %s to key %s because its type is not LIST.", op.Op, name))
			}
			old, ok := t.current[name]
			if !ok && st != nil {
				old = t.inherited(name)
			}
			value = edited(old, value, op.Op == kmsg.IncrementalAlterConfigOpAppend)
		default:
			return nil, refusal(protocol.InvalidRequest, fmt.Sprintf("Unknown operation type %d", op.Op))
		}
		set[name] = &value
	}
	return set, nil
}

// edited adds the elements of a list to another, or takes them out.
func edited(list, elems string, add bool) string {
	have, change := config.SplitList(list), config.SplitList(elems)
	if !add {
		have = slices.DeleteFunc(have, func(e string) bool { return slices.Contains(change, e) })
		return strings.Join(have, ",")
	}
	for _, e := range change {
		if !slices.Contains(have, e) {
			have = append(have, e)
		}
	}
	return strings.Join(have, ",")
}

// check says whether the target may be changed so. What is set already and stays is not judged again, unless it now
// contradicts: another version may have set it.
func (t target) check(set map[string]*string, replaceAll bool) error {
	next := map[string]string{}
	if !replaceAll {
		maps.Copy(next, t.current)
		maps.DeleteFunc(next, func(name, value string) bool {
			st := config.Lookup(t.scope, name)
			return st == nil || st.Check(value) != nil
		})
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		value := set[name]
		if value == nil {
			delete(next, name)
			_, there := t.current[name]
			if err := config.Known(t.scope, name); err != nil && !there {
				return err
			}
			continue
		}
		next[name] = *value
		if t.scope == config.ScopeBroker {
			if err := config.ValidateBroker(name, *value, t.perBroker); err != nil {
				return err
			}
		} else if err := config.Known(t.scope, name); err != nil {
			return err
		}
	}
	if t.scope == config.ScopeTopic {
		return config.ValidateTopic(next)
	}
	return nil
}
