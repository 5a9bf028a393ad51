package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/transport"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/vfs"
)

// replica is one partition replica that the metadata places on this broker and this disk.
type replica struct {
	key   partitionKey
	topic string
	self  partition.Replica
	dir   string

	p         atomic.Pointer[partition.Partition]
	order     atomic.Pointer[[]partition.Replica] // of the metadata, preferred leader first
	opened    time.Time                           // set before p
	endpoint  atomic.Pointer[transport.Endpoint]
	hadLeader atomic.Bool
	calm      atomic.Pointer[calmLeader]
	standing  atomic.Bool // a TimeoutNow is on its way to Raft

	// Of the reconciler, under replicas.mu.
	busy     bool // being opened, closed or restarted
	err      error
	retryAt  time.Time
	damaged  bool                // err is of a kind that opening again does not cure: it is to be rebuilt (repair.go)
	waits    string              // why it is not rebuilt yet
	failures int                 // of its store, each time it was open
	unclean  *partition.Standing // it rests after a loss of power (recovery.go)
	refused  uint64              // the term of a choice that it could not carry out
}

func (r *replica) partition() *partition.Partition { return r.p.Load() }

func (r *replica) raft() *raft.Raft {
	if p := r.p.Load(); p != nil {
		return p.Raft()
	}
	return nil
}

func (r *replica) preferred() bool {
	o := r.order.Load()
	return o != nil && len(*o) > 0 && (*o)[0] == r.self
}

// voters of the group as Raft has them, in the order of the metadata: the same on every broker, so that ties are
// broken alike.
func (r *replica) voters() []partition.Replica {
	ra := r.raft()
	if ra == nil {
		return nil
	}
	return orderVoters(raftVoters(ra), r.order.Load())
}

func orderVoters(voters []partition.Replica, order *[]partition.Replica) []partition.Replica {
	if order == nil {
		return voters
	}
	out := make([]partition.Replica, 0, len(voters))
	in := func(s []partition.Replica, r partition.Replica) bool {
		return slices.Contains(s, r)
	}
	for _, r := range *order {
		if in(voters, r) {
			out = append(out, r)
		}
	}
	for _, r := range voters {
		if !in(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// replicas keeps the local replicas equal to what the metadata says: opens and makes, closes and deletes, many at a
// time. One that is damaged is reported and stops none of the others.
type replicas struct {
	host replicaHost
	fs   vfs.FS
	dir  string // <data>/topics
	self int32
	inc  uint64
	log  *slog.Logger

	mu      sync.RWMutex
	byID    map[uint64]*replica
	byKey   map[partitionKey]*replica
	onDisk  map[uint64]string // replica folders found at start, not opened so far
	aside   map[string]string // folders of damaged replicas, by asideKey
	configs map[meta.TopicID]*atomic.Pointer[config.Topic]
	closed  bool

	slots chan struct{}
	wg    sync.WaitGroup
}

// replicaHost is what opening a replica needs of the node.
type replicaHost interface {
	openPartition(r *replica, bootstrap []partition.Replica, cfg func() config.Topic) (*partition.Partition, error)
	deleteVotes(id uint64) error
	topicConfig(t *meta.Topic) config.Topic
	replicaOpened(r *replica)
	replicaGone(r *replica)
	replicaDamaged()
	reconcileSoon()
}

const (
	deletedSuffix   = ".deleted"
	parallelOpens   = 128
	maxTopicInName  = 180 // a folder's name has at most 255 bytes; the replica id makes it unique
	replicaRetry    = 5 * time.Second
	reconcilePause  = 20 * time.Millisecond
	closeAllTimeout = 30 * time.Second
)

func replicaDirName(topic string, part int32, id uint64) string {
	if len(topic) > maxTopicInName {
		topic = topic[:maxTopicInName]
	}
	return fmt.Sprintf("%s-%d-%d", topic, part, id)
}

func newReplicas(host replicaHost, fsys vfs.FS, dir string, self int32, inc uint64, logger *slog.Logger) (*replicas, error) {
	rs := &replicas{
		host: host, fs: fsys, dir: dir, self: self, inc: inc, log: logger, byID: make(map[uint64]*replica),
		byKey: make(map[partitionKey]*replica), onDisk: make(map[uint64]string), aside: make(map[string]string),
		configs: make(map[meta.TopicID]*atomic.Pointer[config.Topic]), slots: make(chan struct{}, parallelOpens),
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := fsys.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasSuffix(name, deletedSuffix) {
			if err := fsys.RemoveAll(filepath.Join(dir, name)); err != nil {
				logger.Warn("Removing a deleted replica", "folder", name, "err", err)
			}
			continue
		}
		if strings.HasSuffix(name, damagedSuffix) {
			rs.foundAside(name)
			continue
		}
		if i := strings.LastIndexByte(name, '-'); i >= 0 {
			if id, err := strconv.ParseUint(name[i+1:], 10, 64); err == nil {
				rs.onDisk[id] = name
			}
		}
	}
	return rs, nil
}

func (rs *replicas) get(id uint64) (*replica, bool) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	r, ok := rs.byID[id]
	return r, ok
}

func (rs *replicas) find(k partitionKey) (*replica, bool) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	r, ok := rs.byKey[k]
	return r, ok
}

// open lists the replicas whose partition is open.
func (rs *replicas) open() []*replica {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	out := make([]*replica, 0, len(rs.byID))
	for _, r := range rs.byID {
		if r.p.Load() != nil {
			out = append(out, r)
		}
	}
	return out
}

// config of a topic, resolved anew only when the metadata changes.
func (rs *replicas) configLocked(t *meta.Topic) *atomic.Pointer[config.Topic] {
	c := rs.configs[t.ID]
	if c == nil {
		c = &atomic.Pointer[config.Topic]{}
		v := rs.host.topicConfig(t)
		c.Store(&v)
		rs.configs[t.ID] = c
	}
	return c
}

// configsChanged resolves the configuration of a topic again; all: of every one.
func (rs *replicas) configsChanged(img *meta.Image, d *meta.Delta) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	refresh := func(t *meta.Topic) {
		if c := rs.configs[t.ID]; c != nil {
			v := rs.host.topicConfig(t)
			c.Store(&v)
		}
	}
	if d.ClusterConfig || len(d.BrokerConfigs) > 0 {
		for id := range rs.configs {
			if t := img.TopicsByID[id]; t != nil {
				refresh(t)
			}
		}
		return
	}
	for i := range d.Changed {
		if d.Changed[i].Configs {
			refresh(d.Changed[i].New)
		}
	}
}

// reconcile starts what has to be done for this image and returns; what takes time runs on, and asks for another pass
// when it ends.
func (rs *replicas) reconcile(img *meta.Image) {
	if img.Version == 0 || img.ClusterID == "" {
		return // not the metadata of a cluster yet
	}
	now := time.Now()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return
	}
	wanted := make(map[uint64]bool, len(rs.byID))
	for _, t := range img.Topics {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			for _, set := range [2][]meta.Replica{p.Replicas, p.Removing} {
				for _, mr := range set {
					if mr.Node == rs.self && mr.Incarnation == rs.inc {
						wanted[mr.ID] = true
						rs.wantLocked(t, p, mr, now)
					}
				}
			}
		}
	}
	for id, r := range rs.byID {
		if !wanted[id] && id < img.NextReplicaID && !r.busy {
			r.busy = true
			rs.startLocked(func() { rs.remove(r) })
		}
	}
	for id, name := range rs.onDisk {
		// Ids are given out in order and never twice: one below the next that is nowhere has been deleted. One above
		// belongs to metadata that has not reached us.
		if wanted[id] || id >= img.NextReplicaID {
			continue
		}
		delete(rs.onDisk, id)
		rs.startLocked(func() { rs.discard(id, filepath.Join(rs.dir, name)) })
	}
	for id := range rs.configs {
		if img.TopicsByID[id] == nil {
			delete(rs.configs, id)
		}
	}
}

func (rs *replicas) wantLocked(t *meta.Topic, p *meta.Partition, mr meta.Replica, now time.Time) {
	r := rs.byID[mr.ID]
	if r == nil {
		r = &replica{
			key: partitionKey{t.ID, p.ID}, topic: t.Name, self: partition.Replica{Node: mr.Node, ID: mr.ID},
			dir: filepath.Join(rs.dir, replicaDirName(t.Name, p.ID, mr.ID)),
		}
		rs.byID[mr.ID] = r
		rs.byKey[r.key] = r
	}
	if o := r.order.Load(); o == nil || !sameOrder(*o, p.Replicas) {
		order := make([]partition.Replica, len(p.Replicas))
		for i, r := range p.Replicas {
			order[i] = partition.Replica{Node: r.Node, ID: r.ID}
		}
		r.order.Store(&order)
	}
	if r.busy || r.damaged || r.unclean != nil || r.p.Load() != nil || now.Before(r.retryAt) {
		return
	}
	if c := p.Recovery; c != nil && c.Replica == mr.ID && c.Term != r.refused {
		return // it is first made the only voter (recovery.go)
	}
	r.busy = true
	var bootstrap []partition.Replica
	if p.InitialReplica(mr.ID) {
		bootstrap = make([]partition.Replica, len(p.Initial))
		for i, b := range p.Initial {
			bootstrap[i] = partition.Replica{Node: b.Node, ID: b.ID}
		}
	}
	cfg := rs.configLocked(t)
	rs.startLocked(func() { rs.openOne(r, bootstrap, func() config.Topic { return *cfg.Load() }) })
}

func sameOrder(a []partition.Replica, b []meta.Replica) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != (partition.Replica{Node: b[i].Node, ID: b[i].ID}) {
			return false
		}
	}
	return true
}

// startLocked runs f in a slot of its own time.
func (rs *replicas) startLocked(f func()) {
	rs.wg.Go(func() {
		rs.slots <- struct{}{}
		defer func() { <-rs.slots }()
		f()
	})
}

func (rs *replicas) openOne(r *replica, bootstrap []partition.Replica, cfg func() config.Topic) {
	err := func() error {
		rs.mu.Lock()
		if rs.closed {
			rs.mu.Unlock()
			return partition.ErrClosed
		}
		r.opened = time.Now()
		rs.mu.Unlock()
		p, err := rs.host.openPartition(r, bootstrap, cfg)
		if err != nil {
			return err
		}
		r.p.Store(p)
		return nil
	}()
	rs.mu.Lock()
	r.busy = false
	closed := rs.closed
	if err != nil && !(closed && errors.Is(err, partition.ErrClosed)) {
		rs.failedLocked(r, err)
		if r.retryAt = time.Now(); !r.damaged {
			r.retryAt = r.retryAt.Add(replicaRetry)
		}
	} else {
		r.err = err
	}
	if u, ok := errors.AsType[*partition.Unclean](err); ok {
		r.unclean = &u.Standing
	}
	delete(rs.onDisk, r.self.ID)
	rs.mu.Unlock()
	if err == nil {
		rs.host.replicaOpened(r)
	}
	rs.host.reconcileSoon()
}

// remove closes a replica that the metadata no longer has, and deletes it.
func (rs *replicas) remove(r *replica) {
	p := r.p.Swap(nil)
	rs.mu.Lock()
	damaged := r.damaged
	delete(rs.byID, r.self.ID)
	if rs.byKey[r.key] == r {
		delete(rs.byKey, r.key)
	}
	rs.mu.Unlock()
	rs.host.replicaGone(r)
	if p != nil {
		if err := p.Close(); err != nil {
			rs.log.Warn("Closing a deleted replica", "topic", r.topic, "partition", r.key.part, "err", err)
		}
	}
	if damaged {
		rs.putAside(r)
	} else {
		rs.discard(r.self.ID, r.dir)
	}
	rs.host.reconcileSoon()
}

// discard deletes a replica's files and votes. Renamed first: a crash leaves a folder that the next start removes.
func (rs *replicas) discard(id uint64, dir string) {
	err := func() error {
		gone := dir + deletedSuffix
		switch err := rs.fs.Rename(dir, gone); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		default:
			if err := rs.fs.SyncDir(rs.dir); err != nil {
				return err
			}
			if err := rs.fs.RemoveAll(gone); err != nil {
				return err
			}
		}
		return rs.host.deleteVotes(id)
	}()
	if err != nil {
		rs.log.Warn("Deleting a replica", "folder", dir, "err", err)
		return
	}
	rs.log.Debug("Replica deleted", "folder", dir)
}

// restart closes and opens a replica: the way out for a candidate that is stuck (safety rule 17).
func (rs *replicas) restart(r *replica) {
	rs.mu.Lock()
	if rs.closed || r.busy || r.p.Load() == nil {
		rs.mu.Unlock()
		return
	}
	r.busy = true
	rs.mu.Unlock()
	rs.log.Info("Restarting a replica whose candidacy is stuck", "topic", r.topic, "partition", r.key.part)
	if p := r.p.Swap(nil); p != nil {
		if err := p.Close(); err != nil {
			rs.log.Warn("Closing a replica", "topic", r.topic, "partition", r.key.part, "err", err)
		}
	}
	rs.mu.Lock()
	r.busy = false
	rs.mu.Unlock()
	rs.host.reconcileSoon()
}

// closeAll closes every replica, many at a time. Nothing is opened any more.
func (rs *replicas) closeAll() error {
	rs.mu.Lock()
	rs.closed = true
	all := make([]*replica, 0, len(rs.byID))
	for _, r := range rs.byID {
		all = append(all, r)
	}
	rs.mu.Unlock()
	rs.wg.Wait() // openings and removals under way
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, parallelOpens)
	var wg sync.WaitGroup
	for _, r := range all {
		p := r.p.Swap(nil)
		if p == nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := p.Close(); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("cluster: closing %s-%d: %w", r.topic, r.key.part, err))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// state counts the replicas: all that are wanted, those not open yet, the damaged.
func (rs *replicas) state() (total, opening, damaged int) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	for _, r := range rs.byID {
		total++
		switch {
		case r.err != nil: // see failures
			if r.damaged {
				damaged++
			}
		case r.p.Load() == nil:
			opening++
		}
	}
	return total, opening, damaged
}
