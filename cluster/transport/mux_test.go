package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func short(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// proxy forwards to a broker, and can cut, freeze or reset what goes through it.
type proxy struct {
	l      net.Listener
	target string
	frozen atomic.Bool
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{l: l, target: target}
	p.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			p.wg.Go(func() { p.copy(out, in) })
			p.wg.Go(func() { p.copy(in, out) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); p.reset(); p.wg.Wait() })
	return p
}

func (p *proxy) copy(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if p.frozen.Load() {
			continue // swallowed
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	p.conns = nil
}

func TestCalls(t *testing.T) {
	n := newNetwork(t)
	a, b := n.mux(1, nil), n.mux(2, func(o *Options) { o.MaxConcurrentCall = 8 })
	b.Handle(7, func(_ context.Context, from int32, p []byte) ([]byte, error) {
		return append(fmt.Appendf(nil, "from %d: ", from), p...), nil
	})
	b.Handle(8, func(context.Context, int32, []byte) ([]byte, error) { return nil, errors.New("no such topic") })
	b.Handle(9, func(ctx context.Context, _ int32, _ []byte) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	got, err := a.Call(short(t), 2, 7, []byte("hello"))
	if err != nil || string(got) != "from 1: hello" {
		t.Fatalf("%q %v", got, err)
	}
	big := bytes.Repeat([]byte("x"), 5<<20)
	got, err = a.Call(short(t), 2, 7, big)
	if err != nil || !bytes.Equal(got[8:], big) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if got, err = b.Call(short(t), 2, 7, []byte("me")); err != nil || string(got) != "from 2: me" {
		t.Fatalf("local call: %q %v", got, err)
	}
	var remote *RemoteError
	if _, err = a.Call(short(t), 2, 8, nil); !errors.As(err, &remote) || remote.Node != 2 || remote.Msg != "no such topic" {
		t.Fatal(err)
	}
	if _, err = a.Call(short(t), 2, 99, nil); !errors.Is(err, ErrNoHandler) {
		t.Fatal(err)
	}
	if _, err = a.Call(short(t), 5, 7, nil); !errors.Is(err, ErrUnreachable) {
		t.Fatal(err)
	}
	if _, err = a.Call(short(t), 2, 7, make([]byte, 33<<20)); !errors.Is(err, ErrTooLarge) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err = a.Call(ctx, 2, 9, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	// More calls than the other side carries out at a time are refused.
	ctx, cancel = context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var refused atomic.Int32
	for range 20 {
		wg.Go(func() {
			if _, err := a.Call(ctx, 2, 9, nil); errors.Is(err, ErrOverloaded) {
				refused.Add(1)
			}
		})
	}
	eventually(t, "calls are refused", func() bool { return refused.Load() >= 11 })
	cancel()
	wg.Wait()
}

func TestNotify(t *testing.T) {
	n := newNetwork(t)
	a, b := n.mux(1, nil), n.mux(2, nil)
	var mu sync.Mutex
	var got []string
	b.Handle(7, func(_ context.Context, from int32, p []byte) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprint(from, string(p)))
		return nil, nil
	})
	// The first ones wait for the connection.
	for i := range 100 {
		a.Notify(2, 7, fmt.Appendf(nil, "%d", i))
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(got) }
	eventually(t, "all arrive", func() bool { return count() == 100 })
	for i, s := range got {
		if s != fmt.Sprintf("1%d", i) {
			t.Fatalf("notification %d is %s", i, s)
		}
	}
	b.Notify(2, 7, []byte("self"))
	eventually(t, "the own one arrives", func() bool { return count() == 101 })
	a.Notify(5, 7, nil) // nobody: dropped
	a.Notify(2, 8, nil) // no handler: dropped
	_, err := a.Call(short(t), 2, 7, nil)
	must(t, err)
}

// events collects a Mux's PeerEvents.
type events chan PeerEvent

func (e events) next(t *testing.T) PeerEvent {
	t.Helper()
	select {
	case ev := <-e:
		return ev
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
		panic("")
	}
}

func TestPeerDiesAndComesBack(t *testing.T) {
	n := newNetwork(t)
	ev := make(events, 100)
	a := n.mux(1, func(o *Options) { o.OnPeer = func(e PeerEvent) { ev <- e } })
	b := n.mux(2, nil)
	b.Handle(9, func(ctx context.Context, _ int32, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() })
	e, err := a.Register(1, 1, &modelLog{})
	must(t, err)
	_, err = b.Register(2, 2, &modelLog{}) // nobody answers there
	must(t, err)
	errs := make(chan error, 3)
	go func() { _, err := a.Call(context.Background(), 2, 9, nil); errs <- err }()
	go func() {
		errs <- e.RequestVote("", "2/2", &raft.RequestVoteRequest{RPCHeader: header3(), Term: 1}, &raft.RequestVoteResponse{})
	}()
	go func() {
		errs <- e.AppendEntries("", "2/2", &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 1, Entries: entries(1, 1, "x")}, &raft.AppendEntriesResponse{})
	}()
	if got := ev.next(t); !got.Up || got.Node != 2 {
		t.Fatalf("%+v", got)
	}
	eventually(t, "all are under way", func() bool {
		b.mu.RLock()
		defer b.mu.RUnlock()
		return len(b.calls) == 1 && len(b.endpoints[2].consumer) == 2
	})
	begin := time.Now()
	// Close's first step, and its effect on a handler: that is not an answer.
	b.cancel()
	eventually(t, "the handler ends", func() bool { return len(b.calls) == 0 })
	must(t, b.Close())
	for range 3 {
		if err := <-errs; !errors.Is(err, ErrDisconnected) && !errors.Is(err, ErrClosed) {
			t.Fatalf("a request of a dead broker ended with %v", err)
		}
	}
	got := ev.next(t)
	if got.Up || !got.Refused || got.Node != 2 || a.Connected(2) {
		t.Fatalf("%+v", got)
	}
	t.Logf("noticed in %v", time.Since(begin))
	if _, err := a.Call(short(t), 2, 9, nil); !errors.Is(err, ErrUnreachable) {
		t.Fatal(err)
	}
	n.mux(2, nil).Handle(9, func(context.Context, int32, []byte) ([]byte, error) { return []byte("back"), nil })
	if got := ev.next(t); !got.Up {
		t.Fatalf("%+v", got)
	}
	out, err := a.Call(short(t), 2, 9, nil)
	if err != nil || string(out) != "back" || !a.Connected(2) {
		t.Fatalf("%q %v", out, err)
	}
}

// A peer that was never there is reported, too, and waiting heartbeats get through when it comes.
func TestWaitForPeer(t *testing.T) {
	n := newNetwork(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := l.Addr().String()
	must(t, l.Close())
	n.addrs[2] = addr
	ev := make(events, 100)
	a := n.mux(1, func(o *Options) { o.OnPeer = func(e PeerEvent) { ev <- e } })
	e, err := a.Register(1, 1, &modelLog{})
	must(t, err)
	done := make(chan error, 1)
	go func() {
		done <- e.AppendEntries("", "2/2", &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 1}, &raft.AppendEntriesResponse{})
	}()
	if got := ev.next(t); got.Up || !got.Refused {
		t.Fatalf("%+v", got)
	}
	b := n.mux(2, nil)
	f, err := b.Register(2, 2, &modelLog{})
	must(t, err)
	rpc := <-f.Consumer()
	rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
	must(t, <-done)
}

func TestSilenceIsNoticed(t *testing.T) {
	n := newNetwork(t)
	quick := func(o *Options) { o.PingInterval, o.SilenceTimeout = 100*time.Millisecond, 700*time.Millisecond }
	b := n.mux(2, quick)
	px := newProxy(t, b.o.Listener.Addr().String())
	n.addrs[2] = px.l.Addr().String()
	ev := make(events, 100)
	a := n.mux(1, func(o *Options) {
		quick(o)
		o.OnPeer = func(e PeerEvent) { ev <- e }
		o.HandshakeTimeout = 100 * time.Millisecond
	})
	b.Handle(9, func(context.Context, int32, []byte) ([]byte, error) { return nil, nil })
	_, err := a.Call(short(t), 2, 9, nil)
	must(t, err)
	if got := ev.next(t); !got.Up {
		t.Fatalf("%+v", got)
	}
	px.frozen.Store(true)
	if got := ev.next(t); got.Up || got.Refused || !errors.Is(got.Err, errSilence) {
		t.Fatalf("%+v", got)
	}
	px.frozen.Store(false)
	for {
		if got := ev.next(t); got.Up {
			break
		}
	}
	// A reset is no silence.
	px.reset()
	if got := ev.next(t); got.Up || !got.Refused {
		t.Fatalf("%+v", got)
	}
	if got := ev.next(t); !got.Up {
		t.Fatalf("%+v", got)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	n := newNetwork(t)
	id := "c1"
	var mu sync.Mutex
	cluster := func() string { mu.Lock(); defer mu.Unlock(); return id }
	a := n.mux(1, func(o *Options) { o.ClusterID = cluster })
	refused := func(m *Mux, node int32, words ...string) {
		t.Helper()
		_, err := m.Call(short(t), node, 1, nil)
		if !errors.Is(err, ErrRefused) {
			t.Fatalf("not refused: %v", err)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q is not in %q", w, err)
			}
		}
	}
	other := n.mux(2, func(o *Options) { o.ClusterID = func() string { return "c2" } })
	refused(other, 1, "cluster c1", "cluster c2", "broker 1", "broker 2")
	refused(a, 2, "cluster c1", "cluster c2")
	must(t, other.Close())

	// Before the bootstrap nobody knows the ID; when both do, they must agree.
	fresh := ""
	b := n.mux(2, func(o *Options) {
		o.ClusterID = func() string { mu.Lock(); defer mu.Unlock(); return fresh }
		o.PingInterval = 20 * time.Millisecond
	})
	b.Handle(1, func(context.Context, int32, []byte) ([]byte, error) { return nil, nil })
	_, err := a.Call(short(t), 2, 1, nil)
	must(t, err)
	mu.Lock()
	fresh = "c3"
	mu.Unlock()
	eventually(t, "the clusters part", func() bool { return !a.Connected(2) })
	refused(a, 2, "cluster c1", "cluster c3")
	mu.Lock()
	fresh = "c1"
	mu.Unlock()
	eventually(t, "they join", func() bool { return a.Connected(2) && b.Connected(1) })

	// Another disk under the same node id.
	c := n.mux(5, func(o *Options) { o.Node = 2; o.Incarnation = 0xbeef })
	refused(c, 1, "node id 2", "1002", "beef")
	// Our own node id.
	d := n.mux(6, func(o *Options) { o.Node = 1; o.Incarnation = 0xdead })
	n.addrs[7] = a.o.Listener.Addr().String()
	refused(d, 7, "node id 1", "1001", "dead")
	// The address of another broker.
	n.addrs[8] = a.o.Listener.Addr().String()
	refused(b, 8, "8", "1")
}

func TestForeignBytesAreRefused(t *testing.T) {
	n := newNetwork(t)
	a := n.mux(1, func(o *Options) { o.HandshakeTimeout = 200 * time.Millisecond; o.MaxConns = 4 })
	for _, s := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00\x40" + strings.Repeat("x", 64), "\x7f\xff\xff\xff", "", "\x00\x00\x00\x30"} {
		nc, err := net.Dial("tcp", a.o.Listener.Addr().String())
		must(t, err)
		_, _ = nc.Write([]byte(s))
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%q: the connection stays", s)
		}
		_ = nc.Close()
	}
	// A frame above its limit, after a good handshake.
	nc, err := net.Dial("tcp", a.o.Listener.Addr().String())
	must(t, err)
	defer nc.Close()
	_, err = nc.Write(appendHello(nil, hello{low: 1, high: 9, class: classControl, node: 3, want: 1, session: 5, cluster: "c1"}))
	must(t, err)
	h, err := readHello(nc)
	if err != nil || h.high != 0 || h.low != 1 {
		t.Fatalf("a dialler of later versions: %+v %v", h, err)
	}
	_, err = nc.Write(appendHeader(nil, header{typ: frameHeartbeat, length: 1 << 30}))
	must(t, err)
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	rest, err := io.ReadAll(nc)
	if !bytes.Contains(rest, []byte("malformed")) {
		t.Fatalf("no reason given: %q %v", rest, err)
	}
}

func TestAddress(t *testing.T) {
	a := Address(2, 41)
	node, id, err := ParseAddress(a)
	if a != "2/41" || err != nil || node != 2 || id != 41 {
		t.Fatal(a, node, id, err)
	}
	a = Address(1, 1<<63|5)
	if _, id, err = ParseAddress(a); err != nil || id != 1<<63|5 {
		t.Fatal(a, id, err)
	}
	for _, bad := range []raft.ServerAddress{"", "1", "1/", "/1", "-1/2", "1/2/3", "4294967296/1"} {
		if _, _, err := ParseAddress(bad); err == nil {
			t.Errorf("%q has a meaning", bad)
		}
	}
}

func echo(_ context.Context, _ int32, p []byte) ([]byte, error) { return p, nil }
