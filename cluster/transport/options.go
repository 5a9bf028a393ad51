package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// PeerEvent tells that a broker was reached or lost. Events of one broker come one at a time and in order. A Down
// may be followed by another Down with Refused set, when a later attempt finds the process gone.
type PeerEvent struct {
	Node int32
	Up   bool
	// Refused: the connection was reset or ended by the other side, or a dial was refused at once: the process is
	// gone (or has closed). False: silence.
	Refused bool
	Err     error // of a Down
}

// Options of a Mux. Node, ClusterID, Listener and Resolve are needed; every other zero value stands for its default.
type Options struct {
	Node        int32
	Incarnation uint64        // of the data dir
	ClusterID   func() string // "" until known (before bootstrap): any peer's is accepted then
	Version     string        // of the software, for logs
	Listener    net.Listener  // owned by the Mux from New on
	// Resolve gives the current address of a peer; host names are looked up anew at each dial.
	Resolve func(node int32) (addr string, ok bool)
	Dial    func(ctx context.Context, addr string) (net.Conn, error) // nil: net.Dialer
	OnPeer  func(PeerEvent)                                          // must not block
	Logger  *slog.Logger                                             // nil: none

	// Heartbeat is the interval within which traffic that can wait (idle heartbeats and the empty AppendEntries that
	// carry a commit index) is gathered into one write per connection. Default 25 ms.
	Heartbeat time.Duration
	// Repeat is how often a follower that knows all is told so again. In between, empty AppendEntries that say nothing
	// new are not sent, so Progress is as old as that. Default 10 s.
	Repeat time.Duration
	// RPCTimeout bounds heartbeats, votes and TimeoutNow. Default 5 s.
	RPCTimeout time.Duration
	// AppendTimeout bounds the time without progress of an AppendEntries; it must tolerate slow fsyncs. Default 30 s.
	AppendTimeout time.Duration
	// ConnectWait is how long heartbeats and AppendEntries wait for a lost broker before they fail. Raft backs off up
	// to 10 s after failures, but resumes at once when a waiting RPC gets through. Default 15 s.
	ConnectWait time.Duration
	// PingInterval and SilenceTimeout: a connection on which nothing was heard for SilenceTimeout is given up.
	// Defaults 1 s and 3 s.
	PingInterval   time.Duration
	SilenceTimeout time.Duration
	// HandshakeTimeout bounds the handshake, DialTimeout the connect before it. Defaults 3 s and 2 s.
	HandshakeTimeout time.Duration
	DialTimeout      time.Duration

	MaxFrameBytes     int   // of one frame; default 128 MiB
	MaxPartBytes      int   // of entries in one frame, unless a single entry is larger; default 1 MiB
	MaxInFlightBytes  int64 // of unanswered entries per peer; default 64 MiB
	MaxFollowerBytes  int64 // of unanswered entries per follower replica; default 16 MiB
	MaxReceivedBytes  int64 // of received entries that wait for Raft, all groups; more are refused; default 256 MiB
	MaxCallBytes      int   // of a call's request or response; default 32 MiB
	MaxConcurrentCall int   // calls from other brokers under way; more are refused; default 1024
	MaxConns          int   // connections from other brokers; default 1024
	Window            int   // AppendEntries in flight per follower; default 128
}

func (o *Options) setDefaults() error {
	if o.Listener == nil || o.Resolve == nil {
		return errors.New("transport: Listener and Resolve must be set")
	}
	if o.Node < 0 {
		return errors.New("transport: node id must not be negative")
	}
	if o.ClusterID == nil {
		o.ClusterID = func() string { return "" }
	}
	if o.OnPeer == nil {
		o.OnPeer = func(PeerEvent) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		d := net.Dialer{KeepAliveConfig: keepAlive}
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	def(&o.Heartbeat, 25*time.Millisecond)
	def(&o.Repeat, 10*time.Second)
	def(&o.RPCTimeout, 5*time.Second)
	def(&o.AppendTimeout, 30*time.Second)
	def(&o.ConnectWait, 15*time.Second)
	def(&o.PingInterval, time.Second)
	def(&o.SilenceTimeout, 3*time.Second)
	def(&o.HandshakeTimeout, 3*time.Second)
	def(&o.DialTimeout, 2*time.Second)
	def(&o.MaxFrameBytes, 128<<20)
	def(&o.MaxPartBytes, 1<<20)
	def(&o.MaxInFlightBytes, 64<<20)
	def(&o.MaxFollowerBytes, 16<<20)
	def(&o.MaxReceivedBytes, 256<<20)
	def(&o.MaxCallBytes, 32<<20)
	def(&o.MaxConcurrentCall, 1024)
	def(&o.MaxConns, 1024)
	def(&o.Window, 128)
	return nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// keepAlive is a second line behind the pings.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}
