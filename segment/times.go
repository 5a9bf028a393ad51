package segment

import (
	"fmt"
	"sort"

	"github.com/balsa-broker/balsa/protocol/record"
)

// EpochEnd answers OffsetForLeaderEpoch: the largest epoch <= epoch that the log knows and the offset where it ends
// (NextOffset for the last one); -1, -1 when unknown.
func (l *Log) EpochEnd(epoch int32) (int32, int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if epoch < 0 {
		return -1, -1
	}
	i := sort.Search(len(l.terms), func(i int) bool { return l.terms[i].term > uint64(epoch) })
	switch {
	case i == 0:
		return -1, -1
	case i == len(l.terms):
		return int32(l.terms[i-1].term), l.nextOffset
	}
	return int32(l.terms[i-1].term), l.terms[i].offset
}

// EpochAt is the leader epoch of the batch that holds offset (or would), from memory.
func (l *Log) EpochAt(offset int64) (int32, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.segs) == 0 || offset < l.segs[0].baseOffset || offset > l.nextOffset {
		return -1, false
	}
	i := sort.Search(len(l.terms), func(i int) bool { return l.terms[i].offset > offset })
	if i == 0 {
		return -1, false
	}
	return int32(l.terms[i-1].term), true
}

// OffsetForTime returns the base offset of the first batch with a max timestamp >= ts (ms), at or behind the log
// start; ok false when there is none. The caller looks into the batch for the record.
func (l *Log) OffsetForTime(ts int64) (offset int64, ok bool, err error) {
	err = l.settled(func(uint64) error {
		offset, ok = 0, false
		l.mu.RLock()
		start := l.startOffset
		segs := make([]cursor, 0, len(l.segs))
		for _, s := range l.segs {
			if s.maxTS >= ts && s.nextOffset > start {
				segs = append(segs, s.end())
			}
		}
		l.mu.RUnlock()
		for _, end := range segs {
			offset, ok, err = l.firstAtTime(end, ts, start)
			if ok || err != nil {
				return err
			}
		}
		return nil
	})
	return offset, ok, err
}

// firstAtTime finds in one segment the first batch that ends beyond start and has a timestamp of at least ts.
func (l *Log) firstAtTime(end cursor, ts, start int64) (offset int64, ok bool, err error) {
	from := l.floor(end.s, func(r indexRec) bool { return r.maxTS < ts })
	if from.offset < start {
		if c := l.floor(end.s, func(r indexRec) bool { return r.offset <= start }); c.pos > from.pos {
			from = c
		}
	}
	_, err = l.walkTo(from, end.pos, func(h *head) bool {
		if h.Type == Batch && h.NextOffset > start && record.Batch(h.Header).MaxTimestamp() >= ts {
			offset, ok = h.BaseOffset, true
		}
		return !ok
	})
	return offset, ok, err
}

// MaxTimestamp returns the largest timestamp of the log and the base offset of its (first) batch; -1, -1 when empty.
func (l *Log) MaxTimestamp() (ts, offset int64) {
	l.mu.RLock()
	ts, offset = -1, -1
	var at cursor
	for _, s := range l.segs {
		if s.maxTS > ts {
			ts, offset, at = s.maxTS, s.maxTSOffset, s.end()
		}
	}
	gen := l.generation
	l.mu.RUnlock()
	if ts < 0 || offset >= 0 {
		return ts, offset
	}
	o, ok, err := l.firstAtTime(at, ts, at.s.baseOffset)
	if err != nil || !ok {
		l.o.Logger.Warn("batch of the largest timestamp not found", "dir", l.o.Dir, "error", fmt.Errorf("timestamp %d: %w", ts, err))
		return ts, at.s.baseOffset
	}
	l.mu.Lock()
	if gen == l.generation && at.s.maxTS == ts {
		at.s.maxTSOffset = o
	}
	l.mu.Unlock()
	return ts, o
}
