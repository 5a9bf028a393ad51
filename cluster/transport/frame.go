package transport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/internal/raftconf"
)

// Every frame begins with a header; numbers are big-endian:
//
//	offset size field
//	     0    4 length of the body
//	     4    1 type
//	     5    1 flags: 1 may wait (gathered with others), 2 last part of an AppendEntries
//	     6    1 kind of a call; Raft protocol version of a Raft request; code of a refusal
//	     7    1 zero
//	     8    8 request id: chosen by the asking side, per connection; the answer bears the same
//	    16      body
const headerSize = 16

type frameType uint8

const (
	framePing frameType = iota + 1
	framePong
	frameBye // body: why the sender closes the connection
	frameRefusal
	frameAppend
	framePartDone // an AppendEntries' part, not the last, was answered by Raft: its bytes are no longer in flight
	frameAppendAnswer
	frameHeartbeat
	frameHeartbeatAnswer
	frameVote
	frameVoteAnswer
	framePreVote
	framePreVoteAnswer
	frameTimeoutNow
	frameTimeoutNowAnswer
	frameCall
	frameCallAnswer
	frameNotify
	frameSnapshot
	frameSnapshotGo // the follower wants the snapshot's bytes
	frameSnapshotAnswer
	frameTypes // their number
)

const (
	flagLazy     = 1
	flagLastPart = 2
)

type header struct {
	length uint32
	typ    frameType
	flags  uint8
	kind   uint8
	id     uint64
}

func (h header) lazy() bool { return h.flags&flagLazy != 0 }

func appendHeader(b []byte, h header) []byte {
	b = binary.BigEndian.AppendUint32(b, h.length)
	b = append(b, byte(h.typ), h.flags, h.kind, 0)
	return binary.BigEndian.AppendUint64(b, h.id)
}

// setLength writes the body's length into a whole frame.
func setLength(frame []byte) { binary.BigEndian.PutUint32(frame, uint32(len(frame)-headerSize)) }

var errMalformed = errors.New("transport: malformed frame")

// parseHeader checks a header's own fields; the limits on length depend on the type.
func parseHeader(b []byte, maxFrame int) (header, error) {
	h := header{
		length: binary.BigEndian.Uint32(b), typ: frameType(b[4]), flags: b[5], kind: b[6],
		id: binary.BigEndian.Uint64(b[8:]),
	}
	limit := 4 << 10
	switch h.typ {
	case frameAppend, frameCall, frameCallAnswer, frameNotify:
		limit = maxFrame
	case frameSnapshot, frameRefusal:
		limit = 1 << 20 // a configuration; an error text
	case 0:
		return h, fmt.Errorf("%w: type 0", errMalformed)
	}
	if h.typ >= frameTypes {
		return h, fmt.Errorf("%w: unknown type %d", errMalformed, h.typ)
	}
	if uint64(h.length) > uint64(limit) {
		return h, fmt.Errorf("%w: type %d with %d bytes, the limit is %d", errMalformed, h.typ, h.length, limit)
	}
	return h, nil
}

// route begins the body of every Raft request. The source's node is the one that shook hands on the connection.
//
//	0 8 target replica
//	8 8 source replica
type route struct{ target, source uint64 }

const routeSize = 16

func appendRoute(b []byte, r route) []byte {
	b = binary.BigEndian.AppendUint64(b, r.target)
	return binary.BigEndian.AppendUint64(b, r.source)
}

func parseRoute(b []byte) (route, bool) {
	if len(b) < routeSize {
		return route{}, false
	}
	return route{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, true
}

// appendPart is one part of an AppendEntries: a request is one or more parts, the last with flagLastPart.
//
//	 0 16 route
//	16  8 term
//	24  8 index of the entry before this part's first
//	32  8 its term
//	40  8 the leader's commit index
//	48  4 number of entries in this part
//	52    the entries, as Group.EncodeEntries wrote them
type appendPart struct {
	route
	term, prevIndex, prevTerm, commit uint64
	count                             uint32
}

const appendPartSize = routeSize + 36

func appendAppendPart(b []byte, p appendPart) []byte {
	b = appendRoute(b, p.route)
	b = binary.BigEndian.AppendUint64(b, p.term)
	b = binary.BigEndian.AppendUint64(b, p.prevIndex)
	b = binary.BigEndian.AppendUint64(b, p.prevTerm)
	b = binary.BigEndian.AppendUint64(b, p.commit)
	return binary.BigEndian.AppendUint32(b, p.count)
}

func parseAppendPart(b []byte) (p appendPart, entries []byte, err error) {
	r, ok := parseRoute(b)
	if !ok || len(b) < appendPartSize {
		return p, nil, errMalformed
	}
	p = appendPart{
		route: r, term: binary.BigEndian.Uint64(b[16:]), prevIndex: binary.BigEndian.Uint64(b[24:]),
		prevTerm: binary.BigEndian.Uint64(b[32:]), commit: binary.BigEndian.Uint64(b[40:]),
		count: binary.BigEndian.Uint32(b[48:]),
	}
	entries = b[appendPartSize:]
	if (p.count == 0) != (len(entries) == 0) {
		return p, nil, fmt.Errorf("%w: %d entries in %d bytes", errMalformed, p.count, len(entries))
	}
	return p, entries, nil
}

// A heartbeat is an AppendEntries that carries its term and nothing else.
//
//	 0 16 route
//	16  8 term
const heartbeatSize = routeSize + 8

func appendHeartbeat(b []byte, r route, term uint64) []byte {
	return binary.BigEndian.AppendUint64(appendRoute(b, r), term)
}

func parseHeartbeat(b []byte) (r route, term uint64, err error) {
	if len(b) != heartbeatSize {
		return r, 0, errMalformed
	}
	r, _ = parseRoute(b)
	return r, binary.BigEndian.Uint64(b[16:]), nil
}

// The answer to an AppendEntries and to a heartbeat.
//
//	 0 8 term
//	 8 8 last index of the follower's log
//	16 1 flags: 1 success, 2 no retry backoff
const appendAnswerSize = 17

func appendAppendAnswer(b []byte, r *raft.AppendEntriesResponse) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Term)
	b = binary.BigEndian.AppendUint64(b, r.LastLog)
	var flags byte
	if r.Success {
		flags |= 1
	}
	if r.NoRetryBackoff {
		flags |= 2
	}
	return append(b, flags)
}

func parseAppendAnswer(b []byte, r *raft.AppendEntriesResponse) error {
	if len(b) != appendAnswerSize {
		return errMalformed
	}
	r.Term, r.LastLog = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	r.Success, r.NoRetryBackoff = b[16]&1 != 0, b[16]&2 != 0
	return nil
}

// A request for a vote or a pre-vote.
//
//	 0 16 route
//	16  8 term
//	24  8 last log index
//	32  8 last log term
//	40  1 1: by leadership transfer
type voteRequest struct {
	route
	term, lastIndex, lastTerm uint64
	transfer                  bool
}

const voteSize = routeSize + 25

func appendVote(b []byte, v voteRequest) []byte {
	b = appendRoute(b, v.route)
	b = binary.BigEndian.AppendUint64(b, v.term)
	b = binary.BigEndian.AppendUint64(b, v.lastIndex)
	b = binary.BigEndian.AppendUint64(b, v.lastTerm)
	return append(b, boolByte(v.transfer))
}

func parseVote(b []byte) (v voteRequest, err error) {
	if len(b) != voteSize {
		return v, errMalformed
	}
	v.route, _ = parseRoute(b)
	v.term, v.lastIndex = binary.BigEndian.Uint64(b[16:]), binary.BigEndian.Uint64(b[24:])
	v.lastTerm, v.transfer = binary.BigEndian.Uint64(b[32:]), b[40] != 0
	return v, nil
}

// The answer to a vote, a pre-vote and an InstallSnapshot: term (8), granted or success (1).
const verdictSize = 9

func appendVerdict(b []byte, term uint64, yes bool) []byte {
	return append(binary.BigEndian.AppendUint64(b, term), boolByte(yes))
}

func parseVerdict(b []byte) (term uint64, yes bool, err error) {
	if len(b) != verdictSize {
		return 0, false, errMalformed
	}
	return binary.BigEndian.Uint64(b), b[8] != 0, nil
}

// An InstallSnapshot; its bytes follow on the same connection, after the follower's frameSnapshotGo, unframed.
//
//	 0 16 route
//	16  8 term
//	24  8 last index
//	32  8 last term
//	40  8 index of the configuration
//	48  8 size
//	56  1 snapshot version
//	57    configuration
const snapshotSize = routeSize + 41

func appendSnapshot(b []byte, r route, q *raft.InstallSnapshotRequest) []byte {
	b = appendRoute(b, r)
	b = binary.BigEndian.AppendUint64(b, q.Term)
	b = binary.BigEndian.AppendUint64(b, q.LastLogIndex)
	b = binary.BigEndian.AppendUint64(b, q.LastLogTerm)
	b = binary.BigEndian.AppendUint64(b, q.ConfigurationIndex)
	b = binary.BigEndian.AppendUint64(b, uint64(q.Size))
	b = append(b, byte(q.SnapshotVersion))
	return append(b, q.Configuration...)
}

func parseSnapshot(b []byte) (r route, q *raft.InstallSnapshotRequest, err error) {
	if len(b) < snapshotSize {
		return r, nil, errMalformed
	}
	r, _ = parseRoute(b)
	q = &raft.InstallSnapshotRequest{
		Term: binary.BigEndian.Uint64(b[16:]), LastLogIndex: binary.BigEndian.Uint64(b[24:]),
		LastLogTerm: binary.BigEndian.Uint64(b[32:]), ConfigurationIndex: binary.BigEndian.Uint64(b[40:]),
		Size: int64(binary.BigEndian.Uint64(b[48:])), SnapshotVersion: raft.SnapshotVersion(b[56]),
		Configuration: append([]byte(nil), b[snapshotSize:]...),
	}
	if q.Size < 0 {
		return r, nil, errMalformed
	}
	if _, err := raftconf.Decode(q.Configuration); err != nil {
		return r, nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return r, q, nil
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}
