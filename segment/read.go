package segment

import (
	"fmt"
	"math"
	"sort"
)

// maxRanges bounds the ranges of one ReadOffsets.
const maxRanges = 16

// Entry reads the description of an entry (memory for recent ones, else a read near an index entry). The caller owns
// Header and Payload.
func (l *Log) Entry(index uint64) (Entry, error) {
	l.mu.RLock()
	if r := l.recent.get(index); r != nil && (r.typ == Batch || r.size == reservedSize) {
		e := Entry{
			Index: index, Term: r.term, Type: r.typ, BaseOffset: r.baseOffset, NextOffset: r.nextOffset, Size: int(r.size),
		}
		if r.typ == Batch {
			e.Header = append([]byte(nil), r.header[:]...)
		} else {
			e.Payload = []byte{}
		}
		l.mu.RUnlock()
		return e, nil
	}
	l.mu.RUnlock()
	var e Entry
	err := l.settled(func(uint64) error {
		c, err := l.locateIndex(index)
		if err != nil {
			return err
		}
		l.mu.RLock()
		end := c.s.size
		l.mu.RUnlock()
		found := false
		f, err := c.s.pin(l.o.FS)
		if err != nil {
			return err
		}
		defer c.s.unpin()
		_, err = walk(f, c, end, true, func(h *head) bool {
			e, found = h.own(), true
			return false
		})
		if err == nil && !found {
			err = fmt.Errorf("%w: entry %d", ErrNotFound, index)
		}
		return err
	})
	return e, err
}

// own copies what aliases the walk's buffer.
func (h *head) own() Entry {
	e := h.Entry
	if e.Type == Batch {
		e.Header = append([]byte(nil), h.Header...)
	} else {
		e.Payload = append([]byte{}, h.Payload...)
	}
	return e
}

// Scan calls f with each entry from index first on, in order, until f returns false or the log ends. f owns the
// entry's slices. Bytes of batches beyond their headers are not read.
func (l *Log) Scan(first uint64, f func(Entry) bool) error {
	index, more := first, true
	for more {
		err := l.settled(func(uint64) error {
			l.mu.RLock()
			atEnd := index >= l.nextIndex
			l.mu.RUnlock()
			if atEnd {
				more = false
				return nil
			}
			c, err := l.locateIndex(index)
			if err != nil {
				return err
			}
			s := c.s
			l.mu.RLock()
			end := s.size
			l.mu.RUnlock()
			file, err := s.pin(l.o.FS)
			if err != nil {
				return err
			}
			defer s.unpin()
			before := index
			_, err = walk(file, c, end, true, func(h *head) bool {
				index = h.Index + 1
				more = f(h.own())
				return more
			})
			if err == nil && more && index == before {
				err = fmt.Errorf("%w: no entry %d where it should be", errBadFrame, index)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ReadIndexes returns the frames of entries first.. as one range of one file: at most last, at most maxBytes unless
// the first frame alone is larger. Their bytes are not checked, see ReadFrames.
func (l *Log) ReadIndexes(first, last uint64, maxBytes int) (Range, error) {
	var r Range
	err := l.settled(func(gen uint64) error {
		c, err := l.locateIndex(first)
		if err != nil {
			return err
		}
		if last < first || first > l.LastIndex() {
			return fmt.Errorf("%w: entries %d to %d", ErrNotFound, first, last)
		}
		to, err := l.reach(c, last, math.MaxInt64, maxBytes, true)
		if err != nil {
			return err
		}
		r, err = l.rangeOf(c, to, gen)
		return err
	})
	return r, err
}

// ReadOffsets returns stretches of batches from the one holding offset on, only batches that lie below limit
// (NextOffset of the batch <= limit), at most maxBytes in all; when minOne, the first batch even if larger.
// Reserved frames are never inside a range. ErrNotFound when offset < StartOffset or > NextOffset; no ranges at the
// end. There are at most 16 ranges, so the end may not be reached although maxBytes is not. What this process has not
// written or checked lately is read and checked first (checked.go): ErrCorrupt says that this replica is damaged.
func (l *Log) ReadOffsets(offset, limit int64, maxBytes int, minOne bool) ([]Range, error) {
	var out []Range
	release := func() {
		for _, r := range out {
			r.Release()
		}
		out = nil
	}
	err := l.settled(func(gen uint64) error {
		release()
		c, err := l.locateOffset(offset)
		if err != nil || c.s == nil {
			return err
		}
		for left := maxBytes; len(out) < maxRanges; {
			var last uint64
			c, last, err = l.nextBatches(c)
			if err != nil || c.s == nil || c.offset >= limit {
				return err
			}
			to, err := l.reach(c, last, limit, left, minOne && len(out) == 0)
			if err != nil || to.pos == c.pos {
				return err
			}
			r, err := l.rangeOf(c, to, gen)
			if err != nil {
				return err
			}
			out = append(out, r)
			if err := l.checkRange(r.File, c, to); err != nil {
				return err
			}
			left -= r.Len
			c = to
		}
		return nil
	})
	if err != nil {
		release()
	}
	return out, err
}

// nextBatches moves c over reserved frames and ends of segments to the next batch, and returns the last index of the
// stretch of batches there. A cursor without segment: the log ends.
func (l *Log) nextBatches(c cursor) (at cursor, last uint64, err error) {
	for {
		l.mu.RLock()
		end := c.s.end()
		skip := uint64(0) // the entry behind the reserved frames at c
		if c.index >= end.index {
			i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].baseOffset > c.s.baseOffset })
			if i == len(l.segs) {
				l.mu.RUnlock()
				return cursor{}, 0, nil
			}
			c = l.segs[i].begin()
			l.mu.RUnlock()
			continue
		}
		last = end.index - 1
		i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].first+uint64(l.runs[i].n) > c.index })
		if i < len(l.runs) {
			if r := l.runs[i]; r.first <= c.index {
				skip = r.first + uint64(r.n)
			} else {
				last = min(last, r.first-1)
			}
		}
		l.mu.RUnlock()
		switch {
		case skip == 0:
			return c, last, nil
		case skip >= end.index:
			c = end
		default:
			if c, err = l.locateIndex(skip); err != nil {
				return cursor{}, 0, err
			}
		}
	}
}

// reach returns the last boundary from c on such that entries are at most last, lie below limit and take at most
// maxBytes; with minOne the first entry may be larger. It is c itself when nothing fits.
func (l *Log) reach(c cursor, last uint64, limit int64, maxBytes int, minOne bool) (cursor, error) {
	stop := c.pos + int64(max(maxBytes, 0))
	// within: all that stands before this boundary fits.
	within := func(index uint64, offset, pos int64) bool { return index-1 <= last && offset <= limit && pos <= stop }
	l.mu.RLock()
	end := c.s.end()
	if within(end.index, end.offset, end.pos) {
		l.mu.RUnlock()
		return end, nil
	}
	if r := &l.recent; c.s == l.active() && r.n > 0 {
		// The first entry that does not fit.
		i := sort.Search(r.n, func(i int) bool {
			e := r.at(i)
			return !within(r.first+uint64(i)+1, e.nextOffset, e.pos+int64(e.size))
		})
		if i < r.n {
			e := r.at(i)
			if e.pos == c.pos && minOne && e.nextOffset <= limit && r.first+uint64(i) <= last {
				to := end
				if i+1 < r.n {
					to = r.at(i+1).cursor(c.s, r.first+uint64(i)+1)
				}
				l.mu.RUnlock()
				return to, nil
			}
			if e.pos >= c.pos && within(r.first+uint64(i), e.baseOffset, e.pos) {
				l.mu.RUnlock()
				return e.cursor(c.s, r.first+uint64(i)), nil
			}
		}
	}
	l.mu.RUnlock()
	from := l.floor(c.s, func(r indexRec) bool { return within(r.index, r.offset, r.pos) })
	if from.pos < c.pos {
		from = c
	}
	return l.walkTo(from, end.pos, func(h *head) bool {
		if h.Index > last || h.NextOffset > limit {
			return false
		}
		return h.at.pos+int64(h.Size) <= stop || minOne && h.at.pos == c.pos
	})
}

// rangeOf pins the frames between two cursors of one segment, found in the given generation.
func (l *Log) rangeOf(c, to cursor, gen uint64) (Range, error) {
	if to.pos <= c.pos || to.pos-c.pos > math.MaxInt {
		return Range{}, fmt.Errorf("%w: empty range at entry %d", ErrNotFound, c.index)
	}
	f, err := c.s.pin(l.o.FS)
	if err != nil {
		return Range{}, err
	}
	l.mu.RLock()
	if gen == l.generation {
		l.hints.add(to)
	}
	l.mu.RUnlock()
	return Range{
		File: f, Pos: c.pos, Len: int(to.pos - c.pos), Release: c.s.unpin,
		First: c.index, Last: to.index - 1, NextIndex: to.index, offset: c.offset,
	}, nil
}
