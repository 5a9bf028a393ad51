package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/internal/raftlog"
	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
)

// Limits of a group. In flight stays below MaxAppendEntries, or the tail of a burst waits for CommitTimeout.
const (
	maxAppendEntries  = 256
	maxInflight       = 128
	defInflightBytes  = 64 << 20
	defReplicaLagMax  = 30 * time.Second
	defMaxProducers   = 10_000
	defProducerExpiry = 24 * time.Hour
)

func (o *Options) setDefaults() {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Timing.Heartbeat, 10*time.Second)
	set(&o.Timing.Election, o.Timing.Heartbeat)
	set(&o.Timing.Lease, o.Timing.Heartbeat/2)
	set(&o.Timing.Commit, time.Second)
	set(&o.ReplicaLagMax, defReplicaLagMax)
	set(&o.ProducerExpiry, defProducerExpiry)
	if o.MaxInflightBytes <= 0 {
		o.MaxInflightBytes = defInflightBytes
	}
	if o.MaxProducers <= 0 {
		o.MaxProducers = defMaxProducers
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.DiskFull == nil {
		o.DiskFull = func() bool { return false }
	}
	if o.DiskTight == nil {
		o.DiskTight = func() bool { return false }
	}
	if o.ClockTrusted == nil {
		o.ClockTrusted = func(time.Time) error { return nil }
	}
	if o.OnLeader == nil {
		o.OnLeader = func(*Partition, bool, int32) {}
	}
}

func newPartition(o Options) *Partition {
	o.setDefaults()
	p := &Partition{
		o: o, logger: o.Logger.With("topic", o.Topic, "partition", o.ID, "replica", o.Self.String()),
		producers: map[int64]*producer{}, durable: map[uint64]bool{},
		kickC: make(chan struct{}, 1), closing: make(chan struct{}), closed: make(chan struct{}),
		loopEnd: make(chan struct{}),
	}
	p.leading.Store(-1)
	return p
}

// Open recovers the replica in o.Dir (or makes it) and starts its Raft group. It returns ErrCorrupt (with what was
// found) when the replica must not vote, ErrLost when its log or its votes are gone, and *Unclean when its log may lack
// entries that it confirmed (safety rule 13).
func Open(o Options) (*Partition, error) {
	p := newPartition(o)
	if err := p.open(); err != nil {
		if p.log != nil {
			err = errors.Join(err, p.log.Close())
		}
		return nil, fmt.Errorf("open %s-%d in %s: %w", o.Topic, o.ID, o.Dir, err)
	}
	if err := p.startRaft(); err != nil {
		return nil, fmt.Errorf("start %s-%d: %w", o.Topic, o.ID, errors.Join(err, p.log.Close()))
	}
	go p.loop()
	return p, nil
}

// open brings folder, log and state to where Raft can start.
func (p *Partition) open() error {
	o := p.o
	voted, termOne, err := participation(o.Votes)
	if err != nil {
		return err
	}
	if err := p.openLog(voted); err != nil {
		return err
	}
	if err := p.checkLoss(voted, termOne); err != nil {
		return err
	}
	if p.log.LastIndex() == 0 && len(o.Bootstrap) > 0 && !voted {
		if err := p.bootstrap(); err != nil {
			return err
		}
	}
	if err := p.recoverState(); err != nil {
		return err
	}
	p.log.OnRoll(p.rolled)
	return nil
}

// openLog opens identity, mark and log, and finishes what a crash left half-done.
func (p *Partition) openLog(voted bool) error {
	o := p.o
	if err := makeDir(o.FS, o.Dir); err != nil {
		return err
	}
	if err := p.checkDamageNote(); err != nil {
		return err
	}
	id, known, err := readIdentity(o.FS, o.Dir)
	if err != nil {
		return err
	}
	switch {
	case known && (id.self != o.Self || id.topicID != o.TopicID || id.partition != o.ID):
		return fmt.Errorf("%w: the folder belongs to replica %s of partition %d", ErrLost, id.self, id.partition)
	case !known && voted:
		return fmt.Errorf("%w: votes without a log", ErrLost)
	case !known:
		id = identity{topicID: o.TopicID, partition: o.ID, self: o.Self, emptyOK: o.Bootstrap == nil}
		if err := writeIdentity(o.FS, o.Dir, id); err != nil {
			return err
		}
	}
	p.identity = id
	if p.mark, err = openMark(o.FS, o.Dir); err != nil {
		return err
	}
	if p.log, err = segment.Open(p.segmentOptions()); err != nil {
		if errors.Is(err, segment.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return err
	}
	if err := p.finishWipe(); err != nil {
		return err
	}
	return p.finishInstall()
}

// makeDir makes a folder and those above it; durable on return.
func makeDir(fsys vfs.FS, dir string) error {
	_, err := fsys.Stat(dir)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if up := filepath.Dir(dir); up != dir {
		if err := makeDir(fsys, up); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(dir))
}

func (p *Partition) segmentOptions() segment.Options {
	jitter := rand.Float64()
	durable := uint64(0)
	if p.mark.last.durable {
		durable = p.mark.last.index
	}
	return segment.Options{
		DurableIndex: durable, BootID: p.o.BootID,
		FS: p.o.FS, Dir: p.o.Dir, Sync: p.o.Sync, Logger: p.logger, Now: p.o.Now,
		Config: func() segment.Config {
			c := p.o.Config()
			return segment.Config{
				SegmentBytes: c.SegmentBytes, SegmentAge: c.SegmentAge - time.Duration(jitter*float64(c.SegmentJitter)),
				IndexIntervalBytes: c.IndexIntervalBytes, Fsync: c.Fsync, FileDeleteDelay: c.FileDeleteDelay,
				DiskTight: p.o.DiskTight(),
			}
		},
	}
}

const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
)

// participation says whether the replica ever took part in an election or heard a leader (terms of those are 2 and up:
// the creation record's configuration is of term 1), and whether it got as far as term 1.
func participation(votes raft.StableStore) (voted, termOne bool, err error) {
	get := func(key string) (uint64, error) {
		v, err := votes.GetUint64([]byte(key))
		if err != nil && err.Error() != "not found" {
			return 0, fmt.Errorf("read %s: %w", key, err)
		}
		return v, nil
	}
	term, err := get(keyCurrentTerm)
	if err != nil {
		return false, false, err
	}
	vote, err := get(keyLastVoteTerm)
	if err != nil {
		return false, false, err
	}
	return term > 1 || vote > 0, term > 0, nil
}

// checkLoss compares the log with what else is known of it (safety rules 1, 12 and 13).
func (p *Partition) checkLoss(voted, termOne bool) error {
	last, kept := p.log.LastIndex(), p.mark.last
	if err := p.checkClean(voted); err != nil {
		return err
	}
	rec := p.log.Recovery()
	lost := ""
	switch term, ok := p.log.Term(kept.index); {
	case kept.index == 0:
	case kept.index > last:
		lost = fmt.Sprintf("the kept high watermark is entry %d, the log ends at %d", kept.index, last)
	case ok && term != kept.term:
		lost = fmt.Sprintf("entry %d was committed in term %d, the log has term %d", kept.index, kept.term, term)
	}
	if lost != "" && (kept.durable || !p.identity.unclean && (rec.Clean || rec.SameBoot)) {
		return fmt.Errorf("%w: %s", ErrCorrupt, lost)
	}
	if last > 0 && !termOne && p.soleVoter() {
		// Nobody else can have voted, nor led: the log's last term is the group's.
		term, _ := p.log.Term(last)
		if err := p.o.Votes.SetUint64([]byte(keyCurrentTerm), term); err != nil {
			return fmt.Errorf("restore the term of a single replica: %w", err)
		}
		p.logger.Warn("the votes of this single replica were lost; its log says all that they did", "term", term)
		termOne = true
	}
	if last > 0 && !termOne {
		return fmt.Errorf("%w: a log to entry %d without votes", ErrLost, last)
	}
	if last == 0 && voted && !p.identity.emptyOK {
		return fmt.Errorf("%w: votes without a log", ErrLost)
	}
	if p.identity.unclean {
		return &Unclean{Standing: p.resting()}
	}
	return nil
}

// bootstrap stores the creation record's configuration as entry 1 of term 1, the same on every voter. A crash half-way is
// harmless: term 1 without a log has not taken part in anything.
func (p *Partition) bootstrap() error {
	var conf raft.Configuration
	self := false
	for _, r := range p.o.Bootstrap {
		conf.Servers = append(conf.Servers, raft.Server{
			Suffrage: raft.Voter, ID: r.ServerID(), Address: raft.ServerAddress(r.String()),
		})
		self = self || r == p.o.Self
	}
	if !self {
		return fmt.Errorf("bootstrap: %s is not among the voters", p.o.Self)
	}
	if err := p.o.Votes.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	entry := segment.NewEntry{Index: 1, Term: 1, Type: segment.Configuration, Data: raft.EncodeConfiguration(conf)}
	if err := p.log.Append([]segment.NewEntry{entry}); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// recoverState loads the newest checkpoint and replays the log from there to the kept high watermark.
func (p *Partition) recoverState() error {
	first, last := p.log.FirstIndex(), p.log.LastIndex()
	indexes, err := listCheckpoints(p.o.FS, p.o.Dir, checkpointSuffix)
	if err != nil {
		return err
	}
	var base *checkpoint
	for _, index := range slices.Backward(indexes) {
		if index > last && p.o.Config().Fsync {
			return fmt.Errorf("%w: there is a checkpoint of entry %d, the log ends at %d", ErrCorrupt, index, last)
		}
		if index > last || index+1 < first {
			continue // of a lost tail, or not yet removed
		}
		p.durable[index] = true
		if base != nil {
			continue
		}
		c, _, err := readCheckpoint(p.o.FS, p.o.Dir, index, checkpointSuffix)
		if err != nil {
			if !errors.Is(err, errBadCheckpoint) {
				return err
			}
			p.logger.Error("checkpoint is damaged, an older one is used", "error", err)
			delete(p.durable, index)
			continue
		}
		if term, ok := p.log.Term(index); !ok || term != c.term {
			return fmt.Errorf("%w: the checkpoint of entry %d is of term %d, the entry of %d", ErrCorrupt, index, c.term, term)
		}
		base = c
	}
	switch {
	case base != nil:
		if err := p.load(base); err != nil {
			return err
		}
	case first > 1:
		return fmt.Errorf("%w: the log begins at entry %d and has no checkpoint", ErrCorrupt, first)
	}
	p.fileStart.Store(p.log.StartOffset())
	for _, s := range p.log.Segments() {
		if s.FirstIndex > max(1, p.applied.Load()+1) {
			p.rolls = append(p.rolls, s.FirstIndex)
		}
	}
	if to := min(p.mark.last.index, last); to > p.applied.Load() {
		if err := p.replay(to); err != nil {
			return err
		}
	}
	p.findConfiguration()
	return nil
}

// load takes over a checkpoint's state. Nothing else runs.
func (p *Partition) load(c *checkpoint) error {
	if p.o.Machine != nil {
		if err := p.o.Machine.Restore(c.machine); err != nil {
			return fmt.Errorf("restore the state machine at entry %d: %w", c.index, err)
		}
	}
	p.mu.Lock()
	p.next, p.confIndex, p.conf, p.producers = c.next, c.confIndex, c.conf, c.producers
	p.mu.Unlock()
	p.logStart.Store(c.logStart)
	p.fileStart.Store(p.log.StartOffset())
	p.applied.Store(c.index)
	p.raiseHighWatermark(c.next)
	p.setQuorum(c.conf)
	return nil
}

func (p *Partition) replay(to uint64) error {
	var fail error
	err := p.log.Scan(p.applied.Load()+1, func(e segment.Entry) bool {
		if e.Index > to {
			return false
		}
		var data []byte
		if p.o.Machine != nil && e.Type == segment.Batch {
			if data, fail = p.readFrame(e.Index); fail != nil {
				return false
			}
		}
		p.captureBefore(e.Index)
		if _, fail = p.apply(e, data); fail != nil {
			return false
		}
		return true
	})
	if err := errors.Join(err, fail); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	// The last entry may be one that changes nothing, or be gone with a compacted stretch.
	p.applied.Store(max(p.applied.Load(), to))
	p.raiseHighWatermark(p.next)
	return nil
}

// findConfiguration sets hasConf from the state and the part of the log that is not applied.
func (p *Partition) findConfiguration() {
	p.mu.Lock()
	has := p.confIndex > 0
	p.mu.Unlock()
	for i, last := p.applied.Load()+1, p.log.LastIndex(); !has && i <= last; i++ {
		t, _, ok := p.log.Type(i)
		has = ok && t == segment.Configuration
	}
	p.hasConf.Store(has)
}

// startRaft starts the group on the log and state as they are; its first snapshot meta says so.
func (p *Partition) startRaft() error {
	if err := p.log.Sync(); err != nil { // safety rule 8: whatever raft will acknowledge without storing it
		return err
	}
	c := raft.DefaultConfig()
	c.LocalID = p.o.Self.ServerID()
	c.HeartbeatTimeout, c.ElectionTimeout = p.o.Timing.Heartbeat, p.o.Timing.Election
	c.LeaderLeaseTimeout, c.CommitTimeout = p.o.Timing.Lease, p.o.Timing.Commit
	c.MaxAppendEntries, c.BatchApplyCh = maxAppendEntries, true
	c.ShutdownOnRemove = false
	c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = 1<<62, 1000*time.Hour, 1<<64-1
	c.NoSnapshotRestoreOnStart, c.NoLegacyTelemetry = true, true
	c.Logger = raftlog.New(slog.New(quiet{p.logger.Handler()}))
	inner, err := p.o.NewTransport(p)
	if err != nil {
		return err
	}
	trans := guardTransport(p, inner)
	r, err := raft.NewRaft(c, (*fsm)(p), (*logStore)(p), &votes{StableStore: p.o.Votes, p: p}, &snapshotStore{p: p, starting: true}, trans)
	if err != nil {
		if t, ok := trans.(raft.WithClose); ok {
			err = errors.Join(err, t.Close())
		}
		return err
	}
	// The filter is called on Raft's goroutines and only wakes the loop, which reads the state itself.
	r.RegisterObserver(raft.NewObserver(nil, false, func(ob *raft.Observation) bool {
		if _, ok := ob.Data.(raft.RaftState); ok {
			p.kick()
		}
		return false
	}))
	p.group.Store(&group{raft: r, trans: trans, ended: make(chan struct{})})
	p.kick()
	return nil
}

// readFrame reads the frame of one entry: for a batch the batch.
func (p *Partition) readFrame(index uint64) (record.Batch, error) {
	b, _, err := p.log.ReadFrames(nil, index, index, 1)
	return b, err
}
