package partition

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Cadences of the loop. An idle partition wakes once in reconcileEvery.
const (
	reconcileEvery = 10 * time.Second
	markEvery      = time.Second
	markSyncEvery  = 10 * time.Second       // of a log that is not synced before it counts: evidence of what a crash took
	fenceEvery     = 200 * time.Millisecond // a fence that got lost is sent again
	stuckAfter     = time.Second            // an append that was not stored by then calls for a fence
	lateEvery      = 5 * time.Millisecond
	expiryEvery    = 10 * time.Minute
	forgetAtOnce   = 1000
)

func (p *Partition) kick() {
	select {
	case p.kickC <- struct{}{}:
	default:
	}
}

// loop is the partition's own goroutine: leadership, housekeeping, restarts. It looks at states, not at events, so that
// none can be missed.
func (p *Partition) loop() {
	defer close(p.loopEnd)
	timer := time.NewTimer(reconcileEvery)
	defer timer.Stop()
	for {
		next := p.step()
		timer.Reset(next)
		select {
		case <-p.kickC:
		case <-timer.C:
		case <-p.closing:
			p.lead(0)
			return
		}
	}
}

// step does what is due and returns when to look again.
func (p *Partition) step() time.Duration {
	next := reconcileEvery
	soon := func(d time.Duration) { next = min(next, max(d, time.Millisecond)) }
	p.restartIfAsked()
	p.lead(leadingTerm(p.Raft()))
	if p.failed() != nil {
		return next
	}
	now := time.Now()
	p.followPolicy()
	if p.marking.Load() {
		if d := p.markDue.Sub(now); d > 0 {
			soon(d)
		} else {
			p.marking.Store(false)
			p.keepMark(false)
			p.markDue = now.Add(markEvery)
			p.markSyncing = !p.fsynced
		}
	}
	if p.markSyncing {
		if d := p.markSyncDue.Sub(now); d > 0 {
			soon(d)
		} else {
			p.markSyncing = false
			p.keepMark(true)
			p.markSyncDue = now.Add(markSyncEvery)
		}
	}
	if d, due := p.fenceWanted(now); due {
		p.sendFence()
		soon(fenceEvery)
	} else if d > 0 {
		soon(d)
	}
	if p.completeLate(now) {
		soon(lateEvery)
	}
	p.advance()
	p.expireProducers(now)
	return next
}

// leadingTerm is the term in which r leads, 0 when it does not. The term is read around the state: it never falls.
func leadingTerm(r *raft.Raft) uint64 {
	before := r.CurrentTerm()
	if r.State() != raft.Leader || r.CurrentTerm() != before {
		return 0
	}
	return before
}

// lead brings the partition's idea of its leadership to term (0: none), and tells the outside in order.
func (p *Partition) lead(term uint64) {
	if p.failed() != nil {
		term = 0
	}
	p.mu.Lock()
	if p.term != 0 && p.term != term {
		p.leading.Store(-1)
		p.term, p.ready, p.paused, p.refence = 0, false, false, false
		p.failInflight(func(*op) bool { return true }, ErrNotLeader)
		late := p.late
		p.late = nil
		for _, o := range late {
			o.result.Err, o.result.BaseOffset = ErrNotLeader, -1
			o.complete()
		}
		p.newEpoch()
	}
	if term != 0 && p.term == 0 {
		p.term = term
		p.fenceSent = time.Time{}
		p.ledSince = p.o.Now().UnixMilli()
		p.newEpoch()
	}
	serve := p.term != 0 && p.ready
	p.mu.Unlock()
	if p.announced && (!serve || uint64(p.announcedEpoch) != term) {
		p.announced = false
		p.wake()
		p.o.OnLeader(p, false, p.announcedEpoch)
	}
	if serve && !p.announced {
		p.announced, p.announcedEpoch = true, int32(term)
		p.leading.Store(int32(term))
		p.wake()
		p.o.OnLeader(p, true, int32(term))
	}
}

// fenceWanted says whether a fence is to be sent now, or after which time to look again: a new leader needs one before it
// serves (it stands for Raft's Barrier: all entries before it are applied then), a failed hand-over before appends go on,
// and appends that do not reach the log before they can be called lost.
func (p *Partition) fenceWanted(now time.Time) (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term == 0 || p.broken {
		p.watched.Store(len(p.inflight) > 0)
		return 0, false
	}
	wait := time.Duration(0)
	switch {
	case !p.ready || p.refence:
	case len(p.inflight) > 0 && p.storedTickets <= p.inflight[len(p.inflight)-1].ticket.n:
		// The oldest append that was not stored.
		i, _ := slices.BinarySearchFunc(p.inflight, p.storedTickets, func(o *op, n uint64) int {
			if o.ticket.n < n {
				return -1
			}
			return 1
		})
		wait = p.inflight[i].since.Add(stuckAfter).Sub(now)
	case len(p.inflight) > 0:
		return stuckAfter, false
	default:
		p.watched.Store(false)
		return 0, false
	}
	wait = max(wait, p.fenceSent.Add(fenceEvery).Sub(now))
	return wait, wait <= 0
}

// sendFence hands a fence to Raft, behind all appends that were handed over before.
func (p *Partition) sendFence() {
	p.appendMu.Lock()
	defer p.appendMu.Unlock()
	p.mu.Lock()
	t := ticket{kind: kindFence, term: p.term, epoch: p.epoch, n: p.nextTicket}
	p.fenceSent = time.Now()
	p.mu.Unlock()
	if t.term != 0 {
		p.Raft().ApplyLog(raft.Log{Extensions: t.put(new([ticketSize]byte))}, fenceEvery)
	}
}

// fenceApplied opens the gates. mu is held.
func (p *Partition) fenceApplied(t ticket) {
	if t.term != p.term || t.epoch != p.epoch {
		return
	}
	p.ready = true
	if p.refence {
		p.refence, p.paused = false, false
		p.drained()
	}
}

// completeLate answers the appends that waited for min.insync.replicas, and says whether some still wait.
func (p *Partition) completeLate(now time.Time) bool {
	p.mu.Lock()
	late := p.late
	p.late = nil
	p.mu.Unlock()
	var wait []*op
	for _, o := range late {
		switch {
		case p.holders(o.index) >= o.need:
			o.complete()
		case now.After(o.deadline) || p.inSyncCount() < o.need:
			o.result.Err = ErrNotEnoughAfterAppend
			o.complete()
		default:
			wait = append(wait, o)
		}
	}
	if len(wait) == 0 {
		return false
	}
	p.mu.Lock()
	p.late = append(wait, p.late...)
	p.mu.Unlock()
	return true
}

// followPolicy makes a switch to flush policy fsync true for what is in the log already, without waiting for an append.
func (p *Partition) followPolicy() {
	fsync := p.o.Config().Fsync
	if fsync && !p.fsynced {
		if err := p.log.ApplyPolicy(); err != nil {
			p.logger.Warn("cannot sync what was appended under flush.policy replicated", "error", err)
			return
		}
	}
	p.fsynced = fsync
}

func (p *Partition) keepMark(sync bool) {
	if err := p.writeMark(sync); err != nil {
		p.logger.Warn("cannot keep the high watermark", "error", err)
	}
}

// writeMark keeps the applied index.
func (p *Partition) writeMark(sync bool) error {
	index := p.applied.Load()
	term, ok := p.log.Term(index)
	if index == 0 || !ok {
		return nil
	}
	k := mark{index: index, term: term, durable: p.log.Durable(index), offset: p.HighWatermark()}
	if t := p.log.Flushed(); !t.IsZero() {
		k.flushed = t.UnixMilli()
	}
	return p.mark.write(k, sync)
}

// advance deletes the segments below the log start, a few at a time, each after the checkpoint below its successor is
// durable (safety rule 19).
func (p *Partition) advance() {
	start := p.logStart.Load()
	const step = 16
	to := int64(-1)
	if start <= p.fileStart.Load() {
		return
	}
	segments := p.log.Segments()
	p.mu.Lock()
	for i := min(len(segments)-1, step); i > 0 && to < 0; i-- {
		if segments[i].BaseOffset > start {
			continue
		}
		// What stays first: a segment may hold no records at all, and go with the one before it.
		k := i
		for k < len(segments)-1 && segments[k].NextOffset <= segments[i].BaseOffset {
			k++
		}
		if f := segments[k].FirstIndex; f > 0 && p.durable[f-1] {
			to = segments[i].BaseOffset
		}
	}
	p.mu.Unlock()
	if to < 0 {
		return
	}
	p.storeMu.Lock()
	err := p.failed()
	if err == nil {
		err = p.log.AdvanceStart(to)
	}
	p.storeMu.Unlock()
	p.fileStart.Store(p.log.StartOffset())
	if err != nil {
		p.logger.Error("cannot delete segments below the log start", "offset", to, "error", err)
		return
	}
	p.ckptMu.Lock()
	p.prune()
	p.ckptMu.Unlock()
	p.logger.Debug("segments deleted", "offset", to, "first", p.log.FirstIndex())
	p.kick()
}

// expireProducers forgets producers that have been silent for long, or the most silent ones when there are too many. The
// decision is the leader's and goes through the log, so that all replicas know the same producers.
func (p *Partition) expireProducers(now time.Time) {
	p.mu.Lock()
	tooMany := len(p.producers) > p.o.MaxProducers
	if p.term == 0 || !p.ready || (!tooMany && now.Before(p.expiryDue)) || p.busy.Load() {
		p.mu.Unlock()
		return
	}
	p.expiryDue = now.Add(expiryEvery)
	type candidate struct {
		id, used int64
	}
	var all []candidate
	for id, st := range p.producers {
		if len(st.inflight) == 0 {
			all = append(all, candidate{id, max(st.used, p.ledSince)})
		}
	}
	excess := len(p.producers) - p.o.MaxProducers*9/10
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b candidate) int {
		if a.used != b.used {
			return int(min(max(a.used-b.used, -1), 1))
		}
		return int(min(max(a.id-b.id, -1), 1))
	})
	wall := p.o.Now()
	limit := wall.Add(-p.o.ProducerExpiry).UnixMilli()
	if p.o.ClockTrusted(wall) != nil {
		limit = math.MinInt64 // none for its age
	}
	var ids []int64
	for i, c := range all {
		if (c.used < limit || (tooMany && i < excess)) && len(ids) < forgetAtOnce {
			ids = append(ids, c.id)
		}
	}
	if len(ids) == 0 {
		return
	}
	p.background(func(ctx context.Context) error {
		_, err := p.propose(ctx, encodeForget(ids))
		return err
	})
}

// background runs one proposal of the loop at a time.
func (p *Partition) background(f func(ctx context.Context) error) {
	if p.busy.Swap(true) {
		return
	}
	p.bg.Go(func() {
		defer p.busy.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := f(ctx); err != nil && !errors.Is(err, ErrNotLeader) && !errors.Is(err, ErrClosed) {
			p.logger.Warn("housekeeping failed", "error", err)
		}
	})
}

// restartIfAsked starts the group again: the log it runs on is not the one that Raft has in memory.
func (p *Partition) restartIfAsked() {
	p.mu.Lock()
	r := p.restart
	p.restart = nil
	p.mu.Unlock()
	if r == nil || p.failed() != nil {
		return
	}
	p.logger.Warn("group restarts", "why", r.why)
	p.lead(0)
	p.group.Load().stop()
	err := func() error {
		p.bg.Wait()
		if r.floor > 0 && !p.differs(r.floor, r.term) {
			p.logger.Info("the log was put right meanwhile and is kept", "index", r.floor)
		} else if r.floor > 0 {
			if err := p.startWipe(r.floor); err != nil {
				return err
			}
			if err := p.wipeState(); err != nil {
				return err
			}
		}
		p.storeMu.Lock()
		p.truncated = false
		p.storeMu.Unlock()
		return p.startRaft()
	}()
	if err != nil {
		p.failStop(err)
	}
}

// group is one life of the partition's Raft group.
type group struct {
	raft     *raft.Raft
	trans    raft.Transport
	stopping atomic.Bool
	ended    chan struct{}
}

// stop ends the group's goroutines and waits for them. The transport goes first, so that none of them waits for a peer.
func (g *group) stop() {
	if g.stopping.Swap(true) {
		<-g.ended
		return
	}
	f := g.raft.Shutdown()
	if c, ok := g.trans.(raft.WithClose); ok {
		_ = c.Close()
	}
	_ = f.Error()
	close(g.ended)
}

// failStop ends this group, and only this one, after an error that Raft cannot live with (safety rule 7). It does not
// wait: it is called on Raft's own goroutines.
func (p *Partition) failStop(err error) {
	if !p.failure.CompareAndSwap(nil, &err) {
		return
	}
	p.leading.Store(-1)
	p.logger.Error("replica stops", "error", err)
	p.noteDamage(err)
	if g := p.group.Load(); g != nil {
		go g.stop()
	}
	p.mu.Lock()
	p.failInflight(func(*op) bool { return true }, ErrStorage)
	p.mu.Unlock()
	p.wake()
	p.kick()
}

func (p *Partition) failed() error {
	if e := p.failure.Load(); e != nil {
		return *e
	}
	return nil
}

func (p *Partition) isClosing() bool {
	select {
	case <-p.closing:
		return true
	default:
		return false
	}
}

// Close stops the group and closes the log cleanly: with a checkpoint of all that is applied and the high watermark kept.
// The files stay.
func (p *Partition) Close() error {
	if p.stopping.Swap(true) {
		<-p.closed
		return nil
	}
	close(p.closing)
	<-p.loopEnd
	p.group.Load().stop()
	p.bg.Wait()
	p.wake()
	err := p.closeLog()
	close(p.closed)
	return err
}

func (p *Partition) closeLog() error {
	if p.failed() != nil {
		return p.log.Close()
	}
	var errs []error
	index, last := p.applied.Load(), p.log.LastIndex()
	p.mu.Lock()
	have := p.durable[index]
	emptyOK := p.identity.emptyOK && last >= max(1, p.identity.voteFloor)
	p.identity.emptyOK = p.identity.emptyOK && !emptyOK
	id := p.identity
	p.mu.Unlock()
	errs = append(errs, p.log.Sync())
	if errs[0] == nil && index > 0 {
		if !have {
			c, body, err := p.capture(index)
			if err == nil {
				err = p.keep(c.index, body)
			}
			errs = append(errs, err)
		}
		errs = append(errs, p.writeMark(true))
		if emptyOK {
			errs = append(errs, writeIdentity(p.o.FS, p.o.Dir, id))
		}
	}
	return errors.Join(append(errs, p.log.Close())...)
}
