package transport

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// inbound is one request of another replica, as it came.
type inbound struct {
	c       *conn
	h       header
	src     []byte // the source's address, as it stands in Raft's headers
	route   route
	part    appendPart // of frameAppend and frameHeartbeat
	entries []byte     // aliases buf
	buf     *buffer
	call    *appendCall
	vote    voteRequest
	snap    *snapshotIn
}

// appendCall is one AppendEntries of the leader, in whatever number of parts. Its fields belong to the goroutine of
// Endpoint.answers, but for refused, which belongs to the connection's reader.
type appendCall struct {
	refused bool
	failed  bool
	err     error
	resp    raft.AppendEntriesResponse
}

// pendingAnswer is a request that was handed to Raft (resp) or ended before (result), in the order of arrival: Raft
// answers in order, too.
type pendingAnswer struct {
	it     *inbound
	resp   chan raft.RPCResponse
	result raft.RPCResponse
	after  func(raft.RPCResponse) // instead of an answer to another broker
}

// serve handles a request on the connection's reader: it is checked, and put where another goroutine works on it.
func (m *Mux) serve(c *conn, h header, body []byte, buf *buffer) error {
	it := &inbound{c: c, h: h}
	switch h.typ {
	case frameCall:
		err := m.serveCall(c, h, body)
		buf.free()
		return err
	case frameNotify:
		m.serveNotify(c, h, body)
		buf.free()
		return nil
	case frameAppend:
		p, entries, err := parseAppendPart(body)
		if err != nil {
			return err
		}
		it.part, it.route, it.entries, it.buf = p, p.route, entries, buf
		if len(entries) > 0 && buf == nil {
			return errMalformed // cannot be: read puts entries into buffers
		}
		return m.serveAppend(c, it)
	case frameHeartbeat:
		r, term, err := parseHeartbeat(body)
		if err != nil {
			return err
		}
		it.route, it.part = r, appendPart{route: r, term: term}
	case frameVote, framePreVote:
		v, err := parseVote(body)
		if err != nil {
			return err
		}
		it.route, it.vote = v.route, v
	case frameTimeoutNow:
		r, ok := parseRoute(body)
		if !ok {
			return errMalformed
		}
		it.route = r
	default:
		return fmt.Errorf("%w: type %d here", errMalformed, h.typ)
	}
	e, err := m.endpointFor(c, it.route)
	if err != nil {
		c.refuse(h, err)
		return nil
	}
	it.src = c.source(it.route.source)
	if h.typ == frameHeartbeat && e.takeBeat(it) {
		return nil
	}
	if !e.enqueue(it) {
		c.refuse(h, e.full())
	}
	return nil
}

// endpointFor finds the group by the target's replica id (safety rule 1: source and target are named and checked).
func (m *Mux) endpointFor(c *conn, r route) (*Endpoint, error) {
	if r.source == r.target {
		return nil, fmt.Errorf("%w: replica %d of broker %d asks itself on broker %d", ErrUnknownReplica, r.source, c.peer.node, m.o.Node)
	}
	e, err := m.endpoint(r.target)
	if err != nil {
		return nil, fmt.Errorf("%w (asked by %s)", err, Address(c.peer.node, r.source))
	}
	return e, nil
}

// source is the address of a replica of the other broker; its bytes are shared and never change.
func (c *conn) source(replica uint64) []byte {
	a, ok := c.sources[replica]
	if !ok {
		if len(c.sources) >= 1<<16 {
			clear(c.sources)
		}
		a = []byte(Address(c.peer.node, replica))
		c.sources[replica] = a
	}
	return a
}

// inlineBytes: entries above this are decoded off the connection's reader.
const inlineBytes = 64 << 10

// enqueue gives a request its turn. Small ones are processed here and now when nothing of the group waits and Raft has
// room, which saves two switches of goroutines.
func (e *Endpoint) enqueue(it *inbound) bool {
	if len(it.entries) <= inlineBytes && len(e.consumer) < cap(e.consumer)/2 {
		return e.requests.runOrPush(it)
	}
	return e.requests.push(it)
}

func (e *Endpoint) full() error {
	return fmt.Errorf("%w: the inbox of replica %s is full", ErrOverloaded, e.addr)
}

// serveAppend keeps the parts of one AppendEntries together. A refused part refuses the whole.
func (m *Mux) serveAppend(c *conn, it *inbound) error {
	call, known := c.parts[it.h.id]
	if !known {
		call = &appendCall{}
	}
	last := it.h.flags&flagLastPart != 0
	switch {
	case last:
		delete(c.parts, it.h.id)
	case !known:
		if len(c.parts) >= 1<<16 {
			return fmt.Errorf("%w: too many unfinished AppendEntries", errMalformed)
		}
		c.parts[it.h.id] = call
	}
	if call.refused {
		it.buf.free()
		return nil
	}
	it.call = call
	e, err := m.endpointFor(c, it.route)
	n := int64(len(it.entries))
	if err == nil && n > 0 && m.received.Add(n) > m.o.MaxReceivedBytes && m.received.Load() > n {
		m.received.Add(-n)
		err = fmt.Errorf("%w: broker %d holds %d bytes of received entries", ErrOverloaded, m.o.Node, m.received.Load())
	} else if err == nil {
		it.src = c.source(it.route.source)
		if !e.enqueue(it) {
			m.received.Add(-n)
			err = e.full()
		}
	}
	if err != nil {
		call.refused = true
		it.buf.free()
		c.refuse(it.h, err)
	}
	return nil
}

// process hands one request to Raft, after the guards. It runs for one request of the group at a time, in order of
// arrival, and may wait.
func (e *Endpoint) process(it *inbound) {
	if e.ctx.Err() != nil {
		e.finish(it, raft.RPCResponse{Error: ErrClosed})
		return
	}
	switch it.h.typ {
	case frameAppend, frameHeartbeat:
		q, err := e.decodeAppend(it)
		if err != nil {
			e.m.log.Error("AppendEntries refused", "replica", e.addr, "from", it.from(), "error", err)
			e.finish(it, raft.RPCResponse{Error: err})
			return
		}
		e.hand(it, q)
	case frameVote, framePreVote:
		// Safety rule 1: an empty replica would grant any vote.
		if !e.group.HasConfiguration() {
			e.finish(it, raft.RPCResponse{Error: fmt.Errorf("%w: %s, asked by %s", ErrNoConfiguration, e.addr, it.from())})
			return
		}
		v := it.vote
		if it.h.typ == framePreVote {
			e.hand(it, &raft.RequestPreVoteRequest{
				RPCHeader: it.rpcHeader(), Term: v.term, LastLogIndex: v.lastIndex, LastLogTerm: v.lastTerm,
			})
			return
		}
		q := &raft.RequestVoteRequest{
			RPCHeader: it.rpcHeader(), Term: v.term, LastLogIndex: v.lastIndex, LastLogTerm: v.lastTerm,
			LeadershipTransfer: v.transfer,
		}
		//lint:ignore SA1019 handlers of raft still read it
		q.Candidate = q.Addr
		e.hand(it, q)
	case frameTimeoutNow:
		if !e.group.HasConfiguration() {
			e.finish(it, raft.RPCResponse{Error: fmt.Errorf("%w: %s, asked by %s", ErrNoConfiguration, e.addr, it.from())})
			return
		}
		e.hand(it, &raft.TimeoutNowRequest{RPCHeader: it.rpcHeader()})
	case frameSnapshot:
		e.processSnapshot(it)
	}
}

func (it *inbound) from() string { return string(it.src) }

// rpcHeader names the source by the connection's node, not by what a frame could claim.
func (it *inbound) rpcHeader() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(it.h.kind), ID: it.src, Addr: it.src}
}

// hand puts a request into Raft's channel.
func (e *Endpoint) hand(it *inbound, cmd any) {
	a := &pendingAnswer{it: it, resp: make(chan raft.RPCResponse, 1)}
	select {
	case e.consumer <- raft.RPC{Command: cmd, RespChan: a.resp}:
		e.answers.push(a)
	case <-e.ctx.Done():
		e.finish(it, raft.RPCResponse{Error: ErrClosed})
	}
}

// probe hands Raft an AppendEntries without content and waits for the answer, and so for all before it. It makes the
// sender's term count: success says that Raft follows that leader in that term now.
func (e *Endpoint) probe(it *inbound, term uint64) (*raft.AppendEntriesResponse, error) {
	h := it.rpcHeader()
	got := make(chan raft.RPCResponse, 1)
	a := &pendingAnswer{it: it, resp: make(chan raft.RPCResponse, 1), after: func(r raft.RPCResponse) { got <- r }}
	select {
	//lint:ignore SA1019 handlers of raft still read it
	case e.consumer <- raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: h, Term: term, Leader: h.Addr}, RespChan: a.resp}:
		e.answers.push(a)
	case <-e.ctx.Done():
		return nil, ErrClosed
	}
	r := <-got
	if r.Error != nil {
		return nil, r.Error
	}
	return r.Response.(*raft.AppendEntriesResponse), nil
}

// finish queues a result that Raft was not asked for, behind the answers that are awaited.
func (e *Endpoint) finish(it *inbound, r raft.RPCResponse) {
	e.answers.push(&pendingAnswer{it: it, result: r})
}

// answer waits for Raft and answers the other broker.
func (e *Endpoint) answer(a *pendingAnswer) {
	r, answered := a.result, true
	if a.resp != nil {
		select {
		case r = <-a.resp:
		case <-e.ctx.Done():
			select {
			case r = <-a.resp:
			default:
				r, answered = raft.RPCResponse{Error: ErrClosed}, false
			}
		}
	}
	if a.after != nil {
		a.after(r)
		return
	}
	it := a.it
	if it.buf != nil {
		e.m.received.Add(-int64(len(it.entries)))
		if answered { // otherwise Raft may still hold the entries
			it.buf.free()
		}
	}
	if it.call != nil {
		e.answerPart(it, r)
		return
	}
	it.reply(r)
}

// answerPart gathers the answers to the parts of one AppendEntries. It succeeded if all did; otherwise the first
// failure is the answer.
func (e *Endpoint) answerPart(it *inbound, r raft.RPCResponse) {
	call := it.call
	if !call.failed {
		if r.Error != nil {
			call.failed, call.err = true, r.Error
		} else {
			call.resp = *r.Response.(*raft.AppendEntriesResponse)
			call.failed = !call.resp.Success
			if call.resp.Success {
				e.term.Store(it.part.term)
			}
		}
	}
	if it.h.flags&flagLastPart == 0 {
		_ = it.c.send(header{typ: framePartDone, id: it.h.id}, nil)
		return
	}
	if call.err != nil {
		it.reply(raft.RPCResponse{Error: call.err})
		return
	}
	it.reply(raft.RPCResponse{Response: &call.resp})
}

// reply sends the answer.
func (it *inbound) reply(r raft.RPCResponse) {
	if it.snap != nil {
		it.snap.done <- r
		return
	}
	if r.Error != nil {
		it.c.refuse(it.h, r.Error)
		return
	}
	h := header{id: it.h.id, flags: it.h.flags & flagLazy}
	var b [32]byte
	switch resp := r.Response.(type) {
	case *raft.AppendEntriesResponse:
		h.typ = frameAppendAnswer
		if it.h.typ == frameHeartbeat {
			h.typ = frameHeartbeatAnswer
		}
		_ = it.c.send(h, appendAppendAnswer(b[:0], resp))
	case *raft.RequestVoteResponse:
		h.typ = frameVoteAnswer
		_ = it.c.send(h, appendVerdict(b[:0], resp.Term, resp.Granted))
	case *raft.RequestPreVoteResponse:
		h.typ = framePreVoteAnswer
		_ = it.c.send(h, appendVerdict(b[:0], resp.Term, resp.Granted))
	case *raft.TimeoutNowResponse:
		h.typ = frameTimeoutNowAnswer
		_ = it.c.send(h, nil)
	default:
		it.c.refuse(it.h, fmt.Errorf("unexpected answer %T", r.Response))
	}
}

// errLocalTimeout: Raft did not take the TimeoutNow in time.
var errLocalTimeout = errors.New("raft did not answer")

// TimeoutNow makes a local replica stand for election at once, past pre-vote and stickiness. The caller has made sure
// that this is right (safety rule 17).
func (m *Mux) TimeoutNow(replicaID uint64) error {
	m.mu.RLock()
	e, ok := m.endpoints[replicaID]
	if !ok || m.closed {
		m.mu.RUnlock()
		return fmt.Errorf("%w: broker %d has no replica %d", ErrUnknownReplica, m.o.Node, replicaID)
	}
	m.wg.Add(1)
	m.mu.RUnlock()
	defer m.wg.Done()
	if !e.group.HasConfiguration() {
		return fmt.Errorf("%w: %s", ErrNoConfiguration, e.addr)
	}
	h := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(e.addr), Addr: []byte(e.addr)}
	resp := make(chan raft.RPCResponse, 1)
	timeout := time.NewTimer(m.o.RPCTimeout)
	defer timeout.Stop()
	select {
	case e.consumer <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: h}, RespChan: resp}:
	case <-e.ctx.Done():
		return ErrClosed
	case <-timeout.C:
		return fmt.Errorf("%w: TimeoutNow of replica %s: %w", ErrTimeout, e.addr, errLocalTimeout)
	}
	select {
	case r := <-resp:
		return r.Error
	case <-e.ctx.Done():
		return ErrClosed
	case <-timeout.C:
		return fmt.Errorf("%w: TimeoutNow of replica %s: %w", ErrTimeout, e.addr, errLocalTimeout)
	}
}
