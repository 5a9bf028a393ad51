package segment

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/vfs"
)

// walkBuffer is read at a time when frames' heads are looked at one by one.
const walkBuffer = 8 << 10

var walkBuffers = sync.Pool{New: func() any { b := make([]byte, walkBuffer); return &b }}

// errBadFrame: what stands at a place where a frame should be is none.
var errBadFrame = errors.New("bad frame")

// head is a frame as walk shows it: its description, with Header and Payload aliasing the buffer (Payload only when
// the walk was told to read payloads), and the cursor at it.
type head struct {
	Entry
	at cursor
}

// after is the cursor behind the frame.
func (h *head) after() cursor {
	c := cursor{s: h.at.s, pos: h.at.pos + int64(h.Size), index: h.Index + 1, offset: h.NextOffset, maxTS: h.at.maxTS}
	if h.Type == Batch {
		c.maxTS = max(c.maxTS, record.Batch(h.Header).MaxTimestamp())
	}
	return c
}

// walk calls f with the frames from c on until f returns false or end is reached, and returns the cursor behind the
// last frame for which f returned true.
func walk(f vfs.File, c cursor, end int64, payloads bool, visit func(*head) bool) (cursor, error) {
	bp := walkBuffers.Get().(*[]byte)
	buf := *bp
	defer func() {
		if cap(buf) <= 64<<10 {
			*bp = buf
		}
		walkBuffers.Put(bp)
	}()
	var have []byte // of the file, from start on
	start := c.pos
	fill := func(n int) error { // makes at least n bytes from c.pos on available
		if off := c.pos - start; off >= 0 && off+int64(n) <= int64(len(have)) {
			return nil
		}
		if n > len(buf) {
			buf = make([]byte, n)
		}
		want := min(int64(len(buf)), end-c.pos)
		if want < int64(n) {
			return fmt.Errorf("%w: %w", errBadFrame, errShort)
		}
		k, err := f.ReadAt(buf[:want], c.pos)
		if k < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = errBadFrame // shorter than it was: truncated under us
			}
			return err
		}
		start, have = c.pos, buf[:k]
		return nil
	}
	for c.pos < end {
		if err := fill(int(min(record.HeaderSize, end-c.pos))); err != nil {
			return c, err
		}
		b := have[c.pos-start:]
		e, err := parseHead(b)
		if err == nil {
			err = c.accepts(&e, end)
		}
		if err != nil {
			return c, fmt.Errorf("%w at position %d of segment %d: %w", errBadFrame, c.pos, c.s.baseOffset, err)
		}
		h := head{Entry: e, at: c}
		h.Index = c.index
		if e.Type == Batch {
			h.Header = b[:record.HeaderSize:record.HeaderSize]
		} else if payloads {
			if err := fill(e.Size); err != nil {
				return c, err
			}
			frame := have[c.pos-start:][:e.Size]
			if !checksumOK(frame, e.Type) {
				return c, fmt.Errorf("%w at position %d of segment %d: CRC", errBadFrame, c.pos, c.s.baseOffset)
			}
			h.Payload = frame[reservedSize:]
		}
		if !visit(&h) {
			return c, nil
		}
		c = h.after()
	}
	return c, nil
}

// accepts checks a frame's head against the place where it stands.
func (c cursor) accepts(e *Entry, end int64) error {
	switch {
	case e.Type == typeHeader:
		return errors.New("a header among entries")
	case e.Type != Batch && e.Index != c.index:
		return fmt.Errorf("index %d, not %d", e.Index, c.index)
	case e.BaseOffset != c.offset:
		return fmt.Errorf("base offset %d, not %d", e.BaseOffset, c.offset)
	case c.pos+int64(e.Size) > end:
		return errShort
	}
	return nil
}

// floor returns the last known boundary of s for which before is true, at least its beginning; end is that of the
// picture in which s was seen. before must be true up to some boundary and false after it.
func (l *Log) floor(s *seg, before func(indexRec) bool) cursor {
	c := s.begin()
	l.mu.RLock()
	active := s == l.active()
	recs := s.indexRecs
	if active {
		p := l.idx.pending
		if i := sort.Search(len(p), func(i int) bool { return !before(p[i]) }); i > 0 {
			r := p[i-1]
			l.mu.RUnlock()
			return r.cursor(s)
		}
	}
	l.mu.RUnlock()
	if recs == 0 {
		return c
	}
	r, ok, err := s.searchIndex(l.o.FS, recs, before)
	if err != nil && !active {
		if rerr := l.rebuildIndex(s); rerr != nil {
			l.o.Logger.Warn("index not rebuilt", "path", s.indexPath(), "error", rerr)
			return c
		}
		l.mu.RLock()
		recs = s.indexRecs
		l.mu.RUnlock()
		r, ok, err = s.searchIndex(l.o.FS, recs, before)
	}
	if err != nil || !ok {
		return c
	}
	return r.cursor(s)
}

func (r indexRec) cursor(s *seg) cursor {
	return cursor{s: s, pos: r.pos, index: r.index, offset: r.offset, maxTS: r.maxTS}
}

// segmentFor returns the last segment for which starts is true, with its end; nil when there is none.
func (l *Log) segmentFor(starts func(*seg) bool) (s *seg, end cursor) {
	i := sort.Search(len(l.segs), func(i int) bool { return !starts(l.segs[i]) })
	if i == 0 {
		return nil, cursor{}
	}
	return l.segs[i-1], l.segs[i-1].end()
}

// settled runs find until it is not disturbed by a truncation: a bad frame seen while one went on is none.
func (l *Log) settled(find func(gen uint64) error) error {
	for try := 0; ; try++ {
		l.mu.RLock()
		gen := l.generation
		l.mu.RUnlock()
		err := find(gen)
		if err == nil || !errors.Is(err, errBadFrame) {
			return err
		}
		l.mu.RLock()
		same := gen == l.generation
		l.mu.RUnlock()
		if same {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if try == 10 {
			return fmt.Errorf("%w: %w", ErrNotFound, err)
		}
	}
}

// locateIndex returns the cursor at entry index, which must be in the log; or behind the last one.
func (l *Log) locateIndex(index uint64) (c cursor, err error) {
	err = l.settled(func(uint64) error {
		l.mu.RLock()
		if l.firstIndex == 0 || index < l.firstIndex || index > l.nextIndex {
			l.mu.RUnlock()
			return fmt.Errorf("%w: entry %d", ErrNotFound, index)
		}
		if r := l.recent.get(index); r != nil {
			c = r.cursor(l.active(), index)
			l.mu.RUnlock()
			return nil
		}
		s, end := l.segmentFor(func(s *seg) bool { return s.firstIndex <= index })
		h, hinted := l.hints.find(func(h cursor) bool { return h.index == index && h.s == s })
		l.mu.RUnlock()
		switch {
		case s == nil:
			return fmt.Errorf("%w: entry %d", ErrNotFound, index)
		case hinted:
			c = h
			return nil
		case end.index == index:
			c = end
			return nil
		}
		from := l.floor(s, func(r indexRec) bool { return r.index <= index })
		c, err = l.walkTo(from, end.pos, func(h *head) bool { return h.Index < index })
		return err
	})
	return c, err
}

// locateOffset returns the cursor at the batch that holds offset, or at the end of the log; reserved frames may stand
// before it there.
func (l *Log) locateOffset(offset int64) (c cursor, err error) {
	err = l.settled(func(uint64) error {
		l.mu.RLock()
		if offset < l.startOffset || offset > l.nextOffset {
			l.mu.RUnlock()
			return fmt.Errorf("%w: offset %d", ErrNotFound, offset)
		}
		if c = l.recent.floorOffset(l.active(), offset); c.s != nil {
			l.mu.RUnlock()
			return nil
		}
		s, end := l.segmentFor(func(s *seg) bool { return s.baseOffset <= offset })
		h, hinted := l.hints.find(func(h cursor) bool { return h.offset == offset && h.s == s })
		l.mu.RUnlock()
		switch {
		case s == nil: // an empty log
			return nil
		case hinted:
			c = h
			return nil
		case end.offset <= offset:
			c = end
			return nil
		}
		from := l.floor(s, func(r indexRec) bool { return r.offset <= offset })
		c, err = l.walkTo(from, end.pos, func(h *head) bool { return h.NextOffset <= offset })
		return err
	})
	return c, err
}

// walkTo walks from c while pass is true.
func (l *Log) walkTo(c cursor, end int64, pass func(*head) bool) (cursor, error) {
	f, err := c.s.pin(l.o.FS)
	if err != nil {
		return c, err
	}
	defer c.s.unpin()
	return walk(f, c, end, false, pass)
}

func (r *ringEntry) cursor(s *seg, index uint64) cursor {
	return cursor{s: s, pos: r.pos, index: index, offset: r.baseOffset, maxTS: r.maxTS}
}

// floorOffset returns the cursor at the batch that holds offset, when the ring has it; behind the last when offset is
// the next one and the ring is not empty.
func (r *ring) floorOffset(s *seg, offset int64) cursor {
	if r.n == 0 || r.at(0).baseOffset > offset {
		return cursor{}
	}
	i := sort.Search(r.n, func(i int) bool { return r.at(i).nextOffset > offset })
	if i == r.n {
		return s.end()
	}
	return r.at(i).cursor(s, r.first+uint64(i))
}
