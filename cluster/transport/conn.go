package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	readBufferBytes = 64 << 10
	// smallFrame: frames up to this size are gathered into chunks of chunkBytes; larger ones are written as they are.
	smallFrame = 4 << 10
	chunkBytes = 32 << 10
	// maxControlQueue bounds what waits to be written, beside entries (which MaxInFlightBytes bounds).
	maxControlQueue = 64 << 20
)

// conn is one connection after its handshake. The dialler asks, the other side answers.
type conn struct {
	m        *Mux
	nc       net.Conn
	class    connClass
	outbound bool
	peer     hello
	br       *bufio.Reader

	wake     chan struct{} // capacity 1: there is something to write, now
	done     chan struct{} // closed by fail
	ctx      context.Context
	cancel   context.CancelFunc
	lastRecv atomic.Int64 // unix nanoseconds
	inFlight *semaphore.Weighted

	mu        sync.Mutex
	queue     []*buffer
	queued    int
	open      bool // the last buffer of queue takes more small frames
	lazyArmed bool
	lazyTimer *time.Timer
	lastFlush time.Time
	closing   error // set: the writer closes when the queue is written
	err       error // set by fail
	nextID    uint64
	pending   map[uint64]*request

	// The reader's alone:
	parts    map[uint64]*appendCall // AppendEntries of which the last part has not come
	notifies map[uint8]*serialQueue[[]byte]
	sources  map[uint64][]byte
}

func (m *Mux) newConn(nc net.Conn, class connClass, outbound bool, peer hello) *conn {
	c := &conn{
		m: m, nc: nc, class: class, outbound: outbound, peer: peer,
		br: bufio.NewReaderSize(nc, readBufferBytes), wake: make(chan struct{}, 1), done: make(chan struct{}),
		inFlight: semaphore.NewWeighted(m.o.MaxInFlightBytes), pending: map[uint64]*request{},
		parts: map[uint64]*appendCall{}, notifies: map[uint8]*serialQueue[[]byte]{}, sources: map[uint64][]byte{},
	}
	c.ctx, c.cancel = context.WithCancel(m.ctx)
	c.lastRecv.Store(time.Now().UnixNano())
	return c
}

func (c *conn) String() string {
	dir := "from"
	if c.outbound {
		dir = "to"
	}
	return fmt.Sprintf("%s connection %s broker %d", c.class, dir, c.peer.node)
}

// fail ends the connection: every request under way fails with err, at once. Only the first call counts.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	pending := c.pending
	c.pending = nil
	queue := c.queue
	c.queue, c.queued, c.open = nil, 0, false
	if c.lazyTimer != nil {
		c.lazyTimer.Stop()
	}
	close(c.done)
	c.mu.Unlock()
	c.cancel()
	_ = c.nc.Close()
	for _, b := range queue {
		b.free()
	}
	lost := fmt.Errorf("%w: %s: %w", ErrDisconnected, c, err)
	for _, r := range pending {
		r.release(c, true)
		r.done(header{}, nil, nil, lost)
	}
}

// bye tells the other side why, and closes when that is written or 300 ms have passed.
func (c *conn) bye(err error) {
	text := err.Error()
	text = text[:min(len(text), 1000)]
	c.mu.Lock()
	if c.err != nil || c.closing != nil {
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	_ = c.send(header{typ: frameBye}, []byte(text))
	c.mu.Lock()
	c.closing = err
	c.mu.Unlock()
	c.signal()
	timer := time.AfterFunc(300*time.Millisecond, func() { c.fail(err) })
	context.AfterFunc(c.ctx, func() { timer.Stop() })
}

func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// send queues a small frame, copying body. With flagLazy it may wait for the others of its interval.
func (c *conn) send(h header, body []byte) error {
	h.length = uint32(len(body))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.roomLocked(headerSize + len(body)); err != nil {
		return err
	}
	b := c.chunkLocked(headerSize + len(body))
	b.b = appendHeader(b.b, h)
	b.b = append(b.b, body...)
	c.queuedLocked(headerSize+len(body), h.lazy())
	return nil
}

// sendBuffer queues a whole frame and takes the buffer over, also when it fails.
func (c *conn) sendBuffer(b *buffer) error {
	setLength(b.b)
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(b.b)
	if err := c.roomLocked(n); err != nil {
		b.free()
		return err
	}
	lazy := b.b[5]&flagLazy != 0
	if n <= smallFrame {
		chunk := c.chunkLocked(n)
		chunk.b = append(chunk.b, b.b...)
		b.free()
	} else {
		c.queue, c.open = append(c.queue, b), false
	}
	c.queuedLocked(n, lazy)
	return nil
}

func (c *conn) roomLocked(n int) error {
	if c.err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDisconnected, c, c.err)
	}
	if c.queued > 0 && c.queued+n > maxControlQueue+int(c.m.o.MaxInFlightBytes) {
		return fmt.Errorf("%w: %d bytes wait on the %s", ErrOverloaded, c.queued, c)
	}
	return nil
}

func (c *conn) chunkLocked(n int) *buffer {
	if c.open {
		if b := c.queue[len(c.queue)-1]; cap(b.b)-len(b.b) >= n {
			return b
		}
	}
	size := chunkBytes
	if len(c.queue) == 0 {
		size = 1 << 10 // most writes are a frame or two
	}
	b := newBuffer(max(n, size))
	c.queue, c.open = append(c.queue, b), true
	return b
}

func (c *conn) queuedLocked(n int, lazy bool) {
	c.queued += n
	if !lazy {
		c.signal()
		return
	}
	if c.lazyArmed {
		return
	}
	wait := c.m.o.Heartbeat - time.Since(c.lastFlush)
	if wait <= 0 {
		c.signal()
		return
	}
	c.lazyArmed = true
	if c.lazyTimer == nil {
		c.lazyTimer = time.AfterFunc(wait, c.signal)
	} else {
		c.lazyTimer.Reset(wait)
	}
}

// write is the writer's goroutine: whatever waits goes out in one call.
func (c *conn) write() {
	var list []*buffer
	var vec net.Buffers
	for {
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
		for {
			c.mu.Lock()
			if len(c.queue) == 0 || c.err != nil {
				closing := c.closing
				c.mu.Unlock()
				if closing != nil {
					c.fail(closing)
				}
				break
			}
			list, c.queue = c.queue, list[:0]
			c.open, c.queued = false, 0
			c.lazyArmed = false
			if c.lazyTimer != nil {
				c.lazyTimer.Stop()
			}
			c.lastFlush = time.Now()
			c.mu.Unlock()

			var err error
			if len(list) == 1 {
				_, err = c.nc.Write(list[0].b)
			} else {
				vec = vec[:0]
				for _, b := range list {
					vec = append(vec, b.b)
				}
				rest := vec // WriteTo consumes it
				_, err = rest.WriteTo(c.nc)
				clear(vec)
			}
			for i, b := range list {
				b.free()
				list[i] = nil
			}
			if err != nil {
				c.fail(err)
				return
			}
		}
	}
}

// read is the reader's loop. It ends with the connection.
func (c *conn) read() error {
	var hb [headerSize]byte
	for {
		if _, err := io.ReadFull(c.br, hb[:]); err != nil {
			return err
		}
		c.lastRecv.Store(time.Now().UnixNano())
		h, err := parseHeader(hb[:], c.m.o.MaxFrameBytes)
		if err != nil {
			return err
		}
		n := int(h.length)
		if n <= smallFrame && !(h.typ == frameAppend && n > appendPartSize) {
			body, err := c.br.Peek(n)
			if err != nil {
				return err
			}
			if err := c.dispatch(h, body, nil); err != nil {
				return err
			}
			if _, err := c.br.Discard(n); err != nil {
				return err
			}
			continue
		}
		buf, err := c.readBody(n)
		if err != nil {
			return err
		}
		if err := c.dispatch(h, buf.b, buf); err != nil {
			return err
		}
	}
}

// readBody reads a large body. Memory grows with what has come, not with what was promised.
func (c *conn) readBody(n int) (*buffer, error) {
	buf := newBuffer(min(n, 1<<maxBufferBits))
	for len(buf.b) < n {
		if len(buf.b) == cap(buf.b) {
			bigger := &buffer{b: make([]byte, len(buf.b), min(n, 2*cap(buf.b)))}
			copy(bigger.b, buf.b)
			buf.free()
			buf = bigger
		}
		from := len(buf.b)
		buf.b = buf.b[:min(n, cap(buf.b))]
		if _, err := io.ReadFull(c.br, buf.b[from:]); err != nil {
			buf.free()
			return nil, err
		}
		c.lastRecv.Store(time.Now().UnixNano())
	}
	return buf, nil
}

// byeError is the other side's reason to close.
type byeError struct{ text string }

func (e *byeError) Error() string { return "closed by the other side: " + e.text }

// dispatch handles one frame on the reader's goroutine: it must not wait. body is valid until it returns, unless
// buf is set, which then belongs to the callee.
func (c *conn) dispatch(h header, body []byte, buf *buffer) error {
	switch h.typ {
	case framePing:
		if err := sameCluster(c.m.o.Node, c.m.o.ClusterID(), c.peer.node, string(body)); err != nil {
			return err
		}
		_ = c.send(header{typ: framePong, id: h.id}, nil)
		return nil
	case framePong:
		return nil
	case frameBye:
		return &byeError{text: string(body)}
	case frameRefusal, framePartDone, frameAppendAnswer, frameHeartbeatAnswer, frameVoteAnswer, framePreVoteAnswer,
		frameTimeoutNowAnswer, frameCallAnswer:
		if !c.outbound {
			return fmt.Errorf("%w: an answer (type %d) on a connection of the asking side", errMalformed, h.typ)
		}
		return c.answer(h, body, buf)
	}
	if c.outbound {
		return fmt.Errorf("%w: a request (type %d) from the answering side", errMalformed, h.typ)
	}
	return c.m.serve(c, h, body, buf)
}

// request is one that waits for its answer.
type request struct {
	expect   frameType
	timeout  time.Duration
	deadline int64     // unix nanoseconds
	parts    []int64   // bytes of the parts that Raft has not answered, oldest first
	follower *follower // of an AppendEntries
	// done is called once, and never waits. body is valid until it returns, unless buf is set: then it belongs to done.
	done func(h header, body []byte, buf *buffer, err error)
}

// release gives the in-flight bytes of the oldest part, or of all, back.
func (r *request) release(c *conn, all bool) {
	for len(r.parts) > 0 {
		n := r.parts[0]
		r.parts = r.parts[1:]
		c.inFlight.Release(n)
		r.follower.inFlight.Release(n)
		if !all {
			return
		}
	}
}

// register makes a request known and gives it its id.
func (c *conn) register(r *request) (uint64, error) {
	r.deadline = time.Now().Add(r.timeout).UnixNano()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrDisconnected, c, c.err)
	}
	c.nextID++
	c.pending[c.nextID] = r
	return c.nextID, nil
}

// forget takes a request back; false when its done was or will be called.
func (c *conn) forget(id uint64) bool {
	c.mu.Lock()
	r, ok := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if ok {
		r.release(c, true)
	}
	return ok
}

func (c *conn) answer(h header, body []byte, buf *buffer) error {
	c.mu.Lock()
	r, ok := c.pending[h.id]
	if ok && h.typ == framePartDone {
		r.deadline = time.Now().Add(r.timeout).UnixNano()
		r.release(c, false)
		c.mu.Unlock()
		return nil
	}
	delete(c.pending, h.id)
	c.mu.Unlock()
	if !ok { // timed out or given up before
		buf.free()
		return nil
	}
	r.release(c, true)
	switch h.typ {
	case r.expect:
		r.done(h, body, buf, nil)
	case frameRefusal:
		r.done(h, nil, nil, &RemoteError{Node: c.peer.node, Code: h.kind, Msg: string(body)})
		buf.free()
	default:
		err := fmt.Errorf("%w: answer of type %d, expected %d", errMalformed, h.typ, r.expect)
		r.done(h, nil, nil, err)
		return err
	}
	return nil
}

// expire fails the requests whose time is over.
func (c *conn) expire(now time.Time) {
	var late []*request
	c.mu.Lock()
	for id, r := range c.pending {
		if now.UnixNano() > r.deadline {
			late = append(late, r)
			delete(c.pending, id)
		}
	}
	c.mu.Unlock()
	for _, r := range late {
		r.release(c, true)
		r.done(header{}, nil, nil, fmt.Errorf("%w: %s, %v", ErrTimeout, c, r.timeout))
	}
}

// refuse answers a request with an error.
func (c *conn) refuse(h header, err error) {
	text := err.Error()
	_ = c.send(header{typ: frameRefusal, id: h.id, kind: uint8(codeOf(err)), flags: h.flags & flagLazy},
		[]byte(text[:min(len(text), 2000)]))
}

var errSilence = errors.New("nothing heard for too long")
