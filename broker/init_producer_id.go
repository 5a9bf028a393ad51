package broker

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

// InitProducerId, versions 0-5, for idempotent producers. Transactional ids need a coordinator, which is not there yet:
// COORDINATOR_NOT_AVAILABLE. A producer that names its id and epoch gets the next epoch, or a new id after the last.

// producerIDs hands out ids of blocks that the controller gives; ids of a block that was not used up are lost at a
// restart, never given twice.
type producerIDs struct {
	mu        sync.Mutex
	next, end int64
	fetching  chan struct{} // closed when the block that is being asked for is there, or failed
	err       error         // of the last fetch
}

// blockTime bounds the wait for a block.
const blockTime = 10 * time.Second

// take returns an id nobody else gets.
func (p *producerIDs) take(ctx context.Context, more func(context.Context) (int64, int, error)) (int64, error) {
	for {
		p.mu.Lock()
		if p.next < p.end {
			id := p.next
			p.next++
			p.mu.Unlock()
			return id, nil
		}
		if p.fetching == nil {
			done := make(chan struct{})
			p.fetching = done
			go func() {
				// Not the request's context: others wait for the same block.
				fctx, cancel := context.WithTimeout(context.Background(), blockTime)
				defer cancel()
				first, n, err := more(fctx)
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.err = err; err == nil {
					p.next, p.end = first, first+int64(n)
				}
				p.fetching = nil
				close(done)
			}()
		}
		done := p.fetching
		p.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		p.mu.Lock()
		err := p.err
		p.mu.Unlock()
		if err != nil {
			return 0, err
		}
	}
}

func handleInitProducerID(s *Server, r *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.InitProducerIDRequest)
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	resp.ProducerID, resp.ProducerEpoch = -1, -1
	known := req.Version >= 3 && req.ProducerID >= 0
	switch {
	case req.TransactionalID != nil && *req.TransactionalID == "":
		resp.ErrorCode = protocol.InvalidRequest
	case req.TransactionalID != nil:
		resp.ErrorCode = protocol.CoordinatorNotAvailable
	case known && req.ProducerEpoch < 0:
		resp.ErrorCode = protocol.InvalidRequest
	case known && req.ProducerEpoch < math.MaxInt16-1:
		resp.ProducerID, resp.ProducerEpoch = req.ProducerID, req.ProducerEpoch+1
	default:
		ctx, cancel := context.WithTimeout(r.ctx, blockTime)
		defer cancel()
		id, err := s.ids.take(ctx, s.node.ProducerIDs)
		if err != nil {
			// Clients take this one for what it is, and come again.
			resp.ErrorCode = protocol.CoordinatorNotAvailable
			s.log.Warn("no producer ids from the controller", "err", err)
			break
		}
		resp.ProducerID, resp.ProducerEpoch = id, 0
	}
	s.m.failed(resp.ErrorCode)
	return resp, nil
}
