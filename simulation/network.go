package simulation

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Network is the hosts of a simulation and the links between them. A link has two directions, each of which may be
// cut: nothing passes, and nobody is told. What TCP would send again stays in the connection until the link is whole
// or one of its ends gives it up; packets are lost.
//
// One lock for all: a cut is the same instant for every connection.
type Network struct {
	mu    sync.Mutex
	hosts map[string]*Host // the living, by IP
	links map[[2]string]*direction
	conns map[*conn]struct{}
	moved sync.Cond // a link healed, or a host came: who dials looks again
	base  time.Duration
}

// direction is one way of a link.
type direction struct {
	cuts  int // how many faults hold it cut
	extra time.Duration
}

// NewNetwork returns a network whose messages take latency.
func NewNetwork(latency time.Duration) *Network {
	n := &Network{
		hosts: map[string]*Host{}, links: map[[2]string]*direction{}, conns: map[*conn]struct{}{}, base: latency,
	}
	n.moved.L = &n.mu
	return n
}

// Host is one life of one machine's process: from its start to its kill.
type Host struct {
	n         *Network
	ip        string
	listeners map[string]*listener
	gossip    *gossipTransport
	dead      bool
}

// Host attaches a new life under an IP; the one before must have ended.
func (n *Network) Host(ip string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{n: n, ip: ip, listeners: map[string]*listener{}}
	n.hosts[ip] = h
	// What others still send to the life before is answered by a reset.
	for c := range n.conns {
		if c.orphan && c.remote.ip == ip && c.out.bytes > 0 && !n.blocked(c.local.ip, ip) {
			c.reset()
		}
	}
	n.moved.Broadcast()
	return h
}

// Kill ends the life at once: every call of it fails, nothing more is sent. The others' connections are reset, or,
// after a loss of power, hear nothing more.
func (h *Host) Kill(power bool) {
	n := h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.dead {
		return
	}
	h.dead = true
	if n.hosts[h.ip] == h {
		delete(n.hosts, h.ip)
	}
	for _, l := range h.listeners {
		l.closeLocked()
	}
	for c := range n.conns {
		switch {
		case c.local == h:
			c.failLocked(net.ErrClosed)
		case c.remote != h:
		case power || n.blocked(h.ip, c.local.ip):
			c.orphan = true
		default:
			c.reset()
		}
	}
	if h.gossip != nil {
		h.gossip.closeLocked()
	}
	n.moved.Broadcast()
}

func (n *Network) direction(from, to string) *direction {
	d := n.links[[2]string{from, to}]
	if d == nil {
		d = &direction{}
		n.links[[2]string{from, to}] = d
	}
	return d
}

func (n *Network) blocked(from, to string) bool { return n.direction(from, to).cuts > 0 }

// Cut cuts one direction. Heal undoes one Cut.
func (n *Network) Cut(from, to string) {
	n.mu.Lock()
	n.direction(from, to).cuts++
	n.mu.Unlock()
}

// Heal undoes one Cut of a direction; what waited in its connections arrives.
func (n *Network) Heal(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.direction(from, to).cuts--
	for c := range n.conns {
		if c.remote.ip == from && c.local.ip == to {
			c.in.cond.Broadcast()
		}
		if c.orphan && c.local.ip == from && c.remote.ip == to && n.hosts[to] != nil && c.out.bytes > 0 {
			c.reset()
		}
	}
	n.moved.Broadcast()
}

// Delay adds to the time that messages take in one direction.
func (n *Network) Delay(from, to string, extra time.Duration) {
	n.mu.Lock()
	n.direction(from, to).extra = extra
	n.mu.Unlock()
}

// Reset resets every connection between two hosts and returns how many ends there were.
func (n *Network) Reset(a, b string) (ends int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.local.ip == a && c.remote.ip == b || c.local.ip == b && c.remote.ip == a {
			c.reset()
			ends++
		}
	}
	return ends
}

// address is a net.Addr of the network.
type address string

func (address) Network() string  { return "simulated" }
func (a address) String() string { return string(a) }

// Listen takes connections at an address of this host.
func (h *Host) Listen(addr string) (net.Listener, error) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if h.dead {
		return nil, net.ErrClosed
	}
	if h.listeners[addr] != nil {
		return nil, syscall.EADDRINUSE
	}
	l := &listener{h: h, addr: addr}
	l.cond.L = &h.n.mu
	h.listeners[addr] = l
	return l, nil
}

type listener struct {
	h      *Host
	addr   string
	cond   sync.Cond
	queue  []*conn
	closed bool
}

func (l *listener) Accept() (net.Conn, error) {
	l.h.n.mu.Lock()
	defer l.h.n.mu.Unlock()
	for {
		if l.closed {
			return nil, net.ErrClosed
		}
		if len(l.queue) > 0 {
			c := l.queue[0]
			l.queue = l.queue[1:]
			return c, nil
		}
		l.cond.Wait()
	}
}

func (l *listener) Close() error {
	l.h.n.mu.Lock()
	defer l.h.n.mu.Unlock()
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.closed {
		return
	}
	l.closed = true
	delete(l.h.listeners, l.addr)
	for _, c := range l.queue {
		c.closeLocked()
	}
	l.cond.Broadcast()
}

func (l *listener) Addr() net.Addr { return address(l.addr) }

// Dial connects to an address. A host that lives and does not listen there refuses; one that is away, or behind a cut
// link, does not answer.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	ip, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	n := h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		n.mu.Lock()
		n.moved.Broadcast()
		n.mu.Unlock()
	})
	defer stop()
	for n.hosts[ip] == nil || n.blocked(h.ip, ip) || n.blocked(ip, h.ip) {
		if h.dead {
			return nil, net.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return nil, &net.OpError{Op: "dial", Net: "simulated", Addr: address(addr), Err: err}
		}
		n.moved.Wait()
	}
	if trip := n.latency(h.ip, ip) + n.latency(ip, h.ip); trip > 0 {
		n.mu.Unlock()
		time.Sleep(trip)
		n.mu.Lock()
	}
	if h.dead {
		return nil, net.ErrClosed
	}
	to := n.hosts[ip]
	if to == nil || to.listeners[addr] == nil {
		return nil, &net.OpError{Op: "dial", Net: "simulated", Addr: address(addr), Err: syscall.ECONNREFUSED}
	}
	ab, ba := newStream(n), newStream(n)
	ours := &conn{n: n, local: h, remote: to, addr: addr, in: ba, out: ab}
	theirs := &conn{n: n, local: to, remote: h, addr: h.ip + ":0", in: ab, out: ba}
	ours.peer, theirs.peer = theirs, ours
	n.conns[ours], n.conns[theirs] = struct{}{}, struct{}{}
	l := to.listeners[addr]
	l.queue = append(l.queue, theirs)
	l.cond.Broadcast()
	return ours, nil
}

func (n *Network) latency(from, to string) time.Duration { return n.base + n.direction(from, to).extra }

// stream is what is under way in one direction of a connection.
type stream struct {
	cond   sync.Cond // of the network's lock: bytes, room, an end, or a deadline came
	chunks []chunk
	bytes  int
	last   time.Time // arrival of the newest chunk
	ended  bool      // the sender closed: EOF behind the chunks
}

type chunk struct {
	at time.Time
	b  []byte
}

// window is how much of a stream may be under way.
const window = 1 << 20

func newStream(n *Network) *stream {
	s := &stream{}
	s.cond.L = &n.mu
	return s
}

// conn is one end of a connection.
type conn struct {
	n             *Network
	local, remote *Host
	addr          string // of the other end
	peer          *conn
	in, out       *stream
	err           error // set: closed or reset
	orphan        bool  // the other end is gone, and this one was not told
	readUntil     time.Time
	writeUntil    time.Time
}

var errReset = &net.OpError{Op: "read", Net: "simulated", Err: syscall.ECONNRESET}

// reset ends this end with a reset, as the other side's kernel sends it.
func (c *conn) reset() { c.failLocked(errReset) }

func (c *conn) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	delete(c.n.conns, c)
	c.in.cond.Broadcast()
	c.out.cond.Broadcast()
}

func (c *conn) closeLocked() {
	if c.err != nil {
		return
	}
	c.failLocked(net.ErrClosed)
	c.out.ended = true
	c.out.cond.Broadcast()
}

func (c *conn) Read(p []byte) (int, error) {
	n, s := c.n, c.in
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		now := time.Now()
		switch {
		case c.err != nil:
			return 0, c.err
		case !c.readUntil.IsZero() && !now.Before(c.readUntil):
			return 0, os.ErrDeadlineExceeded
		case n.blocked(c.remote.ip, c.local.ip):
		case len(s.chunks) > 0 && !s.chunks[0].at.After(now):
			k := copy(p, s.chunks[0].b)
			if k == len(s.chunks[0].b) {
				s.chunks[0].b = nil
				s.chunks = s.chunks[1:]
			} else {
				s.chunks[0].b = s.chunks[0].b[k:]
			}
			if s.bytes >= window {
				s.cond.Broadcast()
			}
			s.bytes -= k
			return k, nil
		case len(s.chunks) == 0 && s.ended:
			return 0, io.EOF
		}
		s.cond.Wait()
	}
}

func (c *conn) Write(p []byte) (int, error) {
	n, s := c.n, c.out
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		switch {
		case c.err != nil:
			return 0, c.err
		case !c.writeUntil.IsZero() && !time.Now().Before(c.writeUntil):
			return 0, os.ErrDeadlineExceeded
		case c.orphan && n.hosts[c.remote.ip] != nil && !n.blocked(c.local.ip, c.remote.ip) && !n.blocked(c.remote.ip, c.local.ip):
			c.reset()
			continue
		case c.peer.err != nil && !c.orphan && !n.blocked(c.local.ip, c.remote.ip) && !n.blocked(c.remote.ip, c.local.ip):
			c.failLocked(&net.OpError{Op: "write", Net: "simulated", Err: syscall.EPIPE})
			continue
		case s.bytes < window:
			s.bytes += len(p)
			at := time.Now().Add(n.latency(c.local.ip, c.remote.ip))
			if at.Before(s.last) {
				at = s.last
			}
			s.last = at
			s.chunks = append(s.chunks, chunk{at, append([]byte(nil), p...)})
			if d := time.Until(at); d > 0 {
				time.AfterFunc(d, s.wake)
			} else {
				s.cond.Broadcast()
			}
			return len(p), nil
		}
		s.cond.Wait()
	}
}

func (s *stream) wake() {
	s.cond.L.Lock()
	s.cond.Broadcast()
	s.cond.L.Unlock()
}

func (c *conn) Close() error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.err != nil && errors.Is(c.err, net.ErrClosed) {
		return net.ErrClosed
	}
	c.closeLocked()
	c.err = net.ErrClosed
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return address(c.local.ip + ":0") }
func (c *conn) RemoteAddr() net.Addr { return address(c.addr) }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.setDeadline(&c.readUntil, c.in, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.setDeadline(&c.writeUntil, c.out, t)
	return nil
}

func (c *conn) setDeadline(d *time.Time, s *stream, t time.Time) {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	*d = t
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), s.wake)
	}
	s.cond.Broadcast()
}
