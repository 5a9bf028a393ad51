package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Mux is a broker's end of all connections between brokers. It serves the other brokers from New on.
type Mux struct {
	o       Options
	log     *slog.Logger
	session uint64 // of this process: tells a restarted broker from a second one
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // every goroutine

	mu        sync.RWMutex
	closed    bool
	peers     map[int32]*peer
	endpoints map[uint64]*Endpoint
	handlers  map[uint8]Handler
	inbound   map[*conn]struct{}
	accepted  int // connections, from accept to their end

	received atomic.Int64 // bytes of entries that wait for Raft
	calls    chan struct{}
	beats    workers
}

// Handler answers one kind of call. payload belongs to it; the result belongs to the Mux afterwards.
type Handler func(ctx context.Context, from int32, payload []byte) ([]byte, error)

// New starts to serve on o.Listener. Close ends it.
func New(o Options) (*Mux, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	m := &Mux{
		o: o, log: o.Logger, session: rand.Uint64(), peers: map[int32]*peer{}, endpoints: map[uint64]*Endpoint{},
		handlers: map[uint8]Handler{}, inbound: map[*conn]struct{}{}, calls: make(chan struct{}, o.MaxConcurrentCall),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.beats.start(m, 32)
	m.wg.Go(m.accept)
	m.wg.Go(m.tick)
	return m, nil
}

// Close ends every connection and request, closes the endpoints and the listener, and waits for the goroutines.
func (m *Mux) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		m.wg.Wait()
		return nil
	}
	m.closed = true
	m.cancel()
	err := m.o.Listener.Close()
	var endpoints []*Endpoint
	for _, e := range m.endpoints {
		endpoints = append(endpoints, e)
	}
	var conns []*conn
	for c := range m.inbound {
		conns = append(conns, c)
	}
	var links []*link
	for _, p := range m.peers {
		if l := p.link.Load(); l != nil {
			links = append(links, l)
		}
	}
	m.mu.Unlock()
	for _, e := range endpoints {
		_ = e.Close()
	}
	for _, c := range conns {
		c.fail(ErrClosed)
	}
	for _, l := range links {
		l.fail(ErrClosed)
	}
	m.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// Connected says whether there is a live connection to the broker.
func (m *Mux) Connected(node int32) bool {
	m.mu.RLock()
	p := m.peers[node]
	m.mu.RUnlock()
	return p != nil && p.connected() != nil
}

// Connect begins to keep a connection to the broker, so that its loss is noticed. Any request does, too.
func (m *Mux) Connect(node int32) {
	if node != m.o.Node {
		_, _ = m.peer(node)
	}
}

// Handle sets the handler of one kind of call and notification.
func (m *Mux) Handle(kind uint8, f func(ctx context.Context, from int32, payload []byte) ([]byte, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers[kind] = f
}

func (m *Mux) handler(kind uint8) (Handler, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if f, ok := m.handlers[kind]; ok {
		return f, nil
	}
	return nil, fmt.Errorf("%w: kind %d on broker %d", ErrNoHandler, kind, m.o.Node)
}

func (m *Mux) endpoint(id uint64) (*Endpoint, error) {
	m.mu.RLock()
	e, ok := m.endpoints[id]
	m.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("%w: broker %d has no replica %d", ErrUnknownReplica, m.o.Node, id)
	}
	return e, nil
}

func (m *Mux) accept() {
	pause := time.Duration(0)
	for {
		nc, err := m.o.Listener.Accept()
		if err != nil {
			if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			m.log.Error("cannot accept connections from brokers", "error", err)
			select {
			case <-time.After(pause):
				continue
			case <-m.ctx.Done():
				return
			}
		}
		pause = 0
		m.mu.Lock()
		full := m.accepted >= m.o.MaxConns
		if !full {
			m.accepted++
		}
		m.mu.Unlock()
		if full {
			m.log.Error("too many connections from brokers", "limit", m.o.MaxConns, "from", nc.RemoteAddr().String())
			_ = nc.Close()
			continue
		}
		m.wg.Go(func() {
			m.handle(nc)
			m.mu.Lock()
			m.accepted--
			m.mu.Unlock()
		})
	}
}

// handle is the life of one connection from another broker.
func (m *Mux) handle(nc net.Conn) {
	noDelay(nc)
	stop := context.AfterFunc(m.ctx, func() { _ = nc.Close() })
	h, err := m.welcome(nc)
	if !stop() && err == nil {
		err = ErrClosed
	}
	if err != nil {
		if m.ctx.Err() == nil {
			m.log.Warn("connection from broker refused", "from", nc.RemoteAddr().String(), "error", err)
		}
		_ = nc.Close()
		return
	}
	c := m.newConn(nc, h.class, false, h)
	if !m.enter(c) {
		c.fail(ErrClosed)
		return
	}
	defer m.leave(c)
	// Who talks to us is somebody to watch.
	m.Connect(h.node)
	if h.class == classSnapshot {
		err := m.serveSnapshot(c)
		if err != nil && m.ctx.Err() == nil {
			m.log.Warn("snapshot not received", "peer", h.node, "error", err)
		}
		c.fail(ErrClosed)
		return
	}
	m.wg.Go(c.write)
	err = c.read()
	if errors.Is(err, errMalformed) || errors.Is(err, ErrRefused) {
		m.log.Error("protocol error", "peer", h.node, "connection", c.String(), "error", err)
		c.bye(err)
		<-c.done
		return
	}
	c.fail(err)
}

// enter makes an inbound connection known. A newer connection of the same broker and class takes the older one's
// place: the dialler knows best which one it still holds.
func (m *Mux) enter(c *conn) bool {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false
	}
	var old []*conn
	for o := range m.inbound {
		if o.peer.node == c.peer.node && o.class == c.class && c.class != classSnapshot {
			old = append(old, o)
		}
	}
	m.inbound[c] = struct{}{}
	m.mu.Unlock()
	for _, o := range old {
		o.fail(errors.New("replaced by a newer connection"))
	}
	return true
}

func (m *Mux) leave(c *conn) {
	m.mu.Lock()
	delete(m.inbound, c)
	m.mu.Unlock()
}

// knownTwice refuses a second process under one node id: one whose session differs from that of a connection on
// which something was heard just now. A restarted broker is let in: its old connections have ended, or fall silent.
func (m *Mux) knownTwice(h hello) error {
	fresh := time.Now().Add(-2 * m.o.PingInterval).UnixNano()
	var other *conn
	m.mu.RLock()
	for c := range m.inbound {
		if c.peer.node == h.node && c.peer.session != h.session && c.class != classSnapshot &&
			c.lastRecv.Load() > fresh && c.ctx.Err() == nil {
			other = c
		}
	}
	m.mu.RUnlock()
	if other == nil {
		return nil
	}
	return fmt.Errorf("%w: node id %d is used twice, by the data dirs with incarnation %x (connected from %s) and %x",
		ErrRefused, h.node, other.peer.incarnation, other.nc.RemoteAddr(), h.incarnation)
}

// tick sends pings, looks for silence, and expires requests.
func (m *Mux) tick() {
	every := min(m.o.PingInterval/2, 250*time.Millisecond)
	t := time.NewTicker(every)
	defer t.Stop()
	last, lastPing := time.Now(), time.Time{}
	var graceUntil time.Time
	for {
		select {
		case <-t.C:
		case <-m.ctx.Done():
			return
		}
		now := time.Now()
		if now.Sub(last) > every+m.o.SilenceTimeout/3 {
			// This process stood still (stopped, or starved): what it did not hear is no sign of silence.
			graceUntil = now.Add(m.o.SilenceTimeout)
		}
		last = now
		ping := now.Sub(lastPing) >= m.o.PingInterval
		if ping {
			lastPing = now
		}
		var links []*link
		var conns []*conn
		m.mu.RLock()
		for _, p := range m.peers {
			if l := p.connected(); l != nil {
				links = append(links, l)
			}
		}
		for c := range m.inbound {
			if c.class != classSnapshot {
				conns = append(conns, c)
			}
		}
		m.mu.RUnlock()
		silent := func(c *conn, limit time.Duration) bool {
			return now.After(graceUntil) && now.Sub(time.Unix(0, c.lastRecv.Load())) > limit
		}
		for _, l := range links {
			for _, c := range []*conn{l.control, l.data} {
				if silent(c, m.o.SilenceTimeout) {
					l.fail(fmt.Errorf("%w (%v)", errSilence, m.o.SilenceTimeout))
					break
				}
				if ping {
					_ = c.send(header{typ: framePing}, []byte(m.o.ClusterID()))
				}
				c.expire(now)
			}
		}
		for _, c := range conns {
			if silent(c, m.o.SilenceTimeout+2*m.o.PingInterval) {
				c.bye(errSilence)
			}
		}
	}
}
