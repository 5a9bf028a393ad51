// Package admin is the HTTP side of a broker: health, metrics, status and profiles, for people and for what watches
// over brokers. It reads; the one thing that can be changed through it is a partition that lost its replicas.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the server. A client that exceeds one is answered with an error or cut off; the broker is not harmed.
const (
	maxConnections    = 128
	maxHeaderBytes    = 16 << 10
	maxScrapes        = 4
	maxStatusRequests = 4
	readTimeout       = 10 * time.Second
	writeTimeout      = 90 * time.Second // a CPU profile takes 30 s by default
	idleTimeout       = 2 * time.Minute
	scrapeTimeout     = 30 * time.Second
)

// Options of a Server. The zero value serves /healthz, a /readyz that says yes, and nothing else.
type Options struct {
	// Ready says why the broker cannot serve clients now; nil: it can. It must return at once.
	Ready func() error
	// Registry is what /metrics shows; nil: no /metrics.
	Registry prometheus.Gatherer
	// Status is encoded as JSON by /v1/cluster; nil: no /v1/cluster. It may be called concurrently.
	Status func() any
	// Config is encoded as JSON by /v1/config; nil: no /v1/config. It must not hold secrets.
	Config func() any
	// Recovery plans, and with accept decides, from which replica's log a partition goes on that can elect no leader; what
	// it returns is encoded as JSON. node -1: the best log. nil: no /v1/recovery.
	Recovery func(ctx context.Context, topic string, partition, node int32, accept bool) (any, error)
	// Pprof serves Go's profiles under /debug/pprof/.
	Pprof   bool
	Version string
	Logger  *slog.Logger // nil: slog.Default()
}

// Server is the HTTP server. Serve may be called once.
type Server struct {
	o       Options
	handler http.Handler
	http    *http.Server
}

// New makes a server that does not listen yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Server{o: o}
	s.handler = s.routes()
	s.http = &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Handler serves every path, for tests and for those who bring their own listener.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on l until Shutdown, and then returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(limitListener(l, maxConnections)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("http: %w", err)
	}
	return nil
}

// Shutdown lets requests under way finish until ctx ends, then cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return s.http.Close()
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.o.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.o.Registry, promhttp.HandlerOpts{
			MaxRequestsInFlight: maxScrapes,
			Timeout:             scrapeTimeout,
			ErrorHandling:       promhttp.ContinueOnError,
			ErrorLog:            slog.NewLogLogger(s.o.Logger.Handler(), slog.LevelWarn),
		}))
	}
	if s.o.Status != nil {
		mux.Handle("GET /v1/cluster", s.json(s.o.Status))
	}
	if s.o.Config != nil {
		mux.Handle("GET /v1/config", s.json(s.o.Config))
	}
	if s.o.Recovery != nil {
		mux.HandleFunc("GET /v1/recovery/{topic}/{partition}", s.recovery)
		mux.HandleFunc("POST /v1/recovery/{topic}/{partition}", s.recovery)
	}
	if s.o.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	text(w, http.StatusOK, "balsa "+s.o.Version+"\n\n/healthz  the process is alive\n/readyz   it serves clients, or why not\n"+
		"/metrics  for Prometheus\n/v1/cluster  brokers, controller, partitions as this broker sees them\n/v1/config  settings in force\n")
}

// healthz is for what restarts a dead process: it answers as long as the process runs, whatever the cluster does.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") }

// readyz is for what sends clients here.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.o.Ready != nil {
		if err := s.o.Ready(); err != nil {
			text(w, http.StatusServiceUnavailable, "not ready: "+err.Error()+"\n")
			return
		}
	}
	text(w, http.StatusOK, "ready\n")
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body)) // the client is gone: nobody to tell
}

// json encodes what get returns, a bounded number at a time.
func (s *Server) json(get func() any) http.Handler {
	slots := make(chan struct{}, maxStatusRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			text(w, http.StatusTooManyRequests, "too many status requests at once\n")
			return
		}
		body, err := json.MarshalIndent(get(), "", "  ")
		if err != nil {
			s.o.Logger.Error("encoding a status", "error", err)
			text(w, http.StatusInternalServerError, "cannot encode the status\n")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n'))
	})
}
