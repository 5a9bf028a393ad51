// Package cluster makes one broker a member of the cluster: membership, the controller group and its metadata, the
// replicas that live here, who leads what, and fast failover.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsa-broker/balsa/cluster/controller"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/transport"
	"github.com/balsa-broker/balsa/cluster/votes"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/segment"
)

// Node is this broker's part of the cluster. There may be several in one process.
type Node struct {
	opt      Options
	self     int32
	log      *slog.Logger
	timing   Timing
	identity identity // but for the cluster id, see below
	unlock   func()

	cluster atomic.Pointer[string] // the cluster id, once known
	config  atomic.Pointer[config.Broker]

	mux      *transport.Mux
	votes    *votes.Store
	ctl      *controller.Controller
	syncer   *segment.Syncer
	gossip   *gossip
	alive    *liveness
	leaders  *leaderTable
	announce *announcer
	failover *failover
	replicas *replicas
	founding *founding
	disk     *diskGuard
	opens    *openSync
	clock    *clockGuard
	repair   repair
	scrub    scrub

	registration meta.Broker
	registered   atomic.Bool
	followed     atomic.Bool   // the replicas of an image have been looked at
	started      chan struct{} // closed when all of the above is set: handlers and callbacks wait for it
	again        chan struct{} // another reconciliation is due

	mu       sync.Mutex
	refused  error // the last registration
	imageErr error

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
}

// Leader of a partition as its leader announced it (highest epoch wins).
type Leader struct {
	Node  int32
	Epoch int32
}

// Start opens the data folder and makes this broker a member. It returns when the broker listens; Ready says when it
// is a working member. The Node lives until Close, whatever becomes of ctx.
func Start(ctx context.Context, o Options) (_ *Node, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Node{
		opt: o, self: o.NodeID, log: o.Logger, timing: o.Timing, leaders: newLeaderTable(), syncer: segment.NewSyncer(0),
		started: make(chan struct{}), again: make(chan struct{}, 1),
	}
	n.repair.under, n.repair.others = make(map[partitionKey]time.Time), make(map[int32]damageList)
	n.ctx, n.cancel = context.WithCancel(context.WithoutCancel(ctx))
	n.config.Store(o.Config)
	if err := o.FS.MkdirAll(o.DataDir, 0o755); err != nil {
		return nil, fmt.Errorf("cluster: --data-dir %s: %w", o.DataDir, err)
	}
	if n.unlock, err = lockDir(o.DataDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = n.release()
		}
	}()
	if n.identity, err = loadIdentity(o.FS, o.DataDir, o.NodeID); err != nil {
		return nil, err
	}
	if id := n.identity.ClusterID; id != "" {
		n.cluster.Store(&id)
	}
	n.disk = &diskGuard{fs: o.FS, dir: o.DataDir, minFree: func(total int64) int64 { return n.Config().DiskMinFree(total) }}
	n.clock = &clockGuard{limit: func() time.Duration { return n.Config().ClockMaxOffset() }, alive: n.alivePeers, peers: make(map[int32]clockSample)}
	n.opens = &openSync{fs: o.FS, dir: o.DataDir}
	if err = n.listen(); err != nil {
		return nil, err
	}
	if n.votes, err = n.openVotes(); err != nil {
		return nil, err
	}
	if n.replicas, err = newReplicas(n, o.FS, filepath.Join(o.DataDir, topicsDir), n.self, n.identity.Incarnation, n.log); err != nil {
		return nil, err
	}
	if n.ctl, err = n.openController(); err != nil {
		return nil, err
	}
	if err = n.join(ctx); err != nil {
		return nil, err
	}
	close(n.started)
	for _, loop := range []func(context.Context){
		n.bootstrapLoop, n.imageLoop, n.registerLoop, n.dutiesLoop, n.pingLoop, n.leadersLoop, n.membersLoop, n.rebalanceLoop,
		n.retentionLoop, n.diskLoop, n.repairLoop, n.scrubLoop, n.recoveryLoop, n.clockLoop, n.failover.run,
	} {
		n.wg.Go(func() { loop(n.ctx) })
	}
	n.registerMetrics()
	return n, nil
}

// listen starts the transport.
func (n *Node) listen() error {
	l, err := n.opt.Listen(n.opt.ClusterListen)
	if err != nil {
		return fmt.Errorf("cluster: --cluster-listen %s: %w", n.opt.ClusterListen, err)
	}
	n.registration = meta.Broker{
		ID: n.self, Incarnation: n.identity.Incarnation, Rack: n.opt.Rack, Version: n.opt.Version, Listeners: n.opt.Listeners,
		ClusterAddr: advertised(n.opt.ClusterAdvertise, l.Addr()),
	}
	n.alive = newLiveness(n.self, n.timing.Silence, n.knownMembers, n.onAlive)
	n.failover = newFailover(n, n.self, n.timing, n.log)
	n.announce = newAnnouncer(n.ctx, n, n.leaders, n.self, n.timing, n.log)
	n.mux, err = transport.New(transport.Options{
		Node: n.self, Incarnation: n.identity.Incarnation, ClusterID: n.clusterID, Version: n.opt.Version, Listener: l,
		Resolve: n.resolve, Dial: n.opt.Dial, OnPeer: n.onPeer, Logger: n.log,
		Heartbeat: n.timing.Gather, Repeat: n.timing.Repeat,
	})
	if err != nil {
		_ = l.Close()
		return err
	}
	handle := func(k kind, f func(from int32, payload []byte) ([]byte, error)) {
		n.mux.Handle(k, func(ctx context.Context, from int32, payload []byte) ([]byte, error) {
			select {
			case <-n.started:
			case <-n.ctx.Done():
				return nil, transport.ErrClosed
			}
			n.alive.hear(from)
			return f(from, payload)
		})
	}
	handle(kindPing, func(int32, []byte) ([]byte, error) { return n.answerClock() })
	handle(kindRound, func(_ int32, b []byte) ([]byte, error) { return n.failover.answer(b) })
	handle(kindAnnounce, func(_ int32, b []byte) ([]byte, error) { return n.announce.receive(b) })
	handle(kindPull, func(_ int32, b []byte) ([]byte, error) { return n.announce.answerPull(b) })
	handle(kindDigest, n.announce.answerDigest)
	handle(kindDamaged, n.answerDamaged)
	handle(kindDamages, n.hearDamages)
	handle(kindBootstrap, func(int32, []byte) ([]byte, error) { return n.answerFounding() })
	handle(kindRecovery, func(_ int32, b []byte) ([]byte, error) { return n.answerStandings(b) })
	handle(kindConfirm, func(_ int32, b []byte) ([]byte, error) { return n.answerConfirm(b) })
	return nil
}

// join starts gossip.
func (n *Node) join(ctx context.Context) error {
	n.founding = newFounding(n.identity.member(), n.opt.BootstrapExpect)
	g, err := startGossip(ctx, gossipOptions{
		self: member{
			Node: n.self, Incarnation: n.identity.Incarnation, Generation: n.identity.Generation, Run: newRun(), ClusterAddr: n.registration.ClusterAddr,
			Rack: n.opt.Rack, Version: n.opt.Version, ClusterID: n.clusterID(), Expect: n.opt.BootstrapExpect, HasState: n.ctl.HasState(),
		},
		listen: n.opt.GossipListen, advertise: n.opt.GossipAdvertise, join: n.opt.Join, hints: loadHints(n.opt.FS, n.opt.DataDir),
		timing: n.timing, logger: n.log, transport: n.opt.GossipTransport,
		onChange: func(int32) {
			select {
			case <-n.started:
				n.alive.update()
			default:
			}
		},
		onHints: func(h map[int32]peerHint) {
			if err := saveHints(n.opt.FS, n.opt.DataDir, h); err != nil {
				n.log.Warn("Remembering where the brokers are", "err", err)
			}
		},
	})
	if err != nil {
		return err
	}
	n.gossip = g
	return nil
}

// Addresses returns the cluster and gossip addresses as other brokers are told them.
func (n *Node) Addresses() (clusterAddr, gossipAddr string) {
	return n.registration.ClusterAddr, n.gossip.addr
}

// Close leaves the cluster: leaderships are handed over first (within ctx), the others are told, every replica is
// closed cleanly.
func (n *Node) Close(ctx context.Context) error {
	var err error
	n.once.Do(func() {
		n.handOver(ctx)
		n.gossip.leave()
		err = n.stop()
	})
	return err
}

// Kill ends the node as a crash would, as far as that is possible inside a process: the others see connections
// break and hear nothing. For tests and `balsa dev`.
func (n *Node) Kill() {
	n.once.Do(func() {
		_ = n.mux.Close()
		n.gossip.kill()
		_ = n.stop()
	})
}

// handOver transfers every leadership held here, many at a time.
func (n *Node) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeAllTimeout)
	defer cancel()
	slots := make(chan struct{}, parallelOpens)
	var wg sync.WaitGroup
	for _, r := range n.replicas.open() {
		p := r.partition()
		if p == nil {
			continue
		}
		if _, leading := p.Leading(); !leading {
			continue
		}
		heir, ok := n.heir(r)
		if !ok {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := p.TransferLeadership(ctx, heir); err != nil {
				n.log.Debug("Handing leadership over", "topic", r.topic, "partition", r.key.part, "err", err)
			}
		})
	}
	wg.Wait()
}

// heir is the voter on a living broker that has most of the log; none when the living voters are no majority, with
// whom nobody could be elected.
func (n *Node) heir(r *replica) (heir partition.Replica, ok bool) {
	voters := r.voters()
	living := 0
	var most uint64
	for _, v := range voters {
		if n.gone(v.Node) {
			continue
		}
		living++
		if v == r.self {
			continue
		}
		if match, _ := n.progress(r, v); !ok || match > most {
			heir, most, ok = v, match, true
		}
	}
	return heir, ok && living > len(voters)/2
}

// stop ends the loops and closes everything, in the order in which one needs the other.
func (n *Node) stop() error {
	n.cancel()
	n.wg.Wait()
	n.announce.wg.Wait()
	err := n.replicas.closeAll()
	return errors.Join(err, n.release())
}

// release gives back what Start has taken so far.
func (n *Node) release() error {
	n.cancel()
	var errs []error
	if n.gossip != nil {
		n.gossip.kill()
	}
	if n.ctl != nil {
		errs = append(errs, n.ctl.Close())
	}
	if n.mux != nil {
		errs = append(errs, n.mux.Close())
	}
	if n.votes != nil {
		errs = append(errs, n.votes.Close())
	}
	if n.unlock != nil {
		n.unlock()
	}
	return errors.Join(errs...)
}

// Self is this broker's id.
func (n *Node) Self() int32 { return n.self }

// ClusterID is "" until the broker belongs to a cluster.
func (n *Node) ClusterID() string { return n.clusterID() }

// Image is the newest metadata this broker has; Controller is -1 when there is none.
func (n *Node) Image() *meta.Image { return n.ctl.Image() }

// Config is the broker's configuration with what was changed while it runs. Immutable; ask again for the newest.
func (n *Node) Config() *config.Broker { return n.config.Load() }

// Alive says whether a broker is held for alive: it answers, or gossip has not given it up.
func (n *Node) Alive(id int32) bool { return n.alive.isAlive(id) }

// Partition is the local replica, if there is one and it is open.
func (n *Node) Partition(t meta.TopicID, p int32) (*partition.Partition, bool) {
	r, ok := n.replicas.find(partitionKey{t, p})
	if !ok {
		return nil, false
	}
	pt := r.partition()
	return pt, pt != nil
}

// ReplicaError says why the local replica of a partition is not open; nil when there is none, or nothing is wrong.
func (n *Node) ReplicaError(t meta.TopicID, p int32) error {
	r, ok := n.replicas.find(partitionKey{t, p})
	if !ok {
		return nil
	}
	n.replicas.mu.RLock()
	defer n.replicas.mu.RUnlock()
	return r.err
}

// Leader of a partition; ok false when none is known, or the one known is gone.
func (n *Node) Leader(t meta.TopicID, p int32) (Leader, bool) {
	l, ok := n.leaders.get(partitionKey{t, p})
	if !ok || l.resigned || n.gone(l.node) {
		return Leader{Node: -1, Epoch: -1}, false
	}
	return Leader{Node: l.node, Epoch: l.epoch}, true
}

// InSync are the in-sync replicas as the leader last announced them. The slice is not to be changed.
func (n *Node) InSync(t meta.TopicID, p int32) []int32 {
	if l, ok := n.leaders.get(partitionKey{t, p}); ok && !l.resigned {
		return l.inSync
	}
	return nil
}

func (n *Node) clusterID() string {
	if id := n.cluster.Load(); id != nil {
		return *id
	}
	return ""
}

// Ready is nil when the broker works: it follows a controller, has registered in this run (so
// its metadata is not older than its start), and its replicas are open (damaged ones
// do not count: they are reported by Status). Otherwise it says what is missing.
func (n *Node) Ready() error {
	if n.ctx.Err() != nil {
		return errors.New("closing")
	}
	n.mu.Lock()
	refused, imageErr := n.refused, n.imageErr
	n.mu.Unlock()
	if imageErr != nil {
		return imageErr
	}
	if err := n.ctl.Err(); err != nil {
		return fmt.Errorf("this broker's member of the controller group has stopped, start the broker again: %w", err)
	}
	if _, ok := n.controllerNode(); !ok || n.clusterID() == "" || !n.followed.Load() {
		if err := n.gossip.refusedLately(); err != nil {
			return err
		}
		return errors.New("no controller is known")
	}
	if b := n.Image().Brokers[n.self]; b == nil || b.Incarnation != n.identity.Incarnation || b.Fenced || !n.registered.Load() {
		if refused != nil {
			return fmt.Errorf("not registered: %w", refused)
		}
		return errors.New("not registered with the controller")
	}
	if total, opening, _ := n.replicas.state(); opening > 0 {
		return fmt.Errorf("%d of %d replicas are being opened", opening, total)
	}
	return nil
}

// Status sums up this broker's part.
type Status struct {
	Node        int32
	ClusterID   string
	Incarnation uint64
	Controller  int32
	Alive       []int32
	Replicas    int
	Opening     int
	Leading     int
	Leaderless  int // groups with a replica here that look for a leader
	Failed      []ReplicaFailure
	Damaged     int // of Failed
	// NeedsRecovery, of Failed: replicas that rest after a loss of power under flush policy replicated.
	NeedsRecovery int
	Rebuilt       uint64 // damaged replicas whose successors vote, in this run
	FoundDamage   uint64 // replicas found damaged in this run
	DiskFull      bool
	// ClockOffset is the median of the living brokers' wall clocks minus this one's; ClockErr says why nothing is deleted
	// by age here (safety rule 19), nil when it is.
	ClockOffset time.Duration
	ClockErr    error
}

// ReplicaFailure is a replica that does not open, or stopped.
type ReplicaFailure struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Replica   uint64 `json:"replica"`
	Damaged   bool   `json:"damaged"` // it does not serve before it is rebuilt; else it is opened again by itself
	Reason    string `json:"reason"`
	// NeedsRecovery: it lost power under flush policy replicated and rests (docs/design/recovery.md).
	NeedsRecovery bool   `json:"needs_recovery,omitempty"`
	Waits         string `json:"waits,omitempty"` // why it is not rebuilt yet
}

// Status of this broker.
func (n *Node) Status() Status {
	total, opening, damaged := n.replicas.state()
	s := Status{
		Node: n.self, ClusterID: n.clusterID(), Incarnation: n.identity.Incarnation, Controller: n.Controller(), Alive: n.alive.list(),
		Replicas: total, Opening: opening, Leaderless: n.failover.leaderless(), DiskFull: n.disk.isFull(),
		Failed: n.replicas.failures(), Damaged: damaged, Rebuilt: n.repair.rebuilt.Load(), FoundDamage: n.repair.damaged.Load(),
	}
	s.ClockOffset, s.ClockErr = n.Clock()
	for _, f := range s.Failed {
		if f.NeedsRecovery {
			s.NeedsRecovery++
		}
	}
	for _, r := range n.replicas.open() {
		if p := r.partition(); p != nil {
			if _, ok := p.Leading(); ok {
				s.Leading++
			}
		}
	}
	return s
}

func (n *Node) setRefused(err error) {
	n.mu.Lock()
	n.refused = err
	n.mu.Unlock()
}

func newRun() uint64 { return uint64(time.Now().UnixMilli()) }

// HandOver transfers every leadership held here while the broker goes on serving: what a graceful stop does first.
func (n *Node) HandOver(ctx context.Context) { n.handOver(ctx) }
