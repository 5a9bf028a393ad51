package broker

import (
	"context"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

// requestContext is what a handler knows about a request beside its body.
type requestContext struct {
	// ctx ends when the connection does; handlers add the request's own timeout.
	ctx       context.Context
	header    protocol.Header
	clientID  string
	listener  string // name of the listener that the client came by
	principal string // "User:ANONYMOUS" until there is authentication
	remote    string
}

// apiHandler serves one API in versions min to max. Requests of one connection are handled one after the other, in
// order, but for Produce, which is started when it is read.
type apiHandler struct {
	key, min, max int16
	// handle answers a request. A nil response without an error sends none; an error closes the connection and is
	// logged, so what a client should hear goes into the response. r and what it points to may be kept; the request
	// may not: it can alias the frame.
	handle func(s *Server, r *requestContext, req kmsg.Request) (kmsg.Response, error)
	// maxBytes bounds the frame (0: defaultMaxBytes), because a decoded array takes many times its bytes.
	maxBytes int

	advertised int16 // see protocol.Range
}

const (
	// defaultMaxBytes of a request that carries no records.
	defaultMaxBytes = 512 << 10
	// decodedFactor is what such a request is charged of the memory for requests, for each of its bytes: an array that
	// is claimed by a few bytes is decoded to that many times more.
	decodedFactor = 64
)

// handlers is the table of what is served. Filled by init from the lists: dataAPIs here, adminAPIs in apis_admin.go.
var handlers = map[int16]*apiHandler{}

var dataAPIs = []apiHandler{
	{key: protocol.Produce, maxBytes: math.MaxInt32}, // decoded by hand, see produce.go
	{key: protocol.Fetch, maxBytes: 8 << 20},         // likewise, fetch_request.go
	{key: protocol.ListOffsets, handle: handleListOffsets},
	{key: protocol.Metadata, handle: handleMetadata},
	{key: protocol.ApiVersions, handle: handleAPIVersions},
	{key: protocol.DeleteRecords, handle: handleDeleteRecords},
	{key: protocol.InitProducerID, handle: handleInitProducerID},
	{key: protocol.OffsetForLeaderEpoch, handle: handleOffsetForLeaderEpoch},
	{key: protocol.DescribeTopicPartitions, handle: handleDescribeTopicPartitions},
}

func init() {
	for _, list := range [][]apiHandler{dataAPIs, adminAPIs} {
		for _, h := range list {
			v, ok := protocol.Versions[h.key]
			if !ok {
				panic(fmt.Sprintf("broker: api %d has no versions", h.key))
			}
			if _, twice := handlers[h.key]; twice {
				panic(fmt.Sprintf("broker: api %d registered twice", h.key))
			}
			h.min, h.max, h.advertised = v.Min, v.Max, v.Advertised
			if h.maxBytes == 0 {
				h.maxBytes = defaultMaxBytes
			}
			handlers[h.key] = &h
		}
	}
}
