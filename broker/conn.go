package broker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

const (
	readBuffer  = 64 << 10
	flushAt     = 64 << 10
	keepOut     = 256 << 10        // largest response buffer that a connection keeps
	frameTime   = 30 * time.Second // for a frame to arrive once its length did, plus a second per MiB
	writeTime   = 30 * time.Second // for a client to take some of an answer
	anonymous   = "User:ANONYMOUS"
	chargeAhead = 32 << 10 // bytes of a frame that must have arrived before memory for the whole is asked for
)

// conn is one client connection: a reader goroutine that decodes frames and starts produces, and a writer goroutine
// that handles everything else and answers strictly in the order of the requests. Between them stands a queue whose
// length bounds the requests in flight.
type conn struct {
	s        *Server
	nc       net.Conn
	listener string
	ip       string
	log      *slog.Logger

	ctx    context.Context // ends when the client is gone, or the server gives up
	cancel context.CancelFunc

	br       *bufio.Reader
	queue    chan *request
	inFlight atomic.Int32
	stop     chan struct{} // closed by stopReading: finish what was read, then leave
	stopOnce sync.Once

	// The writer's own.
	out    []byte // answers not written yet
	broken bool   // nothing more can be written
	timer  *time.Timer
}

// request that was read, on its way to the writer.
type request struct {
	requestContext
	h       *apiHandler
	body    []byte // aliases frame
	frame   *protocol.Frame
	charged int64 // of the server's budget
	start   time.Time
	produce *produceCall // set for Produce
	// unsupported: an ApiVersions request of a version that is not known.
	unsupported bool
}

func newConn(s *Server, nc net.Conn, listener, ip string) *conn {
	k := &conn{
		s: s, nc: nc, listener: listener, ip: ip,
		log:   s.log.With("remote", nc.RemoteAddr().String(), "listener", listener),
		br:    bufio.NewReaderSize(nc, readBuffer),
		queue: make(chan *request, max(1, s.config().ConnectionInflightRequests())),
		stop:  make(chan struct{}),
	}
	k.ctx, k.cancel = context.WithCancel(s.ctx)
	return k
}

// serve runs the connection; both goroutines are gone and the socket is closed when it returns.
func (k *conn) serve() {
	written := make(chan struct{})
	go func() {
		defer close(written)
		k.write()
	}()
	err := k.read()
	close(k.queue)
	select {
	case <-k.stop: // a graceful stop: what was read is answered
	default:
		k.cancel()
		if err != nil {
			k.s.m.malformed.Inc()
			k.log.Warn("closing the connection", "err", err)
		}
	}
	<-written
	k.cancel()
	_ = k.nc.Close()
}

// stopReading makes the connection answer what was read and close. May be called from any goroutine.
func (k *conn) stopReading() {
	k.stopOnce.Do(func() { close(k.stop) })
	_ = k.nc.SetReadDeadline(time.Unix(1, 0))
}

// kill cuts the connection.
func (k *conn) kill() {
	k.cancel()
	_ = k.nc.Close()
}

func (k *conn) stopping() bool {
	select {
	case <-k.stop:
		return true
	default:
		return false
	}
}

// read reads requests until the client goes, the connection stops, or an error that is the client's fault: only that
// is returned.
func (k *conn) read() (err error) {
	defer func() {
		if p := recover(); p != nil {
			k.log.Error("panic while reading a request", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	for {
		if err := k.awaitFrame(); err != nil {
			return nil
		}
		r, err := k.readRequest()
		if err != nil {
			var ne net.Error
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
				errors.Is(err, context.Canceled) || (errors.As(err, &ne) && !ne.Timeout()) {
				return nil
			}
			return err
		}
		k.inFlight.Add(1)
		select {
		case k.queue <- r:
		case <-k.ctx.Done():
			k.finish(r, false)
			return nil
		}
	}
}

// awaitFrame waits for the first bytes of the next frame, at most connections.max.idle.ms when nothing is under way.
func (k *conn) awaitFrame() error {
	for {
		idle := k.s.config().ConnectionsMaxIdle()
		if idle < 0 {
			_ = k.nc.SetReadDeadline(time.Time{})
		} else {
			_ = k.nc.SetReadDeadline(time.Now().Add(idle))
		}
		if k.stopping() { // after the deadline was set: stopReading sets its own after closing stop
			return net.ErrClosed
		}
		_, err := k.br.Peek(protocol.FrameLenSize)
		if err == nil {
			return nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !k.stopping() && k.inFlight.Load() > 0 {
			continue // a long poll is not idleness
		}
		return err
	}
}

// readRequest reads one frame and starts it if it is a Produce.
func (k *conn) readRequest() (*request, error) {
	c := k.s.config()
	limit := c.SocketRequestMaxBytes()
	_ = k.nc.SetReadDeadline(time.Now().Add(frameTime))
	size, err := protocol.ReadFrameSize(k.br, limit)
	if err != nil {
		return nil, err
	}
	if size > 1<<20 {
		_ = k.nc.SetReadDeadline(time.Now().Add(frameTime + time.Duration(size>>20)*time.Second))
	}
	head, err := k.br.Peek(protocol.MinHeader)
	if err != nil {
		return nil, err
	}
	hd, err := protocol.Peek(head)
	if err != nil {
		return nil, err
	}
	h, ok := handlers[hd.Key]
	if !ok {
		return nil, fmt.Errorf("%w: api %d is not served", protocol.ErrMalformed, hd.Key)
	}
	if size > h.maxBytes {
		return nil, fmt.Errorf("%w: a %s request of %d bytes (limit %d)", protocol.ErrMalformed, kmsg.NameForKey(hd.Key), size, h.maxBytes)
	}
	r := &request{h: h, charged: int64(size)}
	if h.handle != nil {
		r.charged = min(decodedFactor*r.charged, k.s.budgetMax)
	}
	known := hd.Version >= h.min && hd.Version <= h.max
	if !known {
		if hd.Key != protocol.ApiVersions || hd.Version < 0 {
			return nil, fmt.Errorf("%w: %s version %d is not served", protocol.ErrMalformed, kmsg.NameForKey(hd.Key), hd.Version)
		}
		r.unsupported = true
	}
	// A length that is only claimed takes nothing from the others: some of a large frame must be here first.
	if size > chargeAhead {
		if _, err := k.br.Peek(chargeAhead); err != nil {
			return nil, err
		}
	}
	if err := k.charge(r.charged); err != nil {
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			k.finish(r, false)
			panic(p)
		}
	}()
	frame, err := protocol.ReadFrame(k.br, size, nil)
	if err != nil {
		k.s.budget.Release(r.charged)
		return nil, err
	}
	r.start = time.Now()
	r.frame = frame
	k.s.m.bytesIn.Add(float64(size + protocol.FrameLenSize))

	r.header, r.body, err = hd, nil, nil
	if !r.unsupported {
		r.header, r.body, err = protocol.ParseHeader(frame.B, flexibleRequest(hd.Key, hd.Version))
	}
	if err != nil {
		k.finish(r, true)
		return nil, err
	}
	r.ctx, r.clientID, r.listener = k.ctx, r.header.ClientID, k.listener
	r.principal, r.remote = anonymous, k.ip
	if hd.Key == protocol.Produce {
		if r.produce, err = k.s.startProduce(r); err != nil {
			k.finish(r, true)
			return nil, err
		}
	}
	return r, nil
}

// charge takes n bytes from the server's budget; it waits for others to be answered, while this client is not read.
func (k *conn) charge(n int64) error {
	if k.s.budget.TryAcquire(n) {
		return nil
	}
	if err := k.s.budget.Acquire(k.ctx, n); err != nil {
		return context.Canceled
	}
	// The wait was ours, not the client's.
	_ = k.nc.SetReadDeadline(time.Now().Add(frameTime + time.Duration(n>>20)*time.Second))
	return nil
}

// finish gives back what the request held. reuse says that nothing points into its frame any more.
func (k *conn) finish(r *request, reuse bool) {
	if r.frame != nil && reuse {
		r.frame.Release()
	}
	r.frame, r.body = nil, nil
	if r.charged > 0 {
		k.s.budget.Release(r.charged)
		r.charged = 0
	}
}

// flexible[key] is the first version whose request header has tagged fields.
var flexible = func() map[int16]int16 {
	m := map[int16]int16{}
	for key, v := range protocol.Versions {
		m[key] = 1<<15 - 1
		req := kmsg.RequestForKey(key)
		for version := v.Max; version >= 0; version-- {
			req.SetVersion(version)
			if !req.IsFlexible() {
				break
			}
			m[key] = version
		}
	}
	return m
}()

func flexibleRequest(key, version int16) bool { return version >= flexible[key] }

// write answers the requests of the queue, in order, until the reader closes it.
func (k *conn) write() {
	defer func() {
		if k.timer != nil {
			k.timer.Stop()
		}
	}()
	for r := range k.queue {
		k.answer(r)
		k.inFlight.Add(-1)
		if len(k.queue) == 0 || len(k.out) >= flushAt {
			k.flush()
		}
	}
	k.flush()
}

// answer handles one request and puts its answer into k.out, or on the wire.
func (k *conn) answer(r *request) {
	reuse := true
	defer func() {
		if p := recover(); p != nil {
			k.log.Error("panic while handling a request", "api", kmsg.NameForKey(r.header.Key), "version", r.header.Version,
				"client", r.clientID, "panic", p, "stack", string(debug.Stack()))
			k.breakOff()
			reuse = false
		}
		k.finish(r, reuse)
	}()
	var err error
	switch {
	case r.produce != nil:
		reuse, err = k.answerProduce(r)
	case k.broken || k.ctx.Err() != nil:
		return
	case r.unsupported:
		resp := apiVersions()
		resp.ErrorCode = protocol.UnsupportedVersion
		k.append(r, resp, 0)
	case r.header.Key == protocol.Fetch:
		k.flush()
		err = k.answerFetch(r)
	default:
		k.flush()
		req := kmsg.RequestForKey(r.header.Key)
		req.SetVersion(r.header.Version)
		if err = checkTags(r.header.Key, r.header.Version, r.body); err != nil {
			break
		}
		if err = req.ReadFrom(r.body); err != nil {
			err = fmt.Errorf("%w: %w", protocol.ErrMalformed, err)
			break
		}
		var resp kmsg.Response
		if resp, err = r.h.handle(k.s, &r.requestContext, req); err == nil && resp != nil {
			k.append(r, resp, r.header.Version)
		}
	}
	if err != nil {
		if !k.broken && k.ctx.Err() == nil {
			k.s.m.malformed.Inc()
			k.log.Warn("closing the connection", "api", kmsg.NameForKey(r.header.Key), "version", r.header.Version, "client", r.clientID, "err", err)
		}
		k.flush()
		k.breakOff()
		return
	}
	k.s.m.done(r.header.Key, r.start)
}

// begin starts a response in k.out and returns where it starts; end fills in its length, plus what follows out of file.
//
//	length int32, correlation id int32, tagged fields (flexible versions, but never ApiVersions), body
func (k *conn) begin(r *request, flexible bool) int {
	at := len(k.out)
	k.out = binary.BigEndian.AppendUint32(k.out, 0)
	k.out = binary.BigEndian.AppendUint32(k.out, uint32(r.header.CorrelationID))
	if flexible && r.header.Key != protocol.ApiVersions {
		k.out = append(k.out, 0)
	}
	return at
}

func (k *conn) end(at, elsewhere int) {
	size := len(k.out) - at - protocol.FrameLenSize + elsewhere
	binary.BigEndian.PutUint32(k.out[at:], uint32(size))
	k.s.m.bytesOut.Add(float64(size + protocol.FrameLenSize))
}

// append puts a response into k.out.
func (k *conn) append(r *request, resp kmsg.Response, version int16) {
	resp.SetVersion(version)
	at := k.begin(r, resp.IsFlexible())
	k.out = resp.AppendTo(k.out)
	k.end(at, 0)
}

// flush writes what stands in k.out.
func (k *conn) flush() {
	if len(k.out) == 0 {
		return
	}
	if !k.broken {
		k.writeAll(k.out)
	}
	if cap(k.out) > keepOut {
		k.out = nil
	}
	k.out = k.out[:0]
}

// writeAll writes b, giving the client writeTime for each part that it takes.
func (k *conn) writeAll(b []byte) {
	for len(b) > 0 && !k.broken {
		n := min(len(b), 1<<20)
		_ = k.nc.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := k.nc.Write(b[:n]); err != nil {
			k.breakOff()
			return
		}
		b = b[n:]
	}
}

// breakOff ends the connection: nothing is written any more, and the reader stops.
func (k *conn) breakOff() {
	k.broken = true
	k.kill()
}
