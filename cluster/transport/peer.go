package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// peer is another broker as this one reaches it: a pair of connections that this side dialled, or the endeavour to
// make them. Once known, a peer is dialled for ever (as long as Resolve knows it).
type peer struct {
	m    *Mux
	node int32
	kick chan struct{} // capacity 1: somebody waits, shorten the pause between two attempts

	link atomic.Pointer[link]

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced when link, failures or lastErr change
	failures uint64        // attempts that failed, ever
	lastErr  error
	notifies []pendingNotify // what came while the first attempt was under way
}

type pendingNotify struct {
	kind    uint8
	payload []byte
}

// link is the pair of connections. It is lost as one.
type link struct {
	control, data *conn
	down          chan struct{} // closed when either is lost
	once          sync.Once
	err           error // readable once down is closed
}

func (l *link) fail(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.down)
	})
	l.control.fail(err)
	l.data.fail(err)
}

func (l *link) alive() bool {
	select {
	case <-l.down:
		return false
	default:
		return true
	}
}

// peer returns the peer of that id, and begins to dial a new one.
func (m *Mux) peer(node int32) (*peer, error) {
	if node == m.o.Node {
		return nil, fmt.Errorf("%w: broker %d does not dial itself", ErrUnreachable, node)
	}
	m.mu.RLock()
	p, ok := m.peers[node]
	m.mu.RUnlock()
	if ok {
		return p, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	if p, ok := m.peers[node]; ok {
		return p, nil
	}
	p = &peer{m: m, node: node, kick: make(chan struct{}, 1), changed: make(chan struct{})}
	m.peers[node] = p
	m.wg.Go(p.run)
	return p, nil
}

func (p *peer) connected() *link {
	if l := p.link.Load(); l != nil && l.alive() {
		return l
	}
	return nil
}

// await returns the live link. Without one it waits until there is, at most for wait; with oneAttempt only until an
// attempt to dial has failed after this call began.
func (p *peer) await(ctx context.Context, stop <-chan struct{}, wait time.Duration, oneAttempt bool) (*link, error) {
	if l := p.connected(); l != nil {
		return l, nil
	}
	var timeout <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timeout = t.C
	}
	p.mu.Lock()
	before := p.failures
	p.mu.Unlock()
	if oneAttempt {
		select {
		case p.kick <- struct{}{}:
		default:
		}
	}
	for {
		p.mu.Lock()
		changed, failures, err := p.changed, p.failures, p.lastErr
		p.mu.Unlock()
		if l := p.connected(); l != nil {
			return l, nil
		}
		if oneAttempt && failures > before {
			return nil, fmt.Errorf("%w: broker %d: %w", ErrUnreachable, p.node, err)
		}
		select {
		case <-changed:
		case <-timeout:
			if err == nil {
				err = ErrTimeout
			}
			return nil, fmt.Errorf("%w: broker %d: %w", ErrUnreachable, p.node, err)
		case <-stop:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: broker %d: %w", ErrUnreachable, p.node, ctx.Err())
		case <-p.m.ctx.Done():
			return nil, ErrClosed
		}
	}
}

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = time.Second
	// steady: a link that lived that long starts the backoff anew.
	steady = 2 * time.Second
)

// run dials, reports, and dials again. It alone calls OnPeer for this peer.
func (p *peer) run() {
	var reported PeerEvent // the last event
	backoff := time.Duration(0)
	log := p.m.log.With("peer", p.node)
	for p.m.ctx.Err() == nil {
		l, err := p.dial()
		if err == nil {
			since := time.Now()
			p.publish(l)
			log.Info("connected to broker", "address", l.control.nc.RemoteAddr().String(), "version", l.control.peer.ver)
			reported = PeerEvent{Node: p.node, Up: true}
			p.m.o.OnPeer(reported)
			select {
			case <-l.down:
			case <-p.m.ctx.Done():
				l.fail(ErrClosed)
			}
			p.publish(nil)
			if p.m.ctx.Err() != nil {
				return
			}
			reported = PeerEvent{Node: p.node, Refused: processGone(l.err), Err: l.err}
			log.Warn("connection to broker lost", "process_gone", reported.Refused, "error", l.err)
			p.m.o.OnPeer(reported)
			if time.Since(since) > steady {
				backoff = 0
			}
			if backoff == 0 {
				backoff = minBackoff
				continue
			}
		} else {
			if p.m.ctx.Err() != nil {
				return
			}
			if p.failed(err) {
				log.Warn("cannot reach broker", "error", err)
			}
			refused := processGone(err)
			if reported.Node != p.node || reported.Up || (refused && !reported.Refused) {
				reported = PeerEvent{Node: p.node, Refused: refused, Err: err}
				p.m.o.OnPeer(reported)
			}
			backoff = min(max(2*backoff, minBackoff), maxBackoff)
		}
		p.pause(backoff)
	}
}

// pause waits for d, or for somebody who wants the peer and the shortest pause.
func (p *peer) pause(d time.Duration) {
	t := time.NewTimer(minBackoff)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.m.ctx.Done():
		return
	}
	if d <= minBackoff {
		return
	}
	t.Reset(d - minBackoff)
	select {
	case <-t.C:
	case <-p.kick:
	case <-p.m.ctx.Done():
	}
}

// publish makes a new link, or its loss (nil), known. Notifications that waited go out before any other.
func (p *peer) publish(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l != nil {
		p.lastErr = nil
		for _, n := range p.notifies {
			p.m.sendNotify(l, n.kind, n.payload)
		}
	}
	p.notifies = nil
	p.link.Store(l)
	close(p.changed)
	p.changed = make(chan struct{})
}

// failed notes a failed attempt; true when the reason is another than before.
func (p *peer) failed(err error) (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news = p.lastErr == nil || p.lastErr.Error() != err.Error()
	p.lastErr = err
	p.failures++
	p.notifies = nil
	close(p.changed)
	p.changed = make(chan struct{})
	return news
}

// dial makes both connections and starts their goroutines.
func (p *peer) dial() (*link, error) {
	control, err := p.m.dialConn(p.m.ctx, p.node, classControl)
	if err != nil {
		return nil, err
	}
	data, err := p.m.dialConn(p.m.ctx, p.node, classData)
	if err == nil && data.peer.session != control.peer.session {
		data.fail(errRestarted)
		err = errRestarted
	}
	if err != nil {
		control.fail(err)
		return nil, err
	}
	l := &link{control: control, data: data, down: make(chan struct{})}
	for _, c := range []*conn{control, data} {
		p.m.wg.Go(func() {
			c.write()
			l.fail(c.reason())
		})
		p.m.wg.Go(func() {
			err := c.read()
			if errors.Is(err, errMalformed) || errors.Is(err, ErrRefused) {
				p.m.log.Error("protocol error", "peer", p.node, "connection", c.String(), "error", err)
			}
			l.fail(cause(c, err))
		})
	}
	return l, nil
}

var errRestarted = errors.New("transport: broker restarted meanwhile")

func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// cause prefers the reason for which this side closed the connection to the error that the reader got from it.
func cause(c *conn, err error) error {
	if r := c.reason(); r != nil {
		return r
	}
	return err
}

// dialConn makes one connection and shakes hands on it.
func (m *Mux) dialConn(ctx context.Context, node int32, class connClass) (*conn, error) {
	addr, ok := m.o.Resolve(node)
	if !ok {
		return nil, fmt.Errorf("%w: no address of broker %d is known", ErrUnreachable, node)
	}
	dctx, cancel := context.WithTimeout(ctx, m.o.DialTimeout)
	nc, err := m.o.Dial(dctx, addr)
	cancel()
	if err != nil {
		return nil, err
	}
	noDelay(nc)
	// The handshake ends with the Mux, too.
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	h, err := m.greet(nc, class, node)
	if !stop() && err == nil {
		err = ErrClosed
	}
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	return m.newConn(nc, class, true, h), nil
}

func noDelay(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		_ = t.SetNoDelay(true)
		_ = t.SetKeepAliveConfig(keepAlive)
	}
}

// processGone tells whether an error shows that the other process ended or does not listen, as opposed to silence.
func processGone(err error) bool {
	var bye *byeError
	if errors.As(err, &bye) || errors.Is(err, ErrRefused) || errors.Is(err, errMalformed) {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, io.ErrClosedPipe) ||
		isRefusedByOS(err)
}
