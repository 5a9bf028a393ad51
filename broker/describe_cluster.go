package broker

// DescribeCluster (key 60, versions 0 to 2)
//
// Addresses are those of the listener that the client came by. Controllers are brokers, and there is no listener of their
// own: endpoint type 2 is refused. Authorised operations are not computed until there is authorisation.

import (
	"maps"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

func handleDescribeCluster(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeClusterRequest)
	resp := req.ResponseKind().(*kmsg.DescribeClusterResponse)
	resp.ControllerID = -1
	resp.ClusterAuthorizedOperations = math.MinInt32
	resp.EndpointType = req.EndpointType
	if req.Version >= 1 && req.EndpointType != 1 {
		code, msg := protocol.UnsupportedEndpointType, "Unsupported endpoint type"
		if req.EndpointType == 2 {
			code, msg = protocol.MismatchedEndpointType, "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
		}
		resp.ErrorCode, resp.ErrorMessage = code, &msg
		return resp, nil
	}
	img := s.node.Image()
	resp.ClusterID, resp.ControllerID = img.ClusterID, s.node.Controller()
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		b := img.Brokers[id]
		fenced := b.Fenced || !s.node.Alive(id) && id != s.node.Self()
		if fenced && !req.IncludeFencedBrokers {
			continue
		}
		rb := kmsg.NewDescribeClusterResponseBroker()
		rb.NodeID, rb.IsFenced = id, fenced
		if b.Rack != "" {
			rb.Rack = &b.Rack
		}
		for _, l := range b.Listeners {
			if l.Name == r.listener {
				rb.Host, rb.Port = l.Host, l.Port
				resp.Brokers = append(resp.Brokers, rb)
				break
			}
		}
	}
	return resp, nil
}
