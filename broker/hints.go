package broker

import (
	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
)

// endpoint of a broker on the listener by which a client came.
type endpoint struct {
	id   int32
	host string
	port int32
	rack *string
}

// endpointOf gives the address of a broker under a listener's name; ok false when it has none.
func endpointOf(b *meta.Broker, listener string) (endpoint, bool) {
	for i := range b.Listeners {
		if l := &b.Listeners[i]; l.Name == listener {
			e := endpoint{id: b.ID, host: l.Host, port: l.Port}
			if b.Rack != "" {
				e.rack = &b.Rack
			}
			return e, true
		}
	}
	return endpoint{}, false
}

// hintSet collects the leaders that an answer names because the client asked the wrong broker (KIP-951).
type hintSet struct {
	s        *Server
	listener string
	on       bool // the request's version has room for hints
	brokers  []endpoint
}

// add says who leads a partition, and remembers the leader's address; ok false when it is not known.
func (h *hintSet) add(t meta.TopicID, p int32) (cluster.Leader, bool) {
	if !h.on {
		return cluster.Leader{}, false
	}
	l, ok := h.s.node.Leader(t, p)
	if !ok || l.Node < 0 {
		return cluster.Leader{}, false
	}
	for i := range h.brokers {
		if h.brokers[i].id == l.Node {
			return l, true
		}
	}
	b := h.s.node.Image().Brokers[l.Node]
	if b == nil {
		return cluster.Leader{}, false
	}
	e, ok := endpointOf(b, h.listener)
	if !ok {
		return cluster.Leader{}, false
	}
	h.brokers = append(h.brokers, e)
	return l, true
}
