// Package broker is the Kafka front door: connections, and one file per API.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
)

// Node is what a broker needs of the cluster; *cluster.Node is it, and a single-broker one in tests.
type Node interface {
	Self() int32
	Image() *meta.Image
	Controller() int32
	Alive(id int32) bool
	Partition(t meta.TopicID, p int32) (*partition.Partition, bool)
	Leader(t meta.TopicID, p int32) (cluster.Leader, bool)
	InSync(t meta.TopicID, p int32) []int32

	CreateTopics(ctx context.Context, specs []cluster.TopicSpec, validateOnly bool) ([]*meta.Topic, []error)
	DeleteTopics(ctx context.Context, ids []meta.TopicID) []error
	CreatePartitions(ctx context.Context, topic string, count int32, assignment [][]int32, validateOnly bool) error
	AlterConfigs(ctx context.Context, resourceType int8, resource string, set map[string]*string, replaceAll bool) error
	ProducerIDs(ctx context.Context) (first int64, count int, err error)
}

var _ Node = (*cluster.Node)(nil)

// Listener is an open socket and the name under which meta.Broker.Listeners has its advertised address.
type Listener struct {
	Name string
	net.Listener
}

// Options of a Server.
type Options struct {
	Node      Node
	Listeners []Listener
	// Config is the broker's configuration in force; it may change (nil: the defaults).
	Config func() *config.Broker
	Logger *slog.Logger
	// Registry takes the metrics; nil: none are kept.
	Registry prometheus.Registerer
	Now      func() time.Time
}

// Server serves Kafka clients.
type Server struct {
	node   Node
	config func() *config.Broker
	log    *slog.Logger
	now    func() time.Time
	m      *metrics

	listeners []Listener
	budget    *semaphore.Weighted // bytes of requests read and not yet answered
	budgetMax int64
	sessions  *sessionCache
	topics    atomic.Pointer[topicConfigs]
	ids       producerIDs

	ctx    context.Context // ends when Close gives up waiting
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	conns   map[*conn]struct{}
	perIP   map[string]int
	closing bool
}

// New makes a server; Start makes it accept.
func New(o Options) (*Server, error) {
	if o.Node == nil {
		return nil, errors.New("broker: Options.Node is missing")
	}
	if o.Config == nil {
		d := config.Default()
		o.Config = func() *config.Broker { return d }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := o.Config()
	s := &Server{
		node: o.Node, config: o.Config, log: o.Logger, now: o.Now, listeners: o.Listeners,
		m:        newMetrics(),
		sessions: newSessionCache(c.FetchSessionSlots()),
		conns:    map[*conn]struct{}{}, perIP: map[string]int{},
	}
	// One request of the largest size must fit.
	s.budgetMax = max(c.QueuedMaxBytes(), int64(c.SocketRequestMaxBytes()))
	s.budget = semaphore.NewWeighted(s.budgetMax)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if o.Registry != nil {
		if err := s.m.register(o.Registry, s); err != nil {
			return nil, fmt.Errorf("broker: registering metrics: %w", err)
		}
	}
	return s, nil
}

// Start accepts connections until Close.
func (s *Server) Start() {
	for _, l := range s.listeners {
		s.wg.Add(1)
		go s.accept(l)
	}
}

func (s *Server) accept(l Listener) {
	defer s.wg.Done()
	delay := time.Millisecond
	for {
		nc, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of files, most likely: wait for some to be closed.
			s.log.Error("accepting a connection failed", "listener", l.Name, "err", err)
			select {
			case <-time.After(delay):
				delay = min(2*delay, time.Second)
				continue
			case <-s.ctx.Done():
				return
			}
		}
		delay = time.Millisecond
		s.admit(nc, l.Name)
	}
}

// admit starts serving nc if the limits on connections allow it.
func (s *Server) admit(nc net.Conn, listener string) {
	ip, _, err := net.SplitHostPort(nc.RemoteAddr().String())
	if err != nil {
		ip = nc.RemoteAddr().String()
	}
	c := s.config()
	s.mu.Lock()
	reason := ""
	switch {
	case s.closing:
		reason = "closing"
	case len(s.conns) >= c.MaxConnections():
		reason = "max.connections"
	case s.perIP[ip] >= c.MaxConnectionsPerIP():
		reason = "max.connections.per.ip"
	}
	if reason != "" {
		s.mu.Unlock()
		s.m.refused.Inc()
		s.log.Warn("connection refused", "remote", nc.RemoteAddr(), "limit", reason)
		_ = nc.Close()
		return
	}
	k := newConn(s, nc, listener, ip)
	s.conns[k] = struct{}{}
	s.perIP[ip]++
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		k.serve()
		s.mu.Lock()
		delete(s.conns, k)
		if s.perIP[ip]--; s.perIP[ip] == 0 {
			delete(s.perIP, ip)
		}
		s.mu.Unlock()
	}()
}

// Close stops accepting and reading, answers what was read until ctx ends, then cuts the connections. All goroutines
// of the server are gone when it returns.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	for k := range s.conns {
		k.stopReading()
	}
	s.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("broker: requests were cut off: %w", ctx.Err())
	}
	s.cancel()
	s.mu.Lock()
	for k := range s.conns {
		k.kill()
	}
	s.mu.Unlock()
	<-done
	return err
}

// Connections is the number of open client connections.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// topicConfigs are the resolved configurations of one image's topics.
type topicConfigs struct {
	image  *meta.Image
	broker *config.Broker
	m      sync.Map // meta.TopicID -> *config.Topic
}

// topicConfig resolves a topic's configuration, once per version of the metadata.
func (s *Server) topicConfig(img *meta.Image, t *meta.Topic) *config.Topic {
	b := s.config()
	c := s.topics.Load()
	if c == nil || c.image != img || c.broker != b {
		c = &topicConfigs{image: img, broker: b}
		s.topics.Store(c)
	}
	if v, ok := c.m.Load(t.ID); ok {
		return v.(*config.Topic)
	}
	tc, err := config.ResolveTopic(t.Configs, b)
	if err != nil {
		s.log.Warn("topic has settings that this version does not know", "topic", t.Name, "err", err)
	}
	c.m.Store(t.ID, &tc)
	return &tc
}
