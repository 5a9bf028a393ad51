// Package controller is the Raft group that keeps the cluster's metadata: its first brokers vote, all others follow.
// Every broker has the newest image it knows of in memory and can have a change made from anywhere.
package controller

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/transport"
	"github.com/balsa-broker/balsa/cluster/votes"
	"github.com/balsa-broker/balsa/internal/iolock"
	"github.com/balsa-broker/balsa/internal/raftlog"
)

// Controller is this broker's member of the controller group. All methods may be called concurrently.
type Controller struct {
	o         Options
	self      Member
	logger    *slog.Logger
	store     *store
	snapshots *snapshots
	endpoint  *transport.Endpoint
	raft      atomic.Pointer[raft.Raft]
	leading   atomic.Bool
	voteFloor atomic.Uint64          // see wipe.go; 0: none
	clusterID atomic.Pointer[string] // what Bootstrap asked for

	closed    chan struct{}
	closeOnce sync.Once
	closeErr  error
	done      sync.WaitGroup

	image atomic.Pointer[meta.Image]
	mu    sync.Mutex
	next  chan struct{} // closed when image is replaced

	failure   atomic.Pointer[error]
	failedCh  chan struct{}
	marked    atomic.Bool  // the member file names this member
	membersMu iolock.Mutex // one change of the group's members at a time
	absent    map[raft.ServerID]time.Time
}

// Open starts this broker's member. With an empty Dir it waits: for Bootstrap, or for a leader that adds it. A member
// that is the only voter leads within milliseconds.
func Open(o Options) (*Controller, error) {
	o.Timing = o.Timing.withDefaults()
	o.Voters = cmp.Or(o.Voters, 3)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	self := Member{Node: o.Node, Incarnation: o.Incarnation}
	if o.Node < 0 || o.Incarnation == 0 || o.Incarnation >= replicaBit {
		return nil, fmt.Errorf("controller: member %s is not valid", self)
	}
	c := &Controller{
		o: o, self: self, logger: o.Logger.With("group", "controller"),
		closed: make(chan struct{}), failedCh: make(chan struct{}), next: make(chan struct{}),
		absent: map[raft.ServerID]time.Time{},
	}
	c.image.Store(meta.NewImage())
	if err := c.openDir(); err != nil {
		return nil, err
	}
	if err := c.start(); err != nil {
		return nil, errors.Join(err, c.store.close())
	}
	return c, nil
}

// openDir opens what is on disk and checks that it fits together.
func (c *Controller) openDir() (err error) {
	dir := c.o.Dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the controller's folder: %w", err)
	}
	if c.store, err = openStore(dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.store.close())
		}
	}()
	floor, err := finishWipe(c.store, dir)
	if err != nil {
		return err
	}
	c.voteFloor.Store(floor)
	if c.snapshots, err = openSnapshots(dir, c.logger); err != nil {
		return err
	}
	c.store.first, c.snapshots.first = c.mark, c.mark
	c.store.snapshot, c.store.stop = c.snapshots.newest, c.fail

	if first, s := c.store.firstIndex.Load(), c.snapshots.newest().Index; first > s+1 {
		return fmt.Errorf("%w: the log begins at entry %d, the newest snapshot is of %d", votes.ErrDamaged, first, s)
	}
	member, err := wasMember(dir)
	if err != nil {
		return err
	}
	id := string(c.self.ServerID())
	c.marked.Store(member == id)
	if member == id && !c.HasState() {
		return fmt.Errorf("%w: %s was written by member %s, but %s is empty; start this broker with an empty data dir", ErrLost, memberFile(dir), c.self, dir)
	}
	if c.HasState() {
		if member != "" && member != id {
			return fmt.Errorf("%w: the log in %s belongs to %q, this is %s", ErrLost, dir, member, c.self)
		}
		if err := c.mark(); err != nil { // it stopped between the first entry and the mark
			return err
		}
	} else if member == "" {
		if err := c.store.forgetTerm(); err != nil {
			return err
		}
	}
	return c.dropBelowSnapshot()
}

// mark notes that this member's log holds something, before raft tells anyone.
func (c *Controller) mark() error {
	if c.marked.Load() {
		return nil
	}
	if err := markMember(c.o.Dir, string(c.self.ServerID())); err != nil {
		return err
	}
	c.marked.Store(true)
	return nil
}

// dropBelowSnapshot finishes what raft does after it installed a snapshot ahead of the log: the log goes.
func (c *Controller) dropBelowSnapshot() error {
	s := c.snapshots.newest()
	first, last := c.store.firstIndex.Load(), c.store.lastIndex.Load()
	if last == 0 || s.Index == 0 {
		return nil
	}
	if t, ok := c.store.termAt(s.Index); s.Index+1 == first || ok && t == s.Term {
		return nil
	}
	c.logger.Info("the controller's snapshot is ahead of its log: the log is dropped", "snapshot", s.Index, "first", first, "last", last)
	return c.store.DeleteRange(first, last)
}

func (c *Controller) start() error {
	id := c.self.ServerID()
	endpoint, err := c.o.Mux.Register(c.self.Node, c.self.ReplicaID(), group{c})
	if err != nil {
		return fmt.Errorf("register the controller group: %w", err)
	}
	c.endpoint = endpoint
	r, err := raft.NewRaft(c.raftConfig(), fsm{c}, c.store, c.store, c.snapshots, &guarded{endpoint, c.mayVote})
	if err != nil {
		return errors.Join(fmt.Errorf("start the controller group: %w", err), endpoint.Close())
	}
	c.raft.Store(r)
	if f := c.failed(); f != nil {
		return errors.Join(f, c.stopRaft())
	}
	c.o.Mux.Handle(kindPropose, c.handlePropose)
	c.o.Mux.Handle(kindStatus, c.handleStatus)
	c.done.Go(c.watchLeadership)
	if voters := c.voters(); len(voters) == 1 && voters[0] == id {
		c.timeoutNow()
	}
	return nil
}

// timeoutNow makes this member a candidate without waiting for an election timeout.
func (c *Controller) timeoutNow() {
	if err := c.o.Mux.TimeoutNow(c.self.ReplicaID()); err != nil {
		c.logger.Warn("the controller's member does not stand for election at once", "err", err)
	}
}

// stopRaft returns when raft's goroutines have ended. Some may wait for other brokers: the endpoint goes first.
func (c *Controller) stopRaft() error {
	f := c.raft.Load().Shutdown()
	return errors.Join(c.endpoint.Close(), f.Error())
}

func (c *Controller) raftConfig() *raft.Config {
	t := c.o.Timing
	conf := raft.DefaultConfig()
	conf.LocalID = c.self.ServerID()
	conf.HeartbeatTimeout, conf.ElectionTimeout = t.Heartbeat, t.Heartbeat
	conf.LeaderLeaseTimeout, conf.CommitTimeout = t.Lease, t.Commit
	conf.SnapshotInterval, conf.SnapshotThreshold, conf.TrailingLogs = t.SnapshotInterval, t.SnapshotThreshold, t.TrailingLogs
	conf.MaxAppendEntries = 256   // and no BatchApplyCh: what lies in that buffer when raft ends is never answered
	conf.ShutdownOnRemove = false // a removed member may be added again, and its image stays readable
	conf.NoLegacyTelemetry = true
	conf.Logger = raftlog.New(c.logger)
	return conf
}

// Bootstrap founds a cluster: these members vote, and the cluster's ID is the first command of the log. All members
// call it with the same members. Refused (ErrHasState) with any state. When it returns the members are on disk here; the
// cluster ID is in the image soon after the first election. It may be another than clusterID ("": a new one): that of
// the member that led. A member that stops before that goes on at its next start by itself.
func (c *Controller) Bootstrap(ctx context.Context, members []Member, clusterID string) error {
	if c.HasState() {
		return ErrHasState
	}
	if clusterID == "" {
		clusterID = NewClusterID()
	}
	c.clusterID.Store(&clusterID)
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	var conf raft.Configuration
	for _, m := range members {
		conf.Servers = append(conf.Servers, raft.Server{Suffrage: raft.Voter, ID: m.ServerID(), Address: raft.ServerAddress(m.ServerID())})
	}
	if !slices.Contains(members, c.self) {
		return fmt.Errorf("controller: member %s is not among those that found the cluster", c.self)
	}
	if err := c.wait(ctx, c.raft.Load().BootstrapCluster(conf)); err != nil {
		return fmt.Errorf("bootstrap the controller group: %w", err)
	}
	if len(members) == 1 {
		c.timeoutNow()
	}
	return nil
}

// HasState says whether this member's log or snapshots hold anything, or did: then it never bootstraps.
func (c *Controller) HasState() bool {
	return c.store.lastIndex.Load() > 0 || c.snapshots.newest().Index > 0 || c.voteFloor.Load() > 0
}

// Image is the newest metadata that this broker has. Never nil.
func (c *Controller) Image() *meta.Image { return c.image.Load() }

// Changed is closed when a newer image than the one that Image gave before this call may be there: take the channel
// first, then the image.
func (c *Controller) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

func (c *Controller) publish(img *meta.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.image.Store(img)
	close(c.next)
	c.next = make(chan struct{})
}

// WaitVersion waits until this broker's image includes everything up to a version.
func (c *Controller) WaitVersion(ctx context.Context, version uint64) error {
	for {
		changed := c.Changed()
		if c.Image().Version >= version {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.closed:
			return ErrClosed
		case <-c.failedCh:
			return c.failed()
		}
	}
}

// Leader is the broker that leads the controller group, as far as this one knows.
func (c *Controller) Leader() (node int32, ok bool) {
	_, id := c.raft.Load().LeaderWithID()
	if id == "" {
		return -1, false
	}
	m, err := parseMember(id)
	return m.Node, err == nil
}

// IsLeader says that this broker is the controller and has passed its Barrier: its image includes all that any
// controller before it decided.
func (c *Controller) IsLeader() bool { return c.leading.Load() }

// Failed is closed when this member had to stop; Err says why. The broker should stop too, and start again.
func (c *Controller) Failed() <-chan struct{} { return c.failedCh }

// Err is why Failed is closed.
func (c *Controller) Err() error { return c.failed() }

func (c *Controller) failed() error {
	if p := c.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// fail stops the member: what it would do next could be wrong.
func (c *Controller) fail(err error) {
	if !c.failure.CompareAndSwap(nil, &err) {
		return
	}
	c.logger.Error("the controller's member stops", "err", err)
	close(c.failedCh)
	if r := c.raft.Load(); r != nil {
		r.Shutdown() // its future is waited for in Close: this may be raft's own goroutine
	}
}

// watchLeadership follows raft's leadership and tells OnLeader.
func (c *Controller) watchLeadership() {
	r := c.raft.Load()
	told := false
	tell := func(leader bool) {
		c.leading.Store(leader)
		if told != leader && c.o.OnLeader != nil {
			c.o.OnLeader(leader)
		}
		told = leader
	}
	defer tell(false)
	for {
		var leader bool
		select {
		case leader = <-r.LeaderCh():
		case <-c.closed:
			return
		case <-c.failedCh:
			return
		}
		if leader {
			// Lost again meanwhile: the next event says so.
			if err := c.lead(r); err != nil {
				c.logger.Info("the controller was led for a moment only", "err", err)
				continue
			}
		}
		tell(leader)
	}
}

// lead makes a new leader ready: all that was decided before is applied, and the cluster has its ID.
func (c *Controller) lead(r *raft.Raft) error {
	if err := c.wait(context.Background(), r.Barrier(0)); err != nil {
		return err
	}
	c.membersMu.Lock()
	clear(c.absent)
	c.membersMu.Unlock()
	if c.Image().ClusterID != "" {
		return nil
	}
	id := c.clusterID.Load()
	if id == nil {
		made := NewClusterID()
		id = &made
	}
	_, err := c.applyHere(context.Background(), encodeEntry(meta.SetClusterID{ClusterID: *id}))
	return err
}

// NewClusterID makes a cluster ID as Kafka's look: a UUID in 22 characters of base64.
func NewClusterID() string {
	u := uuid.New()
	return base64.RawURLEncoding.EncodeToString(u[:])
}

// wait waits for a future of raft's, which may never resolve when raft shuts down.
func (c *Controller) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closed:
		return ErrClosed
	case <-c.failedCh:
		return c.failed()
	}
}

// Campaign makes this member stand for election at once. Only when the leader is known to be gone: it deposes a healthy
// one (safety rule 17).
func (c *Controller) Campaign() error {
	r := c.raft.Load()
	if r.State() != raft.Follower || !c.mayVote() {
		return fmt.Errorf("controller: a %s cannot stand for election", r.State())
	}
	for _, v := range c.voters() {
		if v == c.self.ServerID() {
			return c.o.Mux.TimeoutNow(c.self.ReplicaID())
		}
	}
	return errors.New("controller: this member does not vote")
}

// Close stops the member. Unfinished proposals end with ErrClosed.
func (c *Controller) Close() error {
	c.closeOnce.Do(func() {
		close(c.closed)
		c.closeErr = c.stopRaft()
		c.done.Wait()
		c.closeErr = errors.Join(c.closeErr, c.store.close())
	})
	return c.closeErr
}

// Dir is where the controller of a data dir lives.
func Dir(dataDir string) string { return filepath.Join(dataDir, "controller") }
