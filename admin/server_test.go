package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPaths(t *testing.T) {
	reg := prometheus.NewRegistry()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "balsa_test", Help: "A test."})
	reg.MustRegister(g)
	g.Set(7)
	var notReady atomic.Value
	notReady.Store("no controller")
	full := New(Options{
		Ready: func() error {
			if s := notReady.Load().(string); s != "" {
				return errors.New(s)
			}
			return nil
		},
		Registry: reg,
		Status:   func() any { return map[string]int{"controller": 2} },
		Config:   func() any { return make(chan int) }, // cannot be encoded
		Pprof:    true,
	})
	bare := New(Options{})
	for _, c := range []struct {
		s            *Server
		method, path string
		status       int
		body         string
	}{
		{full, "GET", "/", 200, "/readyz"},
		{full, "GET", "/healthz", 200, "ok"},
		{full, "HEAD", "/healthz", 200, ""},
		{full, "GET", "/readyz", 503, "not ready: no controller"},
		{full, "GET", "/metrics", 200, "balsa_test 7"},
		{full, "GET", "/v1/cluster", 200, `"controller": 2`},
		{full, "GET", "/v1/config", 500, "cannot encode"},
		{full, "GET", "/debug/pprof/", 200, "goroutine"},
		{full, "POST", "/readyz", 405, ""},
		{full, "GET", "/nothing", 404, ""},
		{bare, "GET", "/readyz", 200, "ready"},
		{bare, "GET", "/metrics", 404, ""},
		{bare, "GET", "/v1/cluster", 404, ""},
		{bare, "GET", "/debug/pprof/", 404, ""},
	} {
		w := httptest.NewRecorder()
		c.s.Handler().ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.body) {
			t.Errorf("%s %s: %d %q", c.method, c.path, w.Code, w.Body.String())
		}
	}
	notReady.Store("")
	w := httptest.NewRecorder()
	full.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
	if w.Code != 200 {
		t.Error("ready broker says", w.Code)
	}
}

func TestStatusLimit(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := New(Options{Status: func() any { entered <- struct{}{}; <-leave; return 1 }})
	done := make(chan int, maxStatusRequests)
	for range maxStatusRequests {
		go func() {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/cluster", nil))
			done <- w.Code
		}()
		<-entered
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/cluster", nil))
	if w.Code != http.StatusTooManyRequests {
		t.Error("one too many:", w.Code)
	}
	close(leave)
	for range maxStatusRequests {
		if code := <-done; code != 200 {
			t.Error(code)
		}
	}
}

func TestServeAndShutdown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if string(body) != "ok\n" || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%q", body)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// A listener that is full hands out no connection, and gives the slot of a closed one to the next.
func TestLimitListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitListener(inner, 1)
	dial := func() net.Conn {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	defer dial().Close()
	defer dial().Close()
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	next := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		next <- c
	}()
	select {
	case <-next:
		t.Fatal("a second connection while the first is open")
	default:
	}
	_ = first.Close()
	_ = first.Close() // gives back one slot only
	second := <-next
	errs := make(chan error)
	go func() {
		_, err := l.Accept()
		errs <- err
	}()
	_ = l.Close()
	if err := <-errs; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	_ = second.Close()
}
