package partition

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
)

// AppendResult is the outcome of an append.
type AppendResult struct {
	BaseOffset     int64
	LogAppendTime  int64 // ms, or -1
	LogStartOffset int64
	Response       any // what StateMachine.Apply returned; nil for a duplicate that was applied before
	Err            error
}

// Pending is an append under way.
type Pending struct {
	done  chan struct{}
	state atomic.Bool
	timer *time.Timer
	res   AppendResult
}

// Done is closed when Result may be called without waiting.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Result waits.
func (p *Pending) Result() AppendResult {
	<-p.done
	return p.res
}

func (p *Pending) complete(r AppendResult) {
	if p.expire(r) && p.timer != nil {
		p.timer.Stop()
	}
}

// expire is complete for the timer itself, which may run before it is known to the Pending.
func (p *Pending) expire(r AppendResult) bool {
	if p.state.Swap(true) {
		return false
	}
	p.res = r
	close(p.done)
	return true
}

func failedPending(err error) *Pending {
	p := &Pending{done: make(chan struct{})}
	p.complete(AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1, Err: err})
	return p
}

// op is an entry that was handed to Raft by this leader and is not yet answered. Its buffer belongs to Raft until the
// entry is applied or refused, also when nobody waits any more.
type op struct {
	ticket   ticket
	ext      [ticketSize]byte
	data     []byte
	since    time.Time
	acks     int16
	need     int // replicas that must hold the entry beyond a majority; 0: a majority does
	index    uint64
	deadline time.Time

	committed atomic.Bool // and waiting for more than a majority

	producerID    int64
	producerEpoch int16
	seq           seqBatch

	waiters []*Pending // guarded by Partition.mu until the op has left inflight
	result  AppendResult
}

// complete answers all who wait. The op has left the partition's lists.
func (o *op) complete() {
	for _, w := range o.waiters {
		w.complete(o.result)
	}
}

// timeoutOrDefault: Kafka's clients send 0 with acks=1, where it means nothing; here every append waits for a majority.
func timeoutOrDefault(d time.Duration) time.Duration {
	if d <= 0 {
		return 30 * time.Second
	}
	return d
}

// Append checks what needs the log (leader, min.insync.replicas, producer epoch and sequence), hands the batch to Raft
// and returns; the result comes by Pending, never later than timeout. Calls of one goroutine are stored in order. The
// batch was checked before (record.Validate); base offset and epoch are stamped in place when it is stored. The bytes belong
// to the partition until the Pending is done, and for ever when it ends in ErrTimedOut, ErrNotLeader, ErrStorage or
// ErrClosed: Raft may still hold them. Blocks only for back-pressure (ErrOverloaded after timeout).
//
// Every append waits for a majority; acks=-1 also for min.insync.replicas, and is refused while fewer are in sync.
func (p *Partition) Append(b record.Batch, acks int16, timeout time.Duration) *Pending {
	if len(b) < record.HeaderSize || b.Size() != len(b) || b.LastOffsetDelta() < 0 {
		return failedPending(fmt.Errorf("%w: not a whole record batch", ErrCorrupt))
	}
	o := &op{data: b, acks: acks, producerID: b.ProducerID(), producerEpoch: b.ProducerEpoch()}
	o.ticket.kind = kindBatch
	if o.producerID >= 0 {
		_, _, o.seq = headerOf(b)
	}
	if p.o.DiskFull() {
		return failedPending(ErrDiskFull)
	}
	if acks == -1 {
		if least := p.o.Config().MinInsyncReplicas; least > 1 {
			if p.inSyncCount() < least {
				return failedPending(ErrNotEnoughReplicas)
			}
			if least > int(p.quorum.Load()) {
				o.need = least
			}
		}
	}
	return p.submit(o, timeoutOrDefault(timeout), nil)
}

// Propose logs a Command of the state machine and returns what its Apply returned. An error of ctx leaves open whether
// the command will be applied.
func (p *Partition) Propose(ctx context.Context, payload []byte) (any, error) {
	return p.propose(ctx, append([]byte{cmdMachine}, payload...))
}

func (p *Partition) propose(ctx context.Context, data []byte) (any, error) {
	o := &op{data: data, producerID: -1}
	o.ticket.kind = kindCommand
	timeout := time.Minute
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := p.submit(o, max(timeout, time.Millisecond), ctx.Done())
	select {
	case <-w.Done():
		r := w.Result()
		return r.Response, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// submit gives o its ticket and hands it to Raft, as soon as there is room.
func (p *Partition) submit(o *op, timeout time.Duration, stop <-chan struct{}) *Pending {
	o.since = time.Now()
	o.deadline = o.since.Add(timeout)
	w := &Pending{done: make(chan struct{})}
	var timer *time.Timer
	for {
		room, err := p.trySubmit(o, w)
		if final(err) {
			go p.refuse(w, err, o.deadline)
			return w
		}
		if err != nil {
			return failedPending(err)
		}
		if room == nil {
			return w
		}
		if timer == nil {
			timer = time.NewTimer(time.Until(o.deadline))
			defer timer.Stop()
		}
		select {
		case <-room:
		case <-timer.C:
			return failedPending(ErrOverloaded)
		case <-stop:
			return failedPending(ErrOverloaded)
		case <-p.closing:
			return failedPending(ErrClosed)
		}
	}
}

// final says whether a client takes err for the last word on its producer: told of a gap that is none, it begins a new
// epoch and sends again what is in the log already.
func final(err error) bool {
	return errors.Is(err, ErrOutOfOrderSequence) || errors.Is(err, ErrDuplicateSequence) || errors.Is(err, ErrProducerFenced)
}

// refuse answers with a final error once a majority confirmed that this replica still leads: a stale leader knows
// neither what its successor has stored nor who was fenced there (safety rule 16).
func (p *Partition) refuse(w *Pending, err error, deadline time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	if stale := p.VerifyLeader(ctx); stale != nil {
		err = stale
	}
	w.complete(AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStartOffset: p.LogStart(), Err: err})
}

// trySubmit does so now, or returns a channel that is closed when it is worth another try.
func (p *Partition) trySubmit(o *op, w *Pending) (room <-chan struct{}, err error) {
	p.appendMu.Lock()
	defer p.appendMu.Unlock()
	p.mu.Lock()
	if err := p.servingLocked(); err != nil {
		p.mu.Unlock()
		return nil, err
	}
	if p.broken {
		p.mu.Unlock()
		return nil, ErrNotLeader
	}
	var st *producer
	if o.producerID >= 0 {
		st = p.producers[o.producerID]
		v := st.check(o.producerEpoch, o.seq.first, o.seq.last)
		if v.err != nil || v.dup != nil || v.applied != nil {
			defer p.mu.Unlock()
			p.answerDuplicate(v, o, w)
			return nil, v.err
		}
		if st == nil && len(p.producers) >= 2*p.o.MaxProducers {
			p.mu.Unlock()
			p.kick()
			return nil, ErrOverloaded
		}
	}
	if p.paused || len(p.inflight) >= maxInflight ||
		(len(p.inflight) > 0 && p.inflightBytes+int64(len(o.data)) > p.o.MaxInflightBytes) {
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room = p.room
		p.mu.Unlock()
		return room, nil
	}
	o.ticket.term, o.ticket.epoch, o.ticket.n = p.term, p.epoch, p.nextTicket
	p.nextTicket++
	p.inflight = append(p.inflight, o)
	p.inflightBytes += int64(len(o.data))
	if o.producerID >= 0 {
		if st == nil {
			st = &producer{}
			p.producers[o.producerID] = st
		}
		st.inflight = append(st.inflight, o)
		st.used = p.o.Now().UnixMilli()
	}
	p.await(o, w)
	p.mu.Unlock()
	if !p.watched.Swap(true) {
		p.kick()
	}
	// The future is not waited for: applied entries come back through the FSM, refused ones through the tickets, and
	// Raft's futures may hang for ever at its end. An apply that Raft drops is found by the next ticket, or by a fence.
	p.Raft().ApplyLog(raft.Log{Data: o.data, Extensions: o.ticket.put(&o.ext)}, 0)
	return nil, nil
}

// await adds a waiter with a time limit of its own. mu is held.
func (p *Partition) await(o *op, w *Pending) {
	w.timer = time.AfterFunc(time.Until(o.deadline), func() {
		err := ErrTimedOut
		if o.committed.Load() {
			err = ErrNotEnoughAfterAppend
		}
		w.expire(AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStartOffset: p.LogStart(), Err: err})
	})
	o.waiters = append(o.waiters, w)
}

// answerDuplicate answers a batch that is in flight by that batch's own outcome, and one in the log by its place there.
// mu is held.
func (p *Partition) answerDuplicate(v verdict, o *op, w *Pending) {
	switch {
	case v.dup != nil:
		v.dup.waiters = append(v.dup.waiters, w)
		w.timer = time.AfterFunc(time.Until(o.deadline), func() {
			w.expire(AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStartOffset: p.LogStart(), Err: ErrTimedOut})
		})
	case v.applied != nil:
		o.result = AppendResult{
			BaseOffset: v.applied.offset, LogAppendTime: v.applied.appendTime, LogStartOffset: p.LogStart(),
		}
		if o.need == 0 {
			w.complete(o.result)
			return
		}
		o.index = p.applied.Load()
		o.committed.Store(true)
		p.await(o, w)
		p.late = append(p.late, o)
		p.kick()
	}
}

// servingLocked says why this replica does not serve as the leader. mu is held.
func (p *Partition) servingLocked() error {
	switch {
	case p.isClosing():
		return ErrClosed
	case p.failed() != nil:
		return ErrStorage
	case p.term == 0:
		return ErrNotLeader
	case p.leading.Load() < 0:
		return ErrLeaderNotReady
	}
	return nil
}

// settle takes the op of an applied entry of this leader out of flight and fills in its result. The caller completes it
// after the high watermark has moved, unless more replicas are needed: then it waits among the late ones.
func (p *Partition) settle(t ticket, e segment.Entry, resp any) (*op, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.kind == kindFence {
		p.fenceApplied(t)
		return nil, nil
	}
	var o *op
	for i, x := range p.inflight { // the first, but for appends that were refused
		if x.ticket.epoch == t.epoch && x.ticket.n == t.n {
			o = x
			p.inflight = append(p.inflight[:i], p.inflight[i+1:]...)
			break
		}
	}
	if o == nil {
		return nil, nil // leadership was lost meanwhile, and the append answered
	}
	p.forget(o)
	o.index = e.Index
	o.result = AppendResult{
		BaseOffset: e.BaseOffset, LogAppendTime: -1, LogStartOffset: p.LogStart(), Response: resp,
	}
	if e.Type == segment.Batch {
		if b := record.Batch(e.Header); b.LogAppendTime() {
			o.result.LogAppendTime = b.MaxTimestamp()
		}
	}
	if o.need > 0 {
		o.committed.Store(true)
		p.late = append(p.late, o)
	}
	p.drained()
	return o, nil
}

// forget takes an op that left inflight out of the sums. mu is held.
func (p *Partition) forget(o *op) {
	p.inflightBytes -= int64(len(o.data))
	if o.producerID < 0 {
		return
	}
	if st := p.producers[o.producerID]; st != nil {
		st.removeInflight(o)
		if st.n == 0 && len(st.inflight) == 0 {
			delete(p.producers, o.producerID)
		}
	}
}

// drained wakes who waits for room, and begins a new epoch of tickets when the broken one is empty. mu is held.
func (p *Partition) drained() {
	if p.broken && len(p.inflight) == 0 {
		p.newEpoch()
	}
	if p.room != nil {
		close(p.room)
		p.room = nil
	}
}

// newEpoch begins to number the tickets anew. mu is held, nothing of the old epoch is in flight.
func (p *Partition) newEpoch() {
	p.epoch++
	p.nextTicket, p.storedTickets, p.broken = 0, 0, false
	p.kick()
}

// breakEpoch fails the appends of the epoch from ticket n on: they were refused, or will be (safety rule 15). Those before
// are in the log and go on. mu is held.
func (p *Partition) breakEpoch(epoch, n uint64, err error) {
	if epoch != p.epoch || p.term == 0 {
		return
	}
	if n >= p.nextTicket {
		return // nothing was given out that is not stored
	}
	p.broken = true
	p.failInflight(func(o *op) bool { return o.ticket.n >= n }, err)
}

// failInflight answers the chosen appends with err. mu is held.
func (p *Partition) failInflight(chosen func(*op) bool, err error) {
	kept := p.inflight[:0]
	var gone []*op
	for _, o := range p.inflight {
		if chosen(o) {
			gone = append(gone, o)
		} else {
			kept = append(kept, o)
		}
	}
	clear(p.inflight[len(kept):])
	p.inflight = kept
	for _, o := range gone {
		p.forget(o)
		o.result = AppendResult{BaseOffset: -1, LogAppendTime: -1, LogStartOffset: p.LogStart(), Err: err}
		o.complete()
	}
	p.drained()
}
