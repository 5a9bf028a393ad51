package broker

// ListConfigResources (key 74, versions 0 to 1)
//
// Version 0 lists client metrics (there are none); version 1 topics, brokers and groups too.

import (
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func handleListConfigResources(s *Server, _ *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.ListConfigResourcesRequest)
	resp := req.ResponseKind().(*kmsg.ListConfigResourcesResponse)
	if req.Version == 0 {
		return resp, nil
	}
	wanted := func(t kmsg.ConfigResourceType) bool {
		return len(req.ResourceTypes) == 0 || slices.Contains(req.ResourceTypes, int8(t))
	}
	add := func(t kmsg.ConfigResourceType, name string) {
		c := kmsg.NewListConfigResourcesResponseConfigResource()
		c.Name, c.Type = name, int8(t)
		resp.ConfigResources = append(resp.ConfigResources, c)
	}
	img := s.node.Image()
	if wanted(kmsg.ConfigResourceTypeTopic) {
		for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
			add(kmsg.ConfigResourceTypeTopic, name)
		}
	}
	if wanted(kmsg.ConfigResourceTypeBroker) {
		for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
			add(kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(id)))
		}
	}
	return resp, nil
}
