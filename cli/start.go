package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/balsa-broker/balsa/admin"
	"github.com/balsa-broker/balsa/broker"
	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
)

const (
	// stopTimeout bounds the graceful stop: leaderships handed over, requests answered, logs closed.
	stopTimeout = 30 * time.Second
	// drainTimeout is the part of it for requests that are still being answered.
	drainTimeout = 3 * time.Second
	// readyPoll is how often a starting broker looks whether it is ready.
	readyPoll = 10 * time.Millisecond
)

// running is a started broker.
type running struct {
	mu           sync.Mutex // of kafka, while it is started and stopped
	kafka        *broker.Server
	node         *cluster.Node
	http         *admin.Server
	httpAddress  string
	ready        func() error
	ctx          context.Context // ends when the broker stops
	cancel       context.CancelFunc
	kafkaStarted chan struct{} // closed when clients are served
	stopping     atomic.Bool
	failed       chan error // gets what ends the broker by itself
}

// startBroker wires one broker: HTTP first (so that it can be watched while it starts), the cluster's node, and, once
// that is ready, the Kafka front door. Until then clients are refused by the system and go to another broker at once: a
// broker that does not know the metadata yet would tell them that their topics are not there. All ports are tried before
// anything else, so that a taken one is told at once.
func startBroker(ctx context.Context, s *settings) (_ *running, err error) {
	b := s.config
	if err := checkDataDir(b.DataDir()); err != nil {
		return nil, err
	}
	r := &running{failed: make(chan error, 1), kafkaStarted: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			_ = r.stop()
		}
	}()
	var advertised []meta.Listener
	listeners := slices.Clone(s.listeners)
	for i, l := range listeners {
		socket, err := listen("kafka-listen", l.listen)
		if err != nil {
			return nil, err
		}
		listeners[i].listen = socket.Addr().String()
		at, err := advertisedListener(l, socket.Addr())
		_ = socket.Close()
		if err != nil {
			return nil, err
		}
		advertised = append(advertised, at)
	}
	var node atomic.Pointer[cluster.Node]
	r.ready = func() error {
		if r.stopping.Load() {
			return errors.New("stopping")
		}
		n := node.Load()
		if n == nil {
			return errors.New("starting")
		}
		if err := n.Ready(); err != nil {
			return err
		}
		select {
		case <-r.kafkaStarted:
			return nil
		default:
			return errors.New("starting to listen for clients")
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	if address := b.HTTPListen(); address != "" {
		socket, err := listen("http-listen", address)
		if err != nil {
			return nil, err
		}
		r.httpAddress = socket.Addr().String()
		r.http = admin.New(admin.Options{
			Ready: r.ready, Registry: registry, Pprof: s.pprof, Version: Version, Logger: s.logger,
			Status: func() any {
				if n := node.Load(); n != nil {
					return admin.Status(n, minISR(n))
				}
				return nil
			},
			Config: func() any { return config.DescribeBroker(configOf(node.Load(), b)) },
			Recovery: func(ctx context.Context, topic string, partition, id int32, accept bool) (any, error) {
				n := node.Load()
				if n == nil {
					return nil, errors.New("the broker is starting")
				}
				return n.RecoverPartition(ctx, topic, partition, id, accept)
			},
		})
		go func() {
			if err := r.http.Serve(socket); err != nil {
				r.fail(fmt.Errorf("--http-listen %s: %w", address, err))
			}
		}()
	}
	r.node, err = cluster.Start(ctx, cluster.Options{
		NodeID: b.NodeID(), DataDir: b.DataDir(),
		ClusterListen: b.ClusterListen(), ClusterAdvertise: s.clusterAdvertise,
		GossipListen: b.GossipListen(), GossipAdvertise: s.gossipAdvertise,
		Join: b.Join(), BootstrapExpect: b.BootstrapExpect(), Rack: b.Rack(), Version: Version, Listeners: advertised,
		Config: b, Logger: s.logger, Registerer: registry,
	})
	if err != nil {
		return nil, explainStart(err, b)
	}
	node.Store(r.node)
	registry.MustRegister(admin.Collector(r.node, minISR(r.node)))
	go func() {
		if err := r.serveKafka(listeners, s, registry); err != nil {
			r.fail(err)
		}
	}()
	return r, nil
}

// serveKafka waits until the node is ready and opens the door for clients.
func (r *running) serveKafka(addresses []listenerAddress, s *settings, registry *prometheus.Registry) (err error) {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for r.node.Ready() != nil {
		select {
		case <-r.ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return nil
	}
	var sockets []broker.Listener
	defer func() {
		if err != nil {
			for _, l := range sockets {
				_ = l.Close()
			}
		}
	}()
	for _, l := range addresses {
		socket, err := listen("kafka-listen", l.listen)
		if err != nil {
			return err
		}
		sockets = append(sockets, broker.Listener{Name: l.name, Listener: socket})
	}
	r.kafka, err = broker.New(broker.Options{Node: r.node, Listeners: sockets, Config: r.node.Config, Logger: s.logger, Registry: registry})
	if err != nil {
		return err
	}
	r.kafka.Start()
	close(r.kafkaStarted)
	return nil
}

func (r *running) fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

// waitReady returns when the broker serves, or with what ended the wait.
func (r *running) waitReady(ctx context.Context) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for r.ready() != nil {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-r.failed:
			return err
		case <-tick.C:
		}
	}
	return nil
}

// stop ends the broker gracefully: it hands its leaderships over while its clients are still served, answers what was
// asked, closes the logs cleanly, and leaves the cluster. It takes stopTimeout at most.
func (r *running) stop() error {
	r.stopping.Store(true)
	r.cancel()
	r.mu.Lock()
	kafka := r.kafka
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	if kafka != nil {
		r.node.HandOver(ctx)
		drain, cancel := context.WithTimeout(ctx, drainTimeout)
		_ = kafka.Close(drain) // what was cut off is asked again elsewhere
		cancel()
	}
	if r.node != nil {
		errs = append(errs, r.node.Close(ctx))
	}
	if r.http != nil {
		errs = append(errs, r.http.Shutdown(ctx))
	}
	return errors.Join(errs...)
}

// listen opens a TCP socket, or says in one line which flag to change.
func listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenError(flag, address, err)
	}
	return l, nil
}

func listenError(flag, address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return usageError{fmt.Sprintf("--%s %s: the port is taken; stop what uses it, or give another", flag, address)}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return usageError{fmt.Sprintf("--%s %s: not an address of this machine", flag, address)}
	}
	return usageError{fmt.Sprintf("--%s %s: %v", flag, address, rootCause(err))}
}

// explainStart names the flag behind an error of the cluster's start.
func explainStart(err error, b *config.Broker) error {
	switch {
	case errors.Is(err, cluster.ErrLocked):
		return usageError{fmt.Sprintf("--data-dir %s: in use by another balsa process", b.DataDir())}
	case errors.Is(err, cluster.ErrWrongNode):
		return usageError{fmt.Sprintf("--node-id %d: %s", b.NodeID(), strings.TrimPrefix(err.Error(), "cluster: "))}
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, syscall.EADDRNOTAVAIL):
		return listenError("cluster-listen", b.ClusterListen(), err)
	case strings.Contains(err.Error(), "gossip"): // memberlist does not wrap what the system said
		for _, e := range []syscall.Errno{syscall.EADDRINUSE, syscall.EADDRNOTAVAIL} {
			if strings.Contains(err.Error(), e.Error()) {
				return listenError("gossip-listen", b.GossipListen(), e)
			}
		}
	}
	return errors.New(strings.TrimPrefix(err.Error(), "cluster: "))
}

// advertisedListener is what clients are told; a port 0 becomes the one that was opened.
func advertisedListener(l listenerAddress, opened net.Addr) (meta.Listener, error) {
	host, portText, err := net.SplitHostPort(l.advertise)
	if err != nil {
		return meta.Listener{}, usageError{fmt.Sprintf("--kafka-advertise %s: %v", l.advertise, err)}
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return meta.Listener{}, usageError{fmt.Sprintf("--kafka-advertise %s: %q is not a port", l.advertise, portText)}
	}
	if tcp, ok := opened.(*net.TCPAddr); ok && port == 0 {
		port = uint64(tcp.Port)
	}
	return meta.Listener{Name: l.name, Host: host, Port: int32(port)}, nil
}

func configOf(n *cluster.Node, static *config.Broker) *config.Broker {
	if n == nil {
		return static
	}
	return n.Config()
}

// minISR gives a topic's min.insync.replicas as it is in force.
func minISR(n *cluster.Node) func(*meta.Topic) int {
	return func(t *meta.Topic) int {
		c, err := config.ResolveTopic(t.Configs, n.Config())
		if err != nil {
			return 1
		}
		return c.MinInsyncReplicas
	}
}

func buildInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "balsa_build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": Version, "commit": Commit},
	}, func() float64 { return 1 })
}
