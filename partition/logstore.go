package partition

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"syscall"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
)

// logStore is the Partition as Raft's LogStore. Raft never sees records: GetLog gives index, term and type, and the data
// of configurations alone; the transport takes the frames from EncodeEntries.
type logStore Partition

// IsMonotonic: indexes have no gaps.
func (s *logStore) IsMonotonic() bool { return true }

func (s *logStore) FirstIndex() (uint64, error) { return s.log.FirstIndex(), nil }
func (s *logStore) LastIndex() (uint64, error)  { return s.log.LastIndex(), nil }

// GetLog answers from memory, also for the entry before the first, of which only the term is known.
func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	term, ok := s.log.Term(index)
	first, last := s.log.FirstIndex(), s.log.LastIndex()
	if !ok || index > last {
		return s.missing(index)
	}
	*l = raft.Log{Index: index, Term: term, Type: raft.LogNoop}
	if index+1 == first {
		return nil
	}
	t, payload, ok := s.log.Type(index)
	if !ok {
		return s.missing(index)
	}
	switch t {
	case segment.Noop:
	case segment.Barrier:
		l.Type = raft.LogBarrier
	case segment.Configuration:
		l.Type, l.Data = raft.LogConfiguration, payload
	default:
		l.Type = raft.LogCommand
	}
	return nil
}

// missing answers for an entry that the log does not have. Raft panics when that is one which it believes to be there, and
// would take every partition of the broker down; so this group stops, and with it the goroutine that asked (safety rule 7).
func (s *logStore) missing(index uint64) error {
	p := (*Partition)(s)
	if first, last := p.log.FirstIndex(), p.log.LastIndex(); index >= first && index <= last && first > 0 {
		_, okTerm := p.log.Term(index)
		if _, _, okType := p.log.Type(index); !okTerm || !okType {
			p.failStop(fmt.Errorf("%w: entry %d of %d..%d is not known", ErrCorrupt, index, first, last))
			runtime.Goexit()
		}
	}
	return raft.ErrLogNotFound
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs returns when the entries are durable (flush.policy fsync). On the leader it takes the appends whose tickets
// are next, and stores void frames for the others (safety rule 15). On a follower it checks what no CRC covers.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	p := (*Partition)(s)
	p.storeMu.Lock()
	defer p.storeMu.Unlock()
	if err := p.failed(); err != nil {
		return err
	}
	entries := p.scratch[:0]
	defer func() {
		clear(entries)
		p.scratch = entries[:0]
	}()
	next := p.log.NextOffset()
	refused := false
	var firstOwn *ticket
	for _, l := range logs {
		e, t, err := p.frame(l, &next)
		if err != nil {
			p.failStop(err)
			return err
		}
		if t != nil && firstOwn == nil {
			firstOwn = t
		}
		refused = refused || (t != nil && e.Type == segment.Void && t.kind != kindFence)
		entries = append(entries, e)
	}
	conf := slices.ContainsFunc(entries, func(e segment.NewEntry) bool { return e.Type == segment.Configuration })
	if err := p.log.Append(entries); err != nil {
		return p.storeFailed(err, firstOwn, conf)
	}
	p.truncated = false
	if conf {
		p.hasConf.Store(true)
	}
	if firstOwn != nil {
		p.stored(refused)
	}
	return nil
}

// frame makes the segment's entry of a Raft log, and says with which ticket it came. next is the offset of the next record.
func (p *Partition) frame(l *raft.Log, next *int64) (segment.NewEntry, *ticket, error) {
	e := segment.NewEntry{Index: l.Index, Term: l.Term, Data: l.Data}
	if l.Term > 1<<31-1 {
		return e, nil, fmt.Errorf("%w: term %d is no leader epoch", ErrCorrupt, l.Term)
	}
	switch l.Type {
	case raft.LogNoop:
		e.Type = segment.Noop
		return e, nil, nil
	case raft.LogBarrier:
		e.Type = segment.Barrier
		return e, nil, nil
	case raft.LogConfiguration:
		e.Type = segment.Configuration
		return e, nil, nil
	case raft.LogCommand:
	default:
		return e, nil, fmt.Errorf("%w: entry %d is of Raft's type %s", ErrCorrupt, l.Index, l.Type)
	}
	k, t, own := parseExt(l.Extensions)
	if own && !p.gate.admit(t, l.Term) {
		k = kindVoid
	}
	switch k {
	case kindBatch:
		b := record.Batch(l.Data)
		if len(b) < record.HeaderSize {
			return e, nil, fmt.Errorf("%w: entry %d is no batch", ErrCorrupt, l.Index)
		}
		if !own && (b.BaseOffset() != *next || uint64(b.LeaderEpoch()) != l.Term) {
			return e, nil, fmt.Errorf("%w: the leader's entry %d of term %d has offset %d and epoch %d, expected offset %d",
				ErrCorrupt, l.Index, l.Term, b.BaseOffset(), b.LeaderEpoch(), *next)
		}
		e.Type, e.Stamped = segment.Batch, !own
		*next += int64(b.LastOffsetDelta()) + 1
	case kindCommand:
		e.Type = segment.Command
	default: // void, fence, or an entry that is not ours
		e.Type, e.Data = segment.Void, nil
		if k != kindFence {
			// The FSM gets this very Log.
			l.Extensions, l.Data = extVoid, nil
		}
	}
	if own {
		return e, &t, nil
	}
	return e, nil, nil
}

// stored tells the append side how far its tickets came, and that some were refused.
func (p *Partition) stored(refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gate.epoch == p.epoch {
		p.storedTickets = p.gate.next
	}
	if refused || p.gate.void {
		p.breakEpoch(p.gate.epoch, p.gate.next, ErrNotLeader)
	}
}

// storeFailed decides what is left after an error of the log.
func (p *Partition) storeFailed(err error, own *ticket, conf bool) error {
	answer := ErrStorage
	if errors.Is(err, syscall.ENOSPC) {
		answer = ErrDiskFull
	}
	if own != nil {
		p.gate.void = true
		p.mu.Lock()
		p.breakEpoch(own.epoch, own.n, fmt.Errorf("%w: %w", answer, err))
		p.mu.Unlock()
	}
	switch {
	case errors.Is(err, segment.ErrFailed) || errors.Is(err, segment.ErrCorrupt):
		p.failStop(err)
	case p.truncated:
		// The log rolled back to before the call, but Raft believes the entries that were cut to be there still.
		p.requestRestart(restartRequest{why: "a store failed after a truncation"})
	case conf:
		// A leader takes its new configuration for stored.
		p.requestRestart(restartRequest{why: "a configuration was not stored"})
	}
	return fmt.Errorf("%w: %w", answer, err)
}

// DeleteRange is called for a conflicting suffix, which is cut, and for compaction, which is retention's business alone
// (safety rule 19) and ignored. Which of the two it is shows at the ends.
func (s *logStore) DeleteRange(lo, hi uint64) error {
	p := (*Partition)(s)
	p.storeMu.Lock()
	defer p.storeMu.Unlock()
	if err := p.failed(); err != nil {
		return err
	}
	first, last := p.log.FirstIndex(), p.log.LastIndex()
	if lo > hi || lo > last || hi < last {
		return nil
	}
	if lo < first || lo <= p.Committed() {
		err := fmt.Errorf("%w: Raft cuts %d..%d of a log %d..%d that is committed to %d", ErrCorrupt, lo, hi, first, last,
			p.Committed())
		p.failStop(err)
		return err
	}
	if err := p.log.TruncateSuffix(lo); err != nil {
		p.failStop(err)
		return fmt.Errorf("%w: %w", ErrStorage, err)
	}
	p.truncated = true
	p.findConfiguration()
	return nil
}
