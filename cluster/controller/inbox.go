package controller

import (
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// inbox stands between raft and the transport, so that this broker can put a TimeoutNow into its own raft (a single
// voter need not wait for an election timeout) and so that a member that must not vote does not stand for election.
type inbox struct {
	raft.Transport
	rpcs    chan raft.RPC
	mayVote func() bool
	stop    chan struct{}
	once    sync.Once
	done    sync.WaitGroup
}

var errMayNotVote = errors.New("controller: this member lost entries and may not stand for election yet")

func newInbox(t raft.Transport, mayVote func() bool) *inbox {
	b := &inbox{Transport: t, rpcs: make(chan raft.RPC), mayVote: mayVote, stop: make(chan struct{})}
	b.done.Go(b.forward)
	return b
}

func (b *inbox) forward() {
	for {
		select {
		case rpc := <-b.Transport.Consumer():
			select {
			case b.rpcs <- rpc:
			case <-b.stop:
				rpc.Respond(nil, ErrClosed)
				return
			}
		case <-b.stop:
			return
		}
	}
}

func (b *inbox) Consumer() <-chan raft.RPC { return b.rpcs }

// timeoutNow makes raft a candidate at once.
func (b *inbox) timeoutNow() {
	answer := make(chan raft.RPCResponse, 1)
	select {
	case b.rpcs <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, RespChan: answer}:
	case <-b.stop:
	}
}

func (b *inbox) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if !b.mayVote() {
		return errMayNotVote
	}
	return b.Transport.RequestVote(id, target, args, resp)
}

// RequestPreVote must be here: raft drops pre-vote silently when the transport has none.
func (b *inbox) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !b.mayVote() {
		return errMayNotVote
	}
	return b.Transport.(raft.WithPreVote).RequestPreVote(id, target, args, resp)
}

// Close is called by raft at its shutdown.
func (b *inbox) Close() error {
	b.once.Do(func() { close(b.stop) })
	b.done.Wait()
	if c, ok := b.Transport.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}
