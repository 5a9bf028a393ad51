package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/vfs"
)

// Options of Start. NodeID, DataDir and the two listen addresses are needed; other zero values stand for their
// defaults.
type Options struct {
	NodeID  int32
	DataDir string
	FS      vfs.FS // default: the operating system's

	// ClusterListen is for the traffic between brokers, GossipListen (TCP and UDP) for membership. Port 0 takes a free
	// one. The advertised addresses are what other brokers are told: host names are looked up anew at each dial.
	// Default: the addresses listened on, which must then not be wildcards.
	ClusterListen, ClusterAdvertise string
	GossipListen, GossipAdvertise   string

	Join            []string // gossip addresses, retried for ever
	BootstrapExpect int      // how many brokers found a new cluster; 0: this one never does

	Rack      string
	Version   string
	Listeners []meta.Listener // advertised Kafka addresses

	// Config is the static configuration; settings changed while brokers run are put over it (Node.Config). Default:
	// config.Default().
	Config *config.Broker

	Timing     Timing
	Logger     *slog.Logger          // default: slog.Default
	Registerer prometheus.Registerer // default: none
	Now        func() time.Time      // of the partitions; default: time.Now

	// The rest is for simulations, which have a network and machines of their own.
	//
	// Listen and Dial are of the traffic between brokers; default: TCP. GossipTransport carries gossip; default: TCP and
	// UDP on GossipListen. BootID names the run of the machine; default: the system's.
	Listen          func(addr string) (net.Listener, error)
	Dial            func(ctx context.Context, addr string) (net.Conn, error)
	GossipTransport memberlist.Transport
	BootID          string
}

func (o Options) withDefaults() (Options, error) {
	if o.NodeID < 0 {
		return o, errors.New("cluster: a node id is at least 0")
	}
	if o.DataDir == "" {
		return o, errors.New("cluster: no data folder")
	}
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Config == nil {
		o.Config = config.Default()
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Listen == nil {
		o.Listen = func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	}
	for _, a := range []struct{ what, listen, advertise string }{
		{"cluster", o.ClusterListen, o.ClusterAdvertise}, {"gossip", o.GossipListen, o.GossipAdvertise},
	} {
		if err := checkAddress(a.what, a.listen, a.advertise); err != nil {
			return o, err
		}
	}
	t, c := &o.Timing, o.Config
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Heartbeat, c.RaftHeartbeat())
	def(&t.Election, c.RaftElection())
	def(&t.Lease, c.RaftLeaderLease())
	def(&t.Commit, c.RaftCommit())
	// An idle follower counts as in sync from one repeat of the commit index to the next: these must come in time.
	lag := c.ReplicaLagTimeMax()
	t.Commit = min(t.Commit, max(lag/6, 10*time.Millisecond))
	def(&t.Repeat, min(lag/3, 10*time.Second))
	def(&t.Retention, c.RetentionCheckInterval())
	def(&t.Rebalance, c.LeaderImbalanceCheckInterval())
	o.Timing = t.withDefaults()
	return o, nil
}

// checkAddress refuses what no other broker could reach.
func checkAddress(what, listen, advertise string) error {
	host, _, err := splitHostPort(listen)
	if err != nil {
		return fmt.Errorf("cluster: --%s-listen %s: %w", what, listen, err)
	}
	if advertise == "" {
		if wildcard(host) {
			return fmt.Errorf("cluster: --%s-listen %s listens on every address: say with --%s-advertise which one other brokers use", what, listen, what)
		}
		return nil
	}
	host, _, err = splitHostPort(advertise)
	if err != nil {
		return fmt.Errorf("cluster: --%s-advertise %s: %w", what, advertise, err)
	}
	if wildcard(host) {
		return fmt.Errorf("cluster: --%s-advertise %s names no address that other brokers can use", what, advertise)
	}
	return nil
}

func wildcard(host string) bool {
	if host == "" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

// advertised is the address to tell others, with the port that was bound where none was asked for.
func advertised(advertise string, l net.Addr) string {
	bound := l.String()
	if advertise == "" {
		return bound
	}
	host, port, err := splitHostPort(advertise)
	if err == nil && port == 0 {
		_, p, _ := net.SplitHostPort(bound)
		return net.JoinHostPort(host, p)
	}
	return advertise
}
