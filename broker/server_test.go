package broker

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol"
)

func TestMain(m *testing.M) {
	// sarama leaves one goroutine for its metrics.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}

// startServer serves node on a loopback port under the listener name "IN".
func startServer(t testing.TB, node Node, settings map[string]string) (*Server, string) {
	t.Helper()
	conf, err := config.NewBroker(settings)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("BALSA_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s, err := New(Options{
		Node: node, Listeners: []Listener{{Name: "IN", Listener: l}}, Config: func() *config.Broker { return conf },
		Logger: logger, Registry: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		if !s.budget.TryAcquire(s.budgetMax) {
			t.Error("requests left memory charged")
		}
	})
	return s, l.Addr().String()
}

// rawConn speaks frames.
type rawConn struct {
	t testing.TB
	net.Conn
	next int32
}

func dialRaw(t testing.TB, addr string) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &rawConn{t: t, Conn: c}
}

func frameOf(req kmsg.Request, version int16, corr int32) []byte {
	req.SetVersion(version)
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("raw"))
	return f.AppendRequest(nil, req, corr)
}

func (c *rawConn) send(req kmsg.Request, version int16) {
	c.t.Helper()
	c.next++
	if _, err := c.Write(frameOf(req, version, c.next)); err != nil {
		c.t.Fatal(err)
	}
}

// frame reads one answer: correlation id and what follows it.
func (c *rawConn) frame() (int32, []byte) {
	c.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		c.t.Fatal(err)
	}
	return int32(binary.BigEndian.Uint32(b)), b[4:]
}

// read reads the answer to a request of that kind.
func (c *rawConn) read(req kmsg.Request, version int16) kmsg.Response {
	c.t.Helper()
	req.SetVersion(version)
	_, b := c.frame()
	resp := req.ResponseKind()
	if resp.IsFlexible() && resp.Key() != protocol.ApiVersions {
		b = b[1:]
	}
	if err := resp.ReadFrom(b); err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *rawConn) ask(req kmsg.Request, version int16) kmsg.Response {
	c.t.Helper()
	c.send(req, version)
	return c.read(req, version)
}

// closed checks that the server closes the connection, after answers that are dropped.
func (c *rawConn) closed() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // as net gives it
			c.t.Fatal("the connection stays open")
		}
	}
}

func TestApiVersions(t *testing.T) {
	_, addr := startServer(t, newMetaNode(1), nil)
	c := dialRaw(t, addr)
	for v := int16(0); v <= 4; v++ {
		resp := c.ask(kmsg.NewPtrApiVersionsRequest(), v).(*kmsg.ApiVersionsResponse)
		if resp.ErrorCode != 0 || len(resp.ApiKeys) != len(handlers) {
			t.Fatalf("v%d: %+v", v, resp)
		}
		for _, k := range resp.ApiKeys {
			if k.ApiKey == protocol.Produce && (k.MinVersion != 0 || k.MaxVersion != 13) {
				t.Errorf("produce %d-%d", k.MinVersion, k.MaxVersion)
			}
		}
	}
	// A version from the future is answered in version 0.
	req := kmsg.NewPtrApiVersionsRequest()
	c.send(req, 9)
	resp := c.read(req, 0).(*kmsg.ApiVersionsResponse)
	if resp.ErrorCode != protocol.UnsupportedVersion || len(resp.ApiKeys) == 0 {
		t.Fatalf("%+v", resp)
	}
	// And the connection goes on.
	if resp := c.ask(req, 3).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 0 {
		t.Fatalf("%+v", resp)
	}
}

func TestRepliesInOrder(t *testing.T) {
	_, addr := startServer(t, newMetaNode(1), nil)
	c := dialRaw(t, addr)
	const n = 300 // more than may be in flight
	go func() {
		for i := range int32(n) {
			var req kmsg.Request = kmsg.NewPtrApiVersionsRequest()
			if i%2 == 1 {
				req = kmsg.NewPtrMetadataRequest()
			}
			if _, err := c.Write(frameOf(req, 1, i)); err != nil {
				return
			}
		}
	}()
	for i := range int32(n) {
		if corr, _ := c.frame(); corr != i {
			t.Fatalf("answer %d came as %d", corr, i)
		}
	}
}

func TestMetadataOfListener(t *testing.T) {
	node := newMetaNode(1, 2, 3)
	_, addr := startServer(t, node, nil)
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := dialRaw(t, addr)
	for v := int16(0); v <= 13; v++ {
		resp := c.ask(kmsg.NewPtrMetadataRequest(), v).(*kmsg.MetadataResponse)
		if len(resp.Brokers) != 3 || resp.Brokers[0].Host != "in" || resp.Brokers[0].Port != 1001 {
			t.Fatalf("v%d: %+v", v, resp.Brokers)
		}
		if v >= 2 && (resp.ClusterID == nil || *resp.ClusterID != "c1") || v >= 1 && resp.ControllerID != 2 {
			t.Fatalf("v%d: %+v", v, resp)
		}
	}
	if err := cl.Ping(ctx); err != nil {
		t.Fatal(err)
	}
}
