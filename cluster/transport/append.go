package transport

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// sendAppend encodes and queues an AppendEntries in one or more parts, waiting while too many bytes are in flight. done
// is called once, from the connection's reader, unless an error is returned; it must not wait.
func (e *Endpoint) sendAppend(c *conn, t *target, q *raft.AppendEntriesRequest, done func(raft.AppendEntriesResponse, error)) (uint64, error) {
	f := t.follower
	f.sent(q.Term, e.group.LastIndex(), time.Now())
	end := q.PrevLogEntry + uint64(len(q.Entries))
	req := &request{
		expect: frameAppendAnswer, timeout: e.m.o.AppendTimeout, follower: f,
		done: func(_ header, body []byte, _ *buffer, err error) {
			var resp raft.AppendEntriesResponse
			if err == nil {
				err = parseAppendAnswer(body, &resp)
			}
			if err == nil && resp.Success {
				f.matched(q.Term, end)
			}
			done(resp, err)
		},
	}
	id, err := c.register(req)
	if err != nil {
		return 0, err
	}
	part := appendPart{route: t.route, term: q.Term, prevIndex: q.PrevLogEntry, prevTerm: q.PrevLogTerm, commit: q.LeaderCommitIndex}
	h := header{typ: frameAppend, kind: uint8(q.ProtocolVersion), id: id}
	if len(q.Entries) == 0 {
		h.flags = flagLazy | flagLastPart // it carries a commit index, which may wait
		var b [appendPartSize]byte
		if err := c.send(h, appendAppendPart(b[:0], part)); err != nil {
			return id, e.sendFailed(c, id, err)
		}
		return id, nil
	}
	for rest, first := q.Entries, true; len(rest) > 0; first = false {
		buf, n, err := e.encodePart(h, part, rest)
		if err != nil {
			c.forget(id) // before anything can answer it
			if !first {  // the receiver waits for the last part
				h.flags = flagLastPart
				part.count = 0
				_ = c.send(h, appendAppendPart(nil, part))
			}
			return id, e.sendFailed(c, id, fmt.Errorf("encode entries from %d: %w", rest[0].Index, err))
		}
		last := rest[n-1]
		rest = rest[n:]
		if len(rest) == 0 {
			buf.b[5] |= flagLastPart
		}
		if err := e.sendPart(c, f, id, req, buf); err != nil {
			return id, e.sendFailed(c, id, err)
		}
		part.prevIndex, part.prevTerm = last.Index, last.Term
	}
	return id, nil
}

// sendFailed takes the request back. When its done has been called already, with the connection's own error, the
// caller of sendAppend still gets the error alone: done of a request that returned one is ignored by all callers.
func (e *Endpoint) sendFailed(c *conn, id uint64, err error) error {
	c.forget(id)
	return err
}

func (e *Endpoint) encodePart(h header, part appendPart, entries []*raft.Log) (*buffer, int, error) {
	e.mu.Lock()
	size := min(e.entrySize*len(entries)*9/8, e.m.o.MaxPartBytes) + headerSize + appendPartSize + 64
	e.mu.Unlock()
	buf := newBuffer(size)
	const head = headerSize + appendPartSize
	out, n, err := e.group.EncodeEntries(buf.b[:head], entries, e.m.o.MaxPartBytes)
	if err == nil && (n < 1 || n > len(entries) || len(out) <= head) {
		err = fmt.Errorf("%d of %d entries in %d bytes", n, len(entries), len(out)-head)
	}
	if err == nil && len(out)-headerSize > e.m.o.MaxFrameBytes {
		err = fmt.Errorf("%w: %d bytes of entries, the limit is %d", ErrTooLarge, len(out), e.m.o.MaxFrameBytes)
	}
	if err != nil {
		buf.free()
		return nil, 0, err
	}
	if cap(out) != cap(buf.b) {
		buf.free() // it was too small
		buf = &buffer{}
	}
	buf.b = out
	part.count = uint32(n)
	_ = appendAppendPart(appendHeader(buf.b[:0], h), part)
	e.mu.Lock()
	e.entrySize = (7*e.entrySize + (len(out)-head)/n) / 8
	e.mu.Unlock()
	return buf, n, nil
}

// sendPart waits until the part may be in flight, and queues it.
func (e *Endpoint) sendPart(c *conn, f *follower, id uint64, req *request, buf *buffer) error {
	n := min(int64(len(buf.b)), e.m.o.MaxFollowerBytes, e.m.o.MaxInFlightBytes)
	if err := f.inFlight.Acquire(e.ctx, n); err != nil {
		buf.free()
		return ErrClosed
	}
	if err := c.inFlight.Acquire(c.ctx, n); err != nil {
		f.inFlight.Release(n)
		buf.free()
		return fmt.Errorf("%w: %s", ErrDisconnected, c)
	}
	c.mu.Lock()
	known := c.pending[id] == req
	if known {
		req.parts = append(req.parts, n)
		req.deadline = time.Now().Add(req.timeout).UnixNano()
	}
	c.mu.Unlock()
	if !known {
		c.inFlight.Release(n)
		f.inFlight.Release(n)
		buf.free()
		return fmt.Errorf("%w: %s", ErrDisconnected, c)
	}
	return c.sendBuffer(buf)
}

// errPipeline: one of the pipeline's requests failed; Raft falls back to single requests.
var errPipeline = errors.New("transport: pipeline broken")

// errBehind: the follower is too far behind for a pipeline. Raft sends 256 entries at most per new entry of the leader, or
// per CommitTimeout when there are none: a follower that was away would take minutes. Single requests go on until the
// follower has everything.
var errBehind = errors.New("transport: the follower is too far behind for a pipeline")

// behindEntries is how far; it is above the leader's in-flight bound, so that ordinary load stays in the pipeline.
const behindEntries = 512

// pipeline implements raft.AppendPipeline on one connection.
//
// Only real answers of the follower reach Consumer: Raft takes whatever arrives there for a sign of life of the
// follower, and would extend the leader's lease by an error. After an error the next AppendEntries fails, and Raft
// leaves the pipeline.
//
// Raft sends an AppendEntries without entries after each CommitTimeout. One that would tell the follower nothing new is
// dropped here, without an answer, but for one per Options.Repeat: that a follower lives is known from the heartbeats.
type pipeline struct {
	e     *Endpoint
	c     *conn
	t     *target
	slots chan struct{} // one per request in flight
	out   chan raft.AppendFuture

	mu     sync.Mutex
	err    error
	told   told
	closed chan struct{}
}

// told is what the follower is known to know: its log equals the leader's up to end, of which commit is committed.
type told struct {
	end, commit uint64
	at          time.Time // when the request that said so was sent
}

// AppendEntriesPipeline implements raft.Transport.
func (e *Endpoint) AppendEntriesPipeline(_ raft.ServerID, a raft.ServerAddress) (raft.AppendPipeline, error) {
	t, err := e.target(a)
	if err != nil {
		return nil, err
	}
	l, err := e.await(t.peer)
	if err != nil {
		return nil, err
	}
	return &pipeline{
		e: e, c: l.data, t: t, slots: make(chan struct{}, e.m.o.Window), closed: make(chan struct{}),
		out: make(chan raft.AppendFuture, 2*e.m.o.Window),
	}, nil
}

// AppendEntries waits while the window is full.
func (p *pipeline) AppendEntries(q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.e.group.LastIndex() > q.PrevLogEntry+uint64(len(q.Entries))+behindEntries {
		return nil, errBehind
	}
	if p.nothingNew(q) {
		return droppedAppend(q, resp), nil
	}
	select {
	case p.slots <- struct{}{}:
	default:
		select {
		case p.slots <- struct{}{}:
		case <-p.closed:
			return nil, raft.ErrPipelineShutdown
		case <-p.c.done:
			return nil, fmt.Errorf("%w: %s", ErrDisconnected, p.c)
		case <-p.e.ctx.Done():
			return nil, ErrClosed
		}
	}
	// out has room for a window of answers in flight beside a window that Raft has not taken yet.
	for len(p.out) >= p.e.m.o.Window {
		select {
		case <-time.After(time.Millisecond):
		case <-p.closed:
			return nil, raft.ErrPipelineShutdown
		}
	}
	p.mu.Lock()
	err := p.err
	p.mu.Unlock()
	if err != nil {
		<-p.slots
		return nil, err
	}
	f := &appendFuture{start: time.Now(), req: q, resp: resp, done: make(chan struct{})}
	if _, err := p.e.sendAppend(p.c, p.t, q, func(r raft.AppendEntriesResponse, err error) { p.finish(f, r, err) }); err != nil {
		p.fail(err)
		return nil, err
	}
	return f, nil
}

// nothingNew: the follower has answered a request that said the same, not long ago, and the pipeline is whole.
func (p *pipeline) nothingNew(q *raft.AppendEntriesRequest) bool {
	if len(q.Entries) > 0 || p.c.ctx.Err() != nil || p.e.ctx.Err() != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err == nil && q.PrevLogEntry == p.told.end && q.LeaderCommitIndex <= p.told.commit &&
		time.Since(p.told.at) < p.e.m.o.Repeat
}

func (p *pipeline) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = fmt.Errorf("%w: %w", errPipeline, err)
	}
}

func (p *pipeline) finish(f *appendFuture, r raft.AppendEntriesResponse, err error) {
	if err != nil {
		p.fail(err)
		f.err = err
	} else {
		*f.resp = r
		if r.Success {
			end := f.req.PrevLogEntry + uint64(len(f.req.Entries))
			p.mu.Lock()
			p.told = told{end: end, commit: min(f.req.LeaderCommitIndex, end), at: f.start}
			p.mu.Unlock()
		}
	}
	close(f.done)
	if err == nil {
		p.out <- f // never full: see AppendEntries
	}
	<-p.slots
}

func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.out }

// Close lets the requests in flight go; their answers are dropped.
func (p *pipeline) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

type appendFuture struct {
	start time.Time
	req   *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	done  chan struct{}
	err   error
}

// errDropped: the request was not sent, as it says nothing new. Raft does not look at a pipeline's future but when it
// comes back from Consumer, and this one does not.
var errDropped = errors.New("transport: nothing new to tell")

func droppedAppend(q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) raft.AppendFuture {
	f := &appendFuture{start: time.Now(), req: q, resp: resp, done: make(chan struct{}), err: errDropped}
	close(f.done)
	return f
}

func (f *appendFuture) Error() error {
	<-f.done
	return f.err
}
func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.req }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }
