package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"

	"github.com/balsa-broker/balsa/vfs"
)

// recoverSegment brings one segment file that the state file does not cover, or not to its end, into the picture. s
// is in l.segs already when covered. last: its end may be torn.
func (l *Log) recoverSegment(s *seg, covered, last bool) error {
	f, err := s.pin(l.o.FS)
	if err != nil {
		return err
	}
	defer s.unpin()
	size, err := f.Size()
	if err != nil {
		return err
	}
	// Asked before anything is read: what was read counts as data.
	t := &tail{f: f, size: max(vfs.DataEnd(f, s.size, size), min(s.size, size)), read: &l.rec.BytesRead}
	if covered && s.size == 0 { // it was empty when the state was written
		s.segInfo = segInfo{baseOffset: s.baseOffset, maxTS: -1, maxTSOffset: -1}
		l.segs = l.segs[:len(l.segs)-1]
		covered = false
	}
	h, err := t.header()
	switch {
	case err != nil && !covered && last:
		return l.recoverHeadless(s, t, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if h.boot == l.o.BootID && h.boot != "" {
		l.rec.SameBoot = true
		l.persisted.boot = h.boot
	}
	if covered {
		if h.id != s.id || size < s.size {
			return fmt.Errorf("%w: %d bytes of segment %x where %d of %x are known", ErrCorrupt, size, h.id, s.size, s.id)
		}
	} else if err := l.enter(s, h, t.headerSize); err != nil {
		return err
	}
	l.recent.clear()
	if err := l.replayIndex(s, f, size); err != nil {
		return err
	}
	return l.recoverTail(s, t, last)
}

// enter adds a segment with a sound header to the picture.
func (l *Log) enter(s *seg, h fileHeader, headerSize int64) error {
	if h.baseOffset != s.baseOffset {
		return fmt.Errorf("%w: the header says segment %d", ErrCorrupt, h.baseOffset)
	}
	if l.nextIndex != 0 && (h.firstIndex != l.nextIndex || h.baseOffset != l.nextOffset || h.prevTerm != l.lastTerm()) {
		return fmt.Errorf("%w: it begins with entry %d, offset %d after term %d; expected %d, %d, %d", ErrCorrupt,
			h.firstIndex, h.baseOffset, h.prevTerm, l.nextIndex, l.nextOffset, l.lastTerm())
	}
	if h.firstIndex == 0 {
		return fmt.Errorf("%w: it begins with entry 0", ErrCorrupt)
	}
	s.segInfo = segInfo{
		baseOffset: h.baseOffset, firstIndex: h.firstIndex, prevTerm: h.prevTerm, id: h.id, created: h.created,
		size: headerSize, headerSize: headerSize, nextOffset: h.baseOffset, nextIndex: h.firstIndex, maxTS: -1, maxTSOffset: -1,
	}
	if l.firstIndex == 0 {
		l.firstIndex, l.prevTerm = h.firstIndex, h.prevTerm
	}
	if len(l.segs) == 0 && l.startOffset < h.baseOffset {
		l.startOffset = h.baseOffset
	}
	l.nextIndex, l.nextOffset = h.firstIndex, h.baseOffset
	l.segs = append(l.segs, s)
	return nil
}

// recoverHeadless: the last file has no sound header, which is written together with the first entries. Nothing of
// it was ever durable, or there would be.
func (l *Log) recoverHeadless(s *seg, t *tail, cause error) error {
	if l.nextIndex != 0 && s.baseOffset != l.nextOffset {
		return fmt.Errorf("%w: %w", ErrCorrupt, cause)
	}
	if l.nextIndex == 0 && s.baseOffset != 0 && len(l.segs) == 0 && !l.persisted.valid {
		return fmt.Errorf("%w: %w", ErrCorrupt, cause) // not the first file of a log, and nothing before it
	}
	if known, err := l.indexedDurably(s); err != nil || known {
		return errors.Join(err, fmt.Errorf("%w: %w, though entries of it were durable", ErrCorrupt, cause))
	}
	used, err := t.used(0)
	if err != nil {
		return err
	}
	s.prevTerm, s.firstIndex, s.nextIndex = l.lastTerm(), l.nextIndex, l.nextIndex
	s.id, s.created = rand.Uint64(), l.o.Now().UnixMilli()
	s.nextOffset, s.maxTS, s.maxTSOffset = s.baseOffset, -1, -1
	c := cursor{s: s, index: l.nextIndex, offset: s.baseOffset, maxTS: -1}
	if used > 0 {
		if err := l.judge(t, c, cause); err != nil {
			return err
		}
		l.rec.TornBytes = used
		l.o.Logger.Info("cut a torn write", "path", s.logPath(), "position", 0, "bytes", used)
	}
	if fileSize, err := t.f.Size(); err != nil || fileSize > 0 {
		if err := t.f.Truncate(0); err != nil {
			return err
		}
	}
	if err := l.o.Sync.Sync(Append{File: t.f}); err != nil {
		return err
	}
	s.headerSize = int64(len(l.header(s)))
	l.segs = append(l.segs, s)
	l.recent.clear() // it holds the active segment's entries only
	l.idx = indexWriter{lastPos: s.headerSize}
	return nil
}

// indexedDurably says whether the index of s, whose header cannot be read, knows of durable entries.
func (l *Log) indexedDurably(s *seg) (bool, error) {
	f, err := l.o.FS.OpenFile(s.indexPath(), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := make([]byte, recSize)
	if n, _ := f.ReadAt(b, 0); n < recSize {
		return false, nil
	}
	id := binary.BigEndian.Uint64(b[12:])
	if string(b) != string(indexHeader(id)) {
		return false, nil
	}
	for i := 0; ; i++ {
		r, err := readRec(f, id, i)
		if err != nil {
			return false, nil
		}
		if r.kind == recDurable {
			return true, nil
		}
	}
}

// replayIndex takes from the index what was durable beyond the state file's word, and leaves l.idx ready to go on
// behind it. A record after the last of kind durable is thrown away: recoverTail finds it again.
func (l *Log) replayIndex(s *seg, f vfs.File, size int64) error {
	if l.idx.f != nil {
		_ = l.idx.f.Close()
	}
	l.idx = indexWriter{lastPos: s.size}
	from := s.indexRecs
	s.indexRecs = 0
	idx, n, err := loadIndex(l.o.FS, s, os.O_RDWR)
	if err != nil || idx == nil {
		return err
	}
	l.idx.f = idx
	var seen []indexRec // reserved frames since the last durable record
	kept, prev := 0, int64(0)
	if from <= n {
		kept = from
	} else {
		from = 0
	}
	buf := make([]byte, 0, 128*recSize)
	for i := from; i < n; i++ {
		if len(buf) == 0 {
			buf = buf[:min(128, n-i)*recSize]
			l.rec.BytesRead += int64(len(buf))
			if k, err := idx.ReadAt(buf, int64(i+1)*recSize); k < len(buf) {
				return fmt.Errorf("read index: %w", err)
			}
		}
		r, ok := parseRec(buf, s.id)
		buf = buf[recSize:]
		if len(buf) == 0 {
			buf = make([]byte, 0, 128*recSize)
		}
		if !ok || r.pos < prev || r.pos > size && r.kind != recDurable {
			break
		}
		prev = r.pos
		if r.kind == recDurable && r.pos > size {
			return fmt.Errorf("%w: %d bytes were durable, there are %d", ErrCorrupt, r.pos, size)
		}
		switch {
		case r.pos < s.size: // known already
			if r.kind == recDurable {
				kept = i + 1
			}
		case r.kind == recReserved:
			seen = append(seen, r)
		case r.kind == recDurable:
			kept = i + 1
			if err := l.replay(s, f, seen, r); err != nil {
				return err
			}
			seen = seen[:0]
		}
	}
	if kept == 0 {
		kept = from
	}
	l.idx.written, s.indexRecs = kept, kept
	l.idx.lastPos, l.idx.endPos, l.idx.markPos = s.size, s.size, s.size
	if kept == n && n > 0 {
		return nil
	}
	if kept == 0 { // nothing of use: flush makes it anew
		err = errors.Join(idx.Truncate(0), idx.Sync(), idx.Close())
		l.idx.f = nil
		return err
	}
	return errors.Join(idx.Truncate(int64(kept+1)*recSize), idx.Sync())
}

// replay adds the stretch up to a durable record to the picture, in which seen are the reserved frames.
func (l *Log) replay(s *seg, f vfs.File, seen []indexRec, end indexRec) error {
	if len(l.terms) == 0 && end.index > s.nextIndex { // no record says the term of a batch that comes first
		_, err := walk(f, s.end(), end.pos, false, func(h *head) bool {
			l.noteTerm(h.Term, h.Index, h.BaseOffset)
			return false
		})
		if err != nil {
			return fmt.Errorf("%w: first entry: %w", ErrCorrupt, err)
		}
	}
	for _, r := range seen {
		var payload []byte
		if r.typ == Configuration {
			_, err := walk(f, r.cursor(s), end.pos, true, func(h *head) bool {
				payload = h.own().Payload
				return false
			})
			if err != nil {
				return fmt.Errorf("%w: configuration at entry %d: %w", ErrCorrupt, r.index, err)
			}
		}
		l.noteReserved(r.index, r.typ, payload)
		l.noteTerm(r.term, r.index, r.offset)
	}
	if end.maxTS > s.maxTS {
		s.maxTS, s.maxTSOffset = end.maxTS, -1
	}
	s.size, s.nextIndex, s.nextOffset = end.pos, end.index, end.offset
	l.nextIndex, l.nextOffset = end.index, end.offset
	return nil
}

// recoverTail reads and checks all frames from s.size on, cuts a torn end, and makes the rest durable.
func (l *Log) recoverTail(s *seg, t *tail, last bool) error {
	interval := l.config().IndexIntervalBytes
	durable := s.size
	if durable <= s.headerSize {
		durable = 0
	}
	for s.size < t.size {
		c := s.end()
		e, err := t.frame(c, l.lastTerm())
		if errors.Is(err, errBadFrame) {
			if err := l.tailEnd(s, t, c, last, err); err != nil {
				return err
			}
			break
		}
		if err != nil {
			return err
		}
		l.note(s, e, c.pos, interval)
		if len(l.idx.pending) >= maxPending {
			l.flushIndexLogged(nil)
		}
	}
	if l.distrusted {
		if err := t.rewrite(durable, s.size); err != nil {
			return err
		}
	}
	if err := l.o.Sync.Sync(Append{File: t.f, Len: int(s.size)}); err != nil {
		l.distrust()
		l.o.Sync.dismiss(t.f)
		return fmt.Errorf("sync: %w", err)
	}
	if last && !l.markDue(s.size) {
		return nil
	}
	if s.size > l.idx.markPos {
		l.flushIndexLogged(l.mark())
	}
	if !last && l.idx.f != nil {
		err := errors.Join(l.idx.f.Sync(), l.idx.f.Close())
		l.idx.f = nil
		return err
	}
	return nil
}

// tailEnd decides what the bad frame at c is: the end, a torn write to be cut, or corruption.
func (l *Log) tailEnd(s *seg, t *tail, c cursor, last bool, cause error) error {
	used, err := t.used(c.pos)
	if err != nil || used == 0 {
		return err // only preallocated zeros
	}
	if !last {
		return fmt.Errorf("%w: %w", ErrCorrupt, cause)
	}
	if err := l.judge(t, c, cause); err != nil {
		return err
	}
	if err := t.f.Truncate(c.pos); err != nil {
		return err
	}
	l.rec.TornBytes = used
	l.o.Logger.Info("cut a torn write", "path", s.logPath(), "position", c.pos, "bytes", used, "cause", cause)
	return nil
}

// judge returns an error when the bad frame at c cannot be a torn write, because a sound frame stands behind it:
// while the machine ran through (same boot), always; after a power cut of a log that was written under Config.Fsync, when
// it stands further behind than one write leaves unsynced; without Fsync never, for pages reach the disk in any order.
func (l *Log) judge(t *tail, c cursor, cause error) error {
	if l.o.DurableIndex >= max(c.index, 1) {
		return fmt.Errorf("%w: %w, and entries up to %d were durable", ErrCorrupt, cause, l.o.DurableIndex)
	}
	from := c.pos + 1
	switch {
	case l.rec.SameBoot:
	case !l.rec.Unsynced:
		from = c.pos + maxUnsynced
	default:
		return nil
	}
	at, err := t.search(from, c, l.lastTerm())
	if err != nil {
		return err
	}
	if at >= 0 {
		return fmt.Errorf("%w: %w, and a sound frame behind it at position %d", ErrCorrupt, cause, at)
	}
	return nil
}
