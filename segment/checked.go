package segment

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

// checkedFor bounds how long a stretch of a file counts as checked: from one to two times this. What the page cache
// dropped meanwhile and reads again from a disk that rots is looked at again after that.
const checkedFor = 10 * time.Second

// maxSpans bounds the stretches that are remembered of one segment; the first is forgotten beyond.
const maxSpans = 64

type span struct{ from, to int64 }

// checked remembers which bytes of a segment file this process wrote or checked lately: CRCs, and what no CRC covers
// (safety rule 11). They go to a consumer from file to socket without another look.
type checked struct {
	mu          sync.Mutex
	now, before []span // sorted, apart from one another
	since       time.Time
}

// turn forgets what is older than two periods. mu is held.
func (k *checked) turn(t time.Time) {
	switch d := t.Sub(k.since); {
	case d >= 2*checkedFor:
		k.now, k.before, k.since = nil, nil, t
	case d >= checkedFor:
		k.now, k.before, k.since = nil, k.now, t
	}
}

func (k *checked) add(from, to int64, t time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turn(t)
	if n := len(k.now); n > 0 && k.now[n-1].to == from { // an append, or a reader that goes on
		k.now[n-1].to = to
		return
	}
	i, _ := slices.BinarySearchFunc(k.now, from, func(s span, from int64) int { // the first that ends at from or later
		if s.to < from {
			return -1
		}
		return 1
	})
	j := i
	for j < len(k.now) && k.now[j].from <= to {
		from, to = min(from, k.now[j].from), max(to, k.now[j].to)
		j++
	}
	k.now = slices.Replace(k.now, i, j, span{from, to})
	if len(k.now) > maxSpans {
		k.now = slices.Delete(k.now, 0, 1)
	}
}

// covers says whether from..to was checked lately.
func (k *checked) covers(from, to int64, t time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.turn(t)
	for at := from; at < to; {
		next := max(spanEnd(k.now, at), spanEnd(k.before, at))
		if next <= at {
			return false
		}
		at = next
	}
	return true
}

// spanEnd is the end of the span that holds at; at itself when none does.
func spanEnd(spans []span, at int64) int64 {
	for _, s := range spans {
		if s.from <= at && at < s.to {
			return s.to
		}
	}
	return at
}

var tails = sync.Pool{New: func() any { return &tail{read: new(int64)} }}

// checkRange reads the frames from c up to to and checks each whole, against its place too, unless that was done lately.
// errBadFrame: one of them is none.
func (l *Log) checkRange(f vfs.File, c, to cursor) error {
	now := l.o.Now()
	if c.s.checked.covers(c.pos, to.pos, now) {
		return nil
	}
	from := c.pos
	if _, err := l.checkFrames(f, c, to, math.MaxInt64); err != nil {
		return err
	}
	c.s.checked.add(from, to.pos, now)
	return nil
}

// checkFrames stops behind the frame with which step bytes are reached, and says where.
func (l *Log) checkFrames(f vfs.File, c, to cursor, step int64) (at cursor, err error) {
	t := tails.Get().(*tail)
	t.f, t.size, t.start, t.have = f, to.pos, 0, nil
	defer func() {
		t.f = nil
		tails.Put(t)
	}()
	begin := c.pos
	for c.pos < to.pos && c.pos-begin < step {
		e, err := t.sound(c, 0)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return c, fmt.Errorf("%w at position %d of segment %d: %w", errBadFrame, c.pos, c.s.baseOffset, errShort)
		}
		if err != nil {
			return c, fmt.Errorf("segment %d: %w", c.s.baseOffset, err)
		}
		if err := l.inPlace(e, c); err != nil {
			return c, err
		}
		c.pos, c.index, c.offset = c.pos+int64(e.Size), c.index+1, e.NextOffset
	}
	if c.pos >= to.pos && (c.index != to.index || c.offset != to.offset) {
		return c, fmt.Errorf("%w before position %d of segment %d: entry %d, offset %d follow; expected %d, %d", errBadFrame, c.pos,
			c.s.baseOffset, c.index, c.offset, to.index, to.offset)
	}
	return c, nil
}

// inPlace checks a frame's offset and term against the place where it stands. ErrNotFound: the log does not hold that entry
// any more.
func (l *Log) inPlace(e Entry, c cursor) error {
	term, ok := l.Term(c.index)
	if !ok {
		return fmt.Errorf("%w: entry %d", ErrNotFound, c.index)
	}
	if term != e.Term || e.BaseOffset != c.offset {
		return fmt.Errorf("%w: entry %d of term %d at offset %d, expected term %d at %d", errBadFrame, c.index, e.Term, e.BaseOffset, term, c.offset)
	}
	return nil
}

// ReadFrames appends the frames of entries first.. to buf: at most last, at most maxBytes unless the first alone is
// larger. n is their number. The very bytes that are returned were checked, against their place too: ErrCorrupt says that
// this replica is damaged.
func (l *Log) ReadFrames(buf []byte, first, last uint64, maxBytes int) (out []byte, n int, err error) {
	at := len(buf)
	err = l.settled(func(uint64) error {
		out = buf[:at]
		r, err := l.ReadIndexes(first, last, maxBytes)
		if err != nil {
			return err
		}
		defer r.Release()
		out = append(out, make([]byte, r.Len)...)
		if _, err := r.File.ReadAt(out[at:], r.Pos); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("%w: %w", errBadFrame, errShort)
			}
			return fmt.Errorf("read entry %d: %w", first, err)
		}
		offset := r.offset
		err = ParseFrames(first, out[at:], func(e Entry, _ []byte) error {
			if err := l.inPlace(e, cursor{index: e.Index, offset: offset}); err != nil {
				return err
			}
			offset = e.NextOffset
			return nil
		})
		if errors.Is(err, ErrNotFound) {
			return err
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errBadFrame, err)
		}
		n = int(r.Last - r.First + 1)
		return nil
	})
	if err != nil {
		return buf[:at], 0, err
	}
	return out, n, nil
}
