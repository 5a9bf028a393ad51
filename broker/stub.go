package broker

import (
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Placeholders until the real files land.

type conn struct{}

func newConn(*Server, net.Conn, string, string) *conn { return &conn{} }
func (*conn) serve()                                  {}
func (*conn) stopReading()                            {}
func (*conn) kill()                                   {}

type (
	sessionCache struct{}
	producerIDs  struct{}
)

func newSessionCache(int) *sessionCache { return nil }
func (*sessionCache) len() int          { return 0 }

func handleListOffsets(*Server, *requestContext, kmsg.Request) (kmsg.Response, error) { return nil, nil }
func handleMetadata(*Server, *requestContext, kmsg.Request) (kmsg.Response, error)    { return nil, nil }
func handleAPIVersions(*Server, *requestContext, kmsg.Request) (kmsg.Response, error) { return nil, nil }
func handleDeleteRecords(*Server, *requestContext, kmsg.Request) (kmsg.Response, error) {
	return nil, nil
}
func handleInitProducerID(*Server, *requestContext, kmsg.Request) (kmsg.Response, error) {
	return nil, nil
}
func handleOffsetForLeaderEpoch(*Server, *requestContext, kmsg.Request) (kmsg.Response, error) {
	return nil, nil
}
func handleDescribeTopicPartitions(*Server, *requestContext, kmsg.Request) (kmsg.Response, error) {
	return nil, nil
}
