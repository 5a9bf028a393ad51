package segment

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/vfs"
)

const (
	minChunk = 64 << 10 // preallocation starts with this and doubles
	maxChunk = 16 << 20
	// maxUnsynced bounds what one write leaves unsynced under Config.Fsync: after a power cut, a sound frame further
	// than this behind a bad one proves damage, not a torn write.
	maxUnsynced = 16 << 20
)

// plan is the reused memory of an Append.
type plan struct {
	bufs [][]byte
	own  []byte // header and reserved frames
	part [][]byte
}

var plans = sync.Pool{New: func() any { return new(plan) }}

func (p *plan) release() {
	clear(p.bufs)
	clear(p.part[:cap(p.part)])
	p.bufs, p.part = p.bufs[:0], p.part[:0]
	if cap(p.own) > 1<<20 {
		p.own = nil
	}
	plans.Put(p)
}

// Append stamps and writes the entries with one write, and returns when they are durable (Config.Fsync), else when
// written. On error the log is as before the call, or failed (ErrFailed). Indexes follow LastIndex without a gap;
// the first append of an empty log may have any index. The entries' Data is not kept.
func (l *Log) Append(entries []NewEntry) error {
	if len(entries) == 0 {
		return nil
	}
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	total, err := l.check(entries)
	if err != nil {
		return err
	}
	cfg := l.config()
	if err := l.unclean(cfg); err != nil {
		return err
	}
	if l.mustRoll(cfg, total) {
		if err := l.roll(); err != nil {
			return err
		}
	}
	if err := l.openActive(entries[0].Index); err != nil {
		return err
	}
	return l.write(cfg, entries, total)
}

// check compares the entries with the log and one another before anything is changed.
func (l *Log) check(entries []NewEntry) (total int64, err error) {
	index, offset, term := l.nextIndex, l.nextOffset, l.lastTerm()
	if index == 0 {
		index = entries[0].Index
	}
	for i := range entries {
		e := &entries[i]
		size := reservedSize + len(e.Data)
		switch {
		case e.Index != index || index == 0:
			return 0, fmt.Errorf("%w: index %d where %d is next", ErrInvalid, e.Index, index)
		case e.Term < term || e.Term > math.MaxInt32:
			return 0, fmt.Errorf("%w: entry %d: term %d after %d", ErrInvalid, e.Index, e.Term, term)
		case e.Type == Batch:
			if e.Term != term && term != 0 {
				return 0, fmt.Errorf("%w: entry %d: a batch begins term %d", ErrInvalid, e.Index, e.Term)
			}
			if len(e.Data) < record.HeaderSize || e.Data[16] != 2 || record.Batch(e.Data).Size() != len(e.Data) {
				return 0, fmt.Errorf("%w: entry %d: not a whole record batch", ErrInvalid, e.Index)
			}
			b := record.Batch(e.Data)
			delta := int64(b.LastOffsetDelta())
			if delta < 0 || offset > math.MaxInt64-delta-1 {
				return 0, fmt.Errorf("%w: entry %d: last offset delta %d", ErrInvalid, e.Index, delta)
			}
			if e.Stamped && (b.BaseOffset() != offset || int64(b.LeaderEpoch()) != int64(e.Term)) {
				return 0, fmt.Errorf("%w: entry %d: stamped with offset %d and epoch %d, not %d and %d", ErrInvalid,
					e.Index, b.BaseOffset(), b.LeaderEpoch(), offset, e.Term)
			}
			offset += delta + 1
			size = len(e.Data)
		case e.Type < Batch || e.Type > maxType:
			return 0, fmt.Errorf("%w: entry %d: %v", ErrInvalid, e.Index, e.Type)
		}
		if size > MaxFrame {
			return 0, fmt.Errorf("%w: entry %d: %d bytes", ErrInvalid, e.Index, size)
		}
		total += int64(size)
		term = e.Term
		index++
	}
	return total, nil
}

// unclean durably takes back the clean mark before the first change, notes the run of the machine in which what
// follows is written, when the last segment's header does not say so already, and whether it is synced before it counts.
func (l *Log) unclean(cfg Config) error {
	was := l.persisted.unsynced
	if was == !cfg.Fsync && !l.persisted.clean && (l.persisted.boot == l.o.BootID || len(l.segs) == 0) {
		return nil
	}
	if was && cfg.Fsync && l.active() != nil && l.synced < l.active().size {
		if err := l.syncActive(); err != nil {
			return err
		}
	}
	l.persisted.unsynced = !cfg.Fsync
	if err := l.writeState(l.stateAt(l.durableEnd(), 0)); err != nil {
		l.persisted.unsynced = was
		return err // nothing was changed: a failed replacement leaves the old file or the new
	}
	return nil
}

// ApplyPolicy makes a switch to Config.Fsync true for what was appended before: on return it is durable, and a loss of
// power leaves no doubt about it. The next append would do the same.
func (l *Log) ApplyPolicy() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	cfg := l.config()
	if err := l.usable(); err != nil || !cfg.Fsync || !l.persisted.unsynced {
		return err
	}
	return l.unclean(cfg)
}

// durableEnd is the furthest boundary known durable that is cheap to name: the end, or that of the closed segments.
func (l *Log) durableEnd() cursor {
	s := l.active()
	if s == nil {
		return cursor{index: l.nextIndex, offset: l.nextOffset}
	}
	if l.synced >= s.size {
		return s.end()
	}
	if n := len(l.segs); n > 1 {
		return l.segs[n-2].end()
	}
	return cursor{index: s.firstIndex, offset: s.baseOffset}
}

func (l *Log) mustRoll(cfg Config, total int64) bool {
	s := l.active()
	if s == nil || s.nextOffset == s.baseOffset {
		return false
	}
	if s.size+total > cfg.SegmentBytes {
		return true
	}
	first := s.firstAppend
	if first.IsZero() {
		return l.o.Now().UnixMilli()-s.created >= cfg.SegmentAge.Milliseconds()
	}
	return l.o.Now().Sub(first) >= cfg.SegmentAge
}

// openActive makes the last segment ready to be written, or makes the first.
func (l *Log) openActive(firstIndex uint64) error {
	if l.file != nil {
		return nil
	}
	if l.active() == nil {
		return l.create(firstIndex)
	}
	s := l.active()
	f, err := s.pin(l.o.FS)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		s.unpin()
		return err
	}
	l.file, l.allocated = f, size
	return nil
}

// create makes the file of a new active segment, empty. Its header is written with its first entry. Durable on return.
func (l *Log) create(firstIndex uint64) error {
	now := l.o.Now().UnixMilli()
	s := &seg{dir: l.o.Dir, segInfo: segInfo{
		baseOffset: l.nextOffset, firstIndex: firstIndex, prevTerm: l.lastTerm(), id: rand.Uint64(), created: now,
		nextOffset: l.nextOffset, nextIndex: firstIndex, maxTS: -1, maxTSOffset: -1,
	}}
	f, err := l.o.FS.OpenFile(s.logPath(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
		f.Close()
		return l.fail("sync the folder", err) // asked again it might say yes though the name is lost
	}
	s.file, s.refs = f, 1
	s.headerSize = int64(len(l.header(s)))
	l.file, l.allocated = f, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idx = indexWriter{lastPos: s.headerSize}
	l.segs = append(l.segs, s)
	l.synced = 0
	l.recent.clear()
	if l.persisted.boot == "" {
		l.persisted.boot = l.o.BootID // the header says it
	}
	return nil
}

func (l *Log) header(s *seg) []byte {
	return fileHeader{
		baseOffset: s.baseOffset, firstIndex: s.firstIndex, prevTerm: s.prevTerm, id: s.id, created: s.created,
		boot: l.o.BootID,
	}.append(nil)
}

// write puts the checked entries at the end of the active segment and publishes them.
func (l *Log) write(cfg Config, entries []NewEntry, total int64) error {
	s := l.active()
	at := s.size
	p := plans.Get().(*plan)
	defer p.release()
	p.own = p.own[:0]
	if at == 0 {
		l.mu.Lock()
		s.firstIndex, s.nextIndex = entries[0].Index, entries[0].Index
		s.headerSize = int64(len(l.header(s)))
		l.mu.Unlock()
		h := l.header(s)
		p.own = append(p.own, h...)
		p.bufs = append(p.bufs, p.own)
		total += int64(len(h))
	}
	offset := s.nextOffset
	for i := range entries {
		e := &entries[i]
		if e.Type == Batch {
			if !e.Stamped {
				stamp(e.Data, e.Term, offset)
			}
			offset += int64(record.Batch(e.Data).LastOffsetDelta()) + 1
			p.bufs = append(p.bufs, e.Data)
			continue
		}
		n := len(p.own)
		p.own = appendReserved(p.own, e.Type, e.Index, e.Term, offset, e.Data)
		p.bufs = append(p.bufs, p.own[n:]) // stays whole when own grows: the old array is kept
	}
	if err := l.reserve(cfg, at, total); err != nil {
		return err
	}
	for pos, bufs := at, p.bufs; len(bufs) > 0; {
		n, size := 1, int64(len(bufs[0]))
		for n < len(bufs) && (!cfg.Fsync || size+int64(len(bufs[n])) <= maxUnsynced) {
			size += int64(len(bufs[n]))
			n++
		}
		p.part = append(p.part[:0], bufs[:n]...)
		if _, err := vfs.WriteBuffers(l.file, p.part, pos); err != nil {
			return l.undo(at, err)
		}
		if cfg.Fsync {
			if err := l.o.Sync.Sync(Append{File: l.file, Pos: pos, Len: int(size)}); err != nil {
				return l.fail("sync", err)
			}
		}
		pos += size
		bufs = bufs[n:]
	}
	l.publish(cfg, s, entries, at+total)
	return nil
}

// reserve preallocates in chunks that grow with the segment, never beyond its size limit but for what is needed.
func (l *Log) reserve(cfg Config, at, n int64) error {
	need := at + n
	if need <= l.allocated {
		return nil
	}
	chunk := min(max(l.allocated, minChunk), maxChunk)
	if cfg.DiskTight {
		chunk = minChunk
	}
	to := max(min(l.allocated+chunk, cfg.SegmentBytes), need)
	err := l.file.Allocate(l.allocated, to-l.allocated)
	if err != nil && to > need { // a full disk may still hold this much
		to = need
		err = l.file.Allocate(l.allocated, to-l.allocated)
	}
	if err != nil {
		return l.undo(at, err)
	}
	l.allocated = to
	return nil
}

// undo takes back a write that failed: when the disk was full and the file is again as it was, the log stays usable.
func (l *Log) undo(at int64, err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return l.fail("write", err)
	}
	if terr := l.file.Truncate(at); terr != nil {
		return l.fail("write", errors.Join(err, terr))
	}
	if serr := l.file.Sync(); serr != nil {
		return l.fail("write", errors.Join(err, serr))
	}
	l.allocated = at
	return fmt.Errorf("segment: append: %w", err)
}
