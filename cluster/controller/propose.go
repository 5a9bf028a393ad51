package controller

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
)

const (
	// Kinds of calls between brokers; the controller group has 16 to 31.
	kindPropose = 16
	kindStatus  = 17

	retryMin = 10 * time.Millisecond
	retryMax = 200 * time.Millisecond

	// proposeTimeout bounds what a forwarded proposal may take at the leader, and an attempt to forward one.
	proposeTimeout = 10 * time.Second
)

// Propose has a command applied, from any broker, and returns its result when this broker's image includes it. A refusal
// is a *meta.Error, and comes at once. While there is no leader, or an attempt ends without an answer, it is tried again until ctx ends:
// a command may then be applied twice, and commands are made so that the second time changes nothing and succeeds
// (AllocateProducerIDs wastes a block; ReplaceReplica is refused).
func (c *Controller) Propose(ctx context.Context, cmd meta.Command) (any, error) {
	entry := encodeEntry(cmd)
	if len(entry) > meta.MaxCommand {
		return nil, fmt.Errorf("controller: a command of %d bytes, the limit is %d", len(entry), meta.MaxCommand)
	}
	retry := retryMin
	hint, hinted := int32(-1), false
	ambiguous := false
	var last error
	for peer := 0; ; peer++ {
		a := answer{leader: -1}
		var err error
		node, ok := c.target(hint, hinted, peer)
		switch {
		case ok && node == c.self.Node:
			a, err = c.applyHere(ctx, entry)
		case ok:
			a, err = c.forward(ctx, node, entry)
		default:
			err = ErrNotLeader
		}
		hint, hinted = a.leader, a.leader >= 0 && !(hinted && hint == a.leader)
		if err == nil {
			if ambiguous && errors.Is(a.refused, meta.ErrUnknownTopicID) {
				if _, ok := cmd.(meta.DeleteTopic); ok {
					a.refused = nil // deleted by the attempt whose answer was lost
				}
			}
			if a.refused != nil {
				return nil, a.refused // at once: a refused broker follows nobody
			}
			if err := c.WaitVersion(ctx, a.version); err != nil {
				return nil, err
			}
			return a.result, nil
		}
		if !errors.Is(err, ErrNotLeader) {
			ambiguous = true
		}
		last = err
		if err := c.pause(ctx, retry); err != nil {
			return nil, fmt.Errorf("%w (last attempt: %w)", err, last)
		}
		retry = min(2*retry, retryMax)
	}
}

// pause waits before the next attempt.
func (c *Controller) pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closed:
		return ErrClosed
	case <-c.failedCh:
		return c.failed()
	}
}

// target is the broker to ask: this one if it leads, the one hinted at, the leader it follows, or any peer in turn.
func (c *Controller) target(hint int32, hinted bool, peer int) (int32, bool) {
	if c.raft.Load().State() == raft.Leader {
		return c.self.Node, true
	}
	if hinted && hint != c.self.Node {
		return hint, true
	}
	if node, ok := c.Leader(); ok && node != c.self.Node {
		return node, true
	}
	if c.o.Peers == nil {
		return -1, false
	}
	peers := c.o.Peers()
	for i := range peers {
		if n := peers[(peer+i)%len(peers)]; n != c.self.Node {
			return n, true
		}
	}
	return -1, false
}

// answer to a proposal.
type answer struct {
	version uint64 // of the image that includes the command
	result  any
	refused error // a *meta.Error
	leader  int32 // with ErrNotLeader: who leads, -1 unknown
}

// applyHere appends an entry as the leader. ErrNotLeader: it certainly was not; other errors leave that open.
func (c *Controller) applyHere(ctx context.Context, entry []byte) (answer, error) {
	timeout := proposeTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(d), time.Millisecond))
	}
	f := c.raft.Load().Apply(entry, timeout)
	if err := c.wait(ctx, f); err != nil {
		a := answer{leader: -1}
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, raft.ErrEnqueueTimeout) {
			if node, ok := c.Leader(); ok && node != c.self.Node {
				a.leader = node
			}
			return a, fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		return a, fmt.Errorf("controller: append: %w", err)
	}
	done := f.Response().(applied)
	a := answer{version: f.Index(), result: done.result, leader: -1}
	if refused, ok := errors.AsType[*meta.Error](done.err); ok {
		a.refused = refused
	} else if done.err != nil {
		return a, done.err
	}
	return a, nil
}

// An answer on the wire, big endian:
//
//	+------+--------------------------------------------------+
//	| 0 ok | version 8 | result (meta.EncodeResult)           |
//	| 1 no | version 8 | Kafka error code 2 | message         |  refused by the metadata
//	| 2 go | leader 4 (-1 unknown)                            |  not the leader
//	| 3 ?  | message                                          |  failed, perhaps applied
//	+------+--------------------------------------------------+
const (
	replyDone      = 0
	replyRefused   = 1
	replyNotLeader = 2
	replyFailed    = 3
)

func encodeAnswer(a answer, err error) []byte {
	var refused *meta.Error
	switch {
	case errors.Is(err, ErrNotLeader):
		return binary.BigEndian.AppendUint32([]byte{replyNotLeader}, uint32(a.leader))
	case err != nil:
		return append([]byte{replyFailed}, err.Error()...)
	case errors.As(a.refused, &refused):
		b := binary.BigEndian.AppendUint64([]byte{replyRefused}, a.version)
		b = binary.BigEndian.AppendUint16(b, uint16(refused.Code))
		return append(b, refused.Message...)
	}
	return append(binary.BigEndian.AppendUint64([]byte{replyDone}, a.version), meta.EncodeResult(a.result)...)
}

func decodeAnswer(b []byte) (answer, error) {
	a := answer{leader: -1}
	switch {
	case len(b) >= 9 && b[0] == replyDone:
		a.version = binary.BigEndian.Uint64(b[1:])
		var err error
		a.result, err = meta.DecodeResult(b[9:])
		return a, err
	case len(b) >= 11 && b[0] == replyRefused:
		a.version = binary.BigEndian.Uint64(b[1:])
		a.refused = &meta.Error{Code: int16(binary.BigEndian.Uint16(b[9:])), Message: string(b[11:])}
		return a, nil
	case len(b) == 5 && b[0] == replyNotLeader:
		a.leader = int32(binary.BigEndian.Uint32(b[1:]))
		return a, ErrNotLeader
	case len(b) >= 1 && b[0] == replyFailed:
		return a, fmt.Errorf("controller: the leader answered: %s", b[1:])
	}
	return a, fmt.Errorf("controller: an answer of %d bytes that cannot be read", len(b))
}

func (c *Controller) forward(ctx context.Context, node int32, entry []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	b, err := c.o.Mux.Call(ctx, node, kindPropose, entry)
	if err != nil {
		return answer{leader: -1}, fmt.Errorf("ask the controller on broker %d: %w", node, err)
	}
	return decodeAnswer(b)
}

// handlePropose serves a proposal from another broker.
func (c *Controller) handlePropose(ctx context.Context, _ int32, entry []byte) ([]byte, error) {
	if _, err := decodeEntry(entry); err != nil || len(entry) > meta.MaxCommand {
		return encodeAnswer(answer{}, fmt.Errorf("a proposal that cannot be read: %w", err)), nil
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	a, err := c.applyHere(ctx, entry)
	return encodeAnswer(a, err), nil
}
