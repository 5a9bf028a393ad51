// Package transport carries the Raft traffic of every group between two brokers over few connections, and stands
// guard at each group's inbox (safety rules 1 and 4 to 7). The same connections carry the brokers' own requests.
package transport

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Group is what the transport needs of one Raft group's log. Implemented by partition.Partition (entries live in
// segment files and never pass through Raft) and by the controller group (entries carry their data).
// All methods may be called concurrently with Raft's own, from Register on, and answer from memory (but for
// EncodeEntries and WipeForSnapshot).
type Group interface {
	// FirstIndex and LastIndex of the local log; 0, 0 when empty.
	FirstIndex() uint64
	LastIndex() uint64
	// Term of a local entry, also of FirstIndex-1 when known (the checkpoint's), also when the log is empty.
	Term(index uint64) (term uint64, ok bool)
	// Committed is the highest index known committed and held locally (applied, or kept high watermark).
	Committed() uint64
	// HasConfiguration says whether the log holds (or held) a configuration: without one no vote is granted (rule 1).
	HasConfiguration() bool
	// EncodeEntries appends the wire form of entries[0..n) to buf for the largest n such that it stays within
	// maxBytes (n >= 1), and returns it with n. The entries are contiguous.
	EncodeEntries(buf []byte, entries []*raft.Log, maxBytes int) (out []byte, n int, err error)
	// DecodeEntries is its inverse. The logs may alias payload, which stays untouched until the RPC is answered and
	// is reused then: what outlives Raft's answer must be copied.
	// It checks all that the format allows (CRC, contiguity of indexes, epoch = term).
	DecodeEntries(first uint64, payload []byte) ([]*raft.Log, error)
	// WipeForSnapshot durably empties the log, because the leader's snapshot (lastIndex, lastTerm) proves that it
	// diverged (rule 6), and has the group's Raft restarted on the empty log: Raft keeps its last index in memory
	// and would neither take the entries behind the snapshot nor vote truthfully otherwise. Every earlier RPC of this
	// group has been answered when it is called and none follows before it returns; the snapshot itself is refused
	// with ErrWiped and comes again from the leader. Closing the endpoint must not be waited for inside this call.
	WipeForSnapshot(lastIndex, lastTerm uint64) error
}

var (
	// ErrClosed: the Mux or the Endpoint was closed.
	ErrClosed = errors.New("transport: closed")
	// ErrUnreachable: there is no connection to the broker, and an attempt to make one has failed.
	ErrUnreachable = errors.New("transport: broker unreachable")
	// ErrTimeout: the request was sent, or waited to be, and no answer came in time. It may have been carried out.
	ErrTimeout = errors.New("transport: no answer in time")
	// ErrDisconnected: the connection broke while the request was under way. It may have been carried out.
	ErrDisconnected = errors.New("transport: connection lost")
	// ErrUnknownReplica: the broker has no such replica (safety rule 1).
	ErrUnknownReplica = errors.New("transport: unknown replica")
	// ErrOverloaded: a queue of the receiver is full; nothing was done.
	ErrOverloaded = errors.New("transport: overloaded")
	// ErrNoConfiguration: a vote was asked of a replica without a configuration (safety rule 1).
	ErrNoConfiguration = errors.New("transport: replica has no configuration, its vote is refused")
	// ErrWiped: the follower's log diverged from the snapshot and was emptied; the snapshot is to come again (rule 6).
	ErrWiped = errors.New("transport: log wiped, send the snapshot again")
	// ErrNoHandler: the broker has no handler for this kind of call.
	ErrNoHandler = errors.New("transport: no handler for this kind of call")
	// ErrRefused: a handshake was refused: another cluster, a node id twice, no common version.
	ErrRefused = errors.New("transport: handshake refused")
	// ErrTooLarge: a payload is above its limit.
	ErrTooLarge = errors.New("transport: payload too large")
)

// errorCode says on the wire which error a refusal is.
type errorCode uint8

const (
	codeOther errorCode = iota
	codeUnknownReplica
	codeOverloaded
	codeNoConfiguration
	codeWiped
	codeNoHandler
	codeClosed
	codeDeadline
)

var codeErrors = map[errorCode]error{
	codeUnknownReplica:  ErrUnknownReplica,
	codeOverloaded:      ErrOverloaded,
	codeNoConfiguration: ErrNoConfiguration,
	codeWiped:           ErrWiped,
	codeNoHandler:       ErrNoHandler,
	codeClosed:          ErrClosed,
	codeDeadline:        context.DeadlineExceeded, // the caller's, which travels with a call
}

func codeOf(err error) errorCode {
	for c, e := range codeErrors {
		if errors.Is(err, e) {
			return c
		}
	}
	return codeOther
}

// RemoteError is what another broker answered instead of a result. errors.Is finds the sentinel that it was there.
type RemoteError struct {
	Node int32
	Code uint8
	Msg  string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("broker %d: %s", e.Node, e.Msg) }

// Unwrap gives the sentinel that the code stands for, if any.
func (e *RemoteError) Unwrap() error { return codeErrors[errorCode(e.Code)] }
