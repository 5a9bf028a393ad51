package simulation

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
)

// Gossip returns the transport of Serf's packets and streams at an address of this host. Packets are lost on a cut
// link, and when the receiver does not keep up.
func (h *Host) Gossip(addr string) (memberlist.Transport, error) {
	l, err := h.Listen(addr)
	if err != nil {
		return nil, err
	}
	g := &gossipTransport{h: h, addr: addr, l: l, packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn)}
	h.n.mu.Lock()
	h.gossip = g
	h.n.mu.Unlock()
	g.accepted = make(chan struct{})
	go g.accept()
	return g, nil
}

type gossipTransport struct {
	h        *Host
	addr     string
	l        net.Listener
	packets  chan *memberlist.Packet
	streams  chan net.Conn
	stopped  bool
	accepted chan struct{} // closed when accept has ended
}

func (g *gossipTransport) accept() {
	defer close(g.accepted)
	for {
		c, err := g.l.Accept()
		if err != nil {
			return
		}
		// Nobody takes it when memberlist has ended meanwhile.
		timer := time.NewTimer(5 * time.Second)
		select {
		case g.streams <- c:
		case <-timer.C:
			_ = c.Close()
		}
		timer.Stop()
	}
}

func (g *gossipTransport) closeLocked() { g.stopped = true }

func (g *gossipTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	host, port, err := net.SplitHostPort(g.addr)
	if err != nil {
		return nil, 0, err
	}
	p, err := strconv.Atoi(port)
	return net.ParseIP(host), p, err
}

func (g *gossipTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	n, now := g.h.n, time.Now()
	ip, _, err := net.SplitHostPort(addr)
	if err != nil {
		return now, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if g.stopped {
		return now, net.ErrClosed
	}
	packet := &memberlist.Packet{Buf: append([]byte(nil), b...), From: address(g.addr)}
	deliver := func() {
		to := n.hosts[ip]
		if to == nil || to.gossip == nil || to.gossip.stopped || n.blocked(g.h.ip, ip) {
			return
		}
		packet.Timestamp = time.Now()
		select {
		case to.gossip.packets <- packet:
		default:
		}
	}
	if d := n.latency(g.h.ip, ip); d > 0 {
		time.AfterFunc(d, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			deliver()
		})
	} else {
		deliver()
	}
	return now, nil
}

func (g *gossipTransport) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *gossipTransport) StreamCh() <-chan net.Conn           { return g.streams }

func (g *gossipTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return g.h.Dial(ctx, addr)
}

func (g *gossipTransport) Shutdown() error {
	g.h.n.mu.Lock()
	g.closeLocked()
	g.h.n.mu.Unlock()
	err := g.l.Close()
	<-g.accepted
	return err
}
