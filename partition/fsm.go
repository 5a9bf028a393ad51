package partition

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
)

// fsm is the Partition as Raft's BatchingFSM. Raft calls it on one goroutine. It sees commands and configurations;
// no-ops and barriers pass it by.
type fsm Partition

func (f *fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch takes in committed entries, then moves the high watermark, then answers the appends: who has an answer reads
// what was written.
func (f *fsm) ApplyBatch(logs []*raft.Log) []any {
	p := (*Partition)(f)
	out := make([]any, len(logs))
	var done []*op
	kick := false
	for _, l := range logs {
		if p.failed() != nil {
			break // Raft believes them applied, but this group is going down
		}
		e, data, t, own, err := p.entryOf(l)
		if err == nil {
			p.captureBefore(l.Index)
			var resp any
			if resp, err = p.apply(e, data); err == nil && own {
				var o *op
				if o, err = p.settle(t, e, resp); o != nil {
					done = append(done, o)
				}
				kick = kick || t.kind == kindFence || (o != nil && o.need > 0)
			}
		}
		if err != nil {
			p.failStop(fmt.Errorf("apply entry %d: %w", l.Index, err))
			break
		}
	}
	p.mu.Lock()
	next := p.next
	p.mu.Unlock()
	p.raiseHighWatermark(next)
	for _, o := range done {
		if o.need == 0 {
			o.complete()
		}
	}
	if !p.marking.Swap(true) || kick {
		p.kick()
	}
	return out
}

// entryOf describes an entry that Raft hands over: the leader's own come with their data, others are looked up.
func (p *Partition) entryOf(l *raft.Log) (e segment.Entry, data []byte, t ticket, own bool, err error) {
	e = segment.Entry{Index: l.Index, Term: l.Term}
	if l.Type == raft.LogConfiguration {
		e.Type, e.Payload = segment.Configuration, l.Data
		return e, nil, t, false, nil
	}
	k, t, own := parseExt(l.Extensions)
	switch k {
	case kindBatch:
		b := record.Batch(l.Data)
		e.Type, e.Header, e.Size = segment.Batch, b[:record.HeaderSize], len(b)
		e.BaseOffset, e.NextOffset = b.BaseOffset(), b.LastOffset()+1
		return e, b, t, own, nil
	case kindCommand:
		e.Type, e.Payload = segment.Command, l.Data
		return e, nil, t, own, nil
	case kindVoid, kindFence:
		e.Type = segment.Void
		return e, nil, t, own, nil
	}
	e, err = p.log.Entry(l.Index)
	if err == nil && e.Type == segment.Batch && p.o.Machine != nil {
		data, err = p.readFrame(l.Index)
	}
	return e, data, ticket{}, false, err
}

// apply takes in one committed entry: pure, the same on every replica. It is called by the FSM, and by replay before Raft
// runs.
func (p *Partition) apply(e segment.Entry, data []byte) (resp any, err error) {
	switch e.Type {
	case segment.Batch:
		b := record.Batch(e.Header)
		if p.o.Machine != nil {
			resp = p.o.Machine.Apply(e, data)
		}
		id, epoch, s := headerOf(b)
		p.mu.Lock()
		if e.BaseOffset < p.next {
			err = fmt.Errorf("%w: entry %d begins at offset %d, applied up to %d", ErrCorrupt, e.Index, e.BaseOffset, p.next)
		} else {
			p.next = e.NextOffset
			if id >= 0 {
				st := p.producers[id]
				if st == nil {
					st = &producer{}
					p.producers[id] = st
				}
				st.apply(epoch, s)
			}
		}
		p.mu.Unlock()
	case segment.Command:
		if len(e.Payload) > 0 && e.Payload[0] == cmdMachine {
			if p.o.Machine != nil {
				e.Payload = e.Payload[1:]
				resp = p.o.Machine.Apply(e, e.Payload)
			}
			break
		}
		p.mu.Lock()
		err = p.applyCommand(e.Payload)
		p.mu.Unlock()
	case segment.Configuration:
		p.mu.Lock()
		p.conf, p.confIndex = append([]byte(nil), e.Payload...), e.Index
		p.mu.Unlock()
		p.setQuorum(e.Payload)
	}
	if err == nil {
		p.applied.Store(e.Index)
	}
	return resp, err
}

func (p *Partition) setQuorum(conf []byte) {
	if len(conf) == 0 {
		return
	}
	voters := 0
	for _, s := range raft.DecodeConfiguration(conf).Servers {
		if s.Suffrage == raft.Voter {
			voters++
		}
	}
	p.quorum.Store(int32(voters/2 + 1))
}

// raiseHighWatermark moves the high watermark and wakes the waiters. It never falls.
func (p *Partition) raiseHighWatermark(next int64) {
	if next <= p.hw.Load() {
		return
	}
	p.hw.Store(next)
	p.wake()
}

// wake closes the channel that Changed gave out.
func (p *Partition) wake() {
	p.mu.Lock()
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
	p.mu.Unlock()
}

// rolled is the log's callback: a segment begins at base, so the state as of base-1 is to be kept.
func (p *Partition) rolled(base uint64) {
	p.mu.Lock()
	p.rolls = append(p.rolls, base)
	p.mu.Unlock()
}

// captureBefore keeps the state of each index just before a segment's base that lies before index, which comes next.
func (p *Partition) captureBefore(index uint64) {
	for {
		p.mu.Lock()
		if len(p.rolls) == 0 || p.rolls[0] > index {
			p.mu.Unlock()
			return
		}
		at := p.rolls[0] - 1
		p.rolls = p.rolls[1:]
		p.mu.Unlock()
		if at < p.applied.Load() {
			continue // that segment was cut and rolled again
		}
		c, body, err := p.capture(at)
		if err != nil {
			p.logger.Error("cannot keep a checkpoint", "index", at, "error", err)
			continue
		}
		keep := func() {
			if err := p.keep(c.index, body); err != nil {
				p.logger.Error("cannot keep a checkpoint", "index", at, "error", err)
			}
		}
		if p.group.Load() == nil {
			keep()
			continue
		}
		p.bg.Go(keep)
	}
}

// capture encodes the state, which is that of index: all that is applied, and nothing up to index is left that would
// change it.
func (p *Partition) capture(index uint64) (*checkpoint, []byte, error) {
	term, ok := p.log.Term(index)
	if !ok {
		return nil, nil, fmt.Errorf("entry %d is not in the log", index)
	}
	c := &checkpoint{index: index, term: term, logStart: p.logStart.Load()}
	if p.o.Machine != nil {
		c.machine = p.o.Machine.Snapshot()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.next, c.confIndex, c.conf, c.producers = p.next, p.confIndex, p.conf, p.producers
	body := c.encode()
	if len(body) > maxCheckpoint {
		return nil, nil, fmt.Errorf("the state takes %d bytes", len(body))
	}
	return c, body, nil
}

// keep makes a checkpoint durable and removes those that nothing needs.
func (p *Partition) keep(index uint64, body []byte) error {
	p.ckptMu.Lock()
	defer p.ckptMu.Unlock()
	if err := writeCheckpoint(p.o.FS, p.o.Dir, index, checkpointSuffix, body); err != nil {
		return err
	}
	p.mu.Lock()
	p.durable[index] = true
	p.mu.Unlock()
	p.prune()
	p.kick() // the log start may be waiting for it
	return nil
}

// prune removes the checkpoints that are neither the newest nor just below a segment. ckptMu is held.
func (p *Partition) prune() {
	needed := map[uint64]bool{}
	for _, s := range p.log.Segments() {
		if s.FirstIndex > 0 {
			needed[s.FirstIndex-1] = true
		}
	}
	p.mu.Lock()
	var drop []uint64
	newest := uint64(0)
	for i := range p.durable {
		newest = max(newest, i)
	}
	for i := range p.durable {
		if i != newest && !needed[i] {
			drop = append(drop, i)
			delete(p.durable, i)
		}
	}
	p.mu.Unlock()
	for _, i := range drop {
		if err := removeFile(p.o.FS, checkpointPath(p.o.Dir, i, checkpointSuffix)); err != nil {
			p.logger.Warn("cannot remove an old checkpoint", "index", i, "error", err)
		}
	}
}

// Snapshot is never asked for: checkpoints are written at segment boundaries.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	return nil, errors.New("partition: Raft takes no snapshots")
}

// Restore replaces log and state by a checkpoint of the leader.
func (f *fsm) Restore(r io.ReadCloser) error {
	p := (*Partition)(f)
	body, err := io.ReadAll(io.LimitReader(r, maxCheckpoint))
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	c, err := decodeCheckpoint(body)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	p.ckptMu.Lock()
	defer p.ckptMu.Unlock()
	p.storeMu.Lock()
	defer p.storeMu.Unlock()
	if c.index <= p.log.LastIndex() || c.index <= p.Committed() {
		return fmt.Errorf("restore: the log already reaches entry %d", c.index)
	}
	if err := p.install(c, body); err != nil {
		p.failStop(err)
		return err
	}
	p.mu.Lock()
	old := p.durable
	p.durable, p.rolls = map[uint64]bool{c.index: true}, nil
	p.mu.Unlock()
	if err := p.load(c); err != nil {
		p.failStop(err)
		return err
	}
	p.hasConf.Store(c.confIndex > 0)
	for i := range old {
		if err := removeFile(p.o.FS, checkpointPath(p.o.Dir, i, checkpointSuffix)); err != nil {
			p.logger.Warn("cannot remove an old checkpoint", "index", i, "error", err)
		}
	}
	p.logger.Info("log replaced by the leader's checkpoint", "index", c.index, "offset", c.next)
	if !p.marking.Swap(true) {
		p.kick()
	}
	return nil
}
