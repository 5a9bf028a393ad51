package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// TruncateSuffix removes the entries from index first on; durable on return (safety rule 9). A first below FirstIndex
// removes every entry.
//
// The order makes a crash harmless: the state file forgets what goes, then the segments behind go, the newest first,
// then the index is cut, then the log. Entries that reappear after a crash in the midst were never said to be gone.
// Ranges handed out before may then hold other entries: whoever reads beyond the high watermark checks epoch, offset
// and CRC of what it got.
func (l *Log) TruncateSuffix(first uint64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if l.nextIndex == 0 || first >= l.nextIndex {
		return nil
	}
	first = max(first, l.firstIndex)
	c, err := l.locateIndex(first)
	if err != nil {
		return fmt.Errorf("segment: truncate at %d: %w", first, err)
	}
	if c.s == l.active() && l.synced < c.pos { // the state file speaks of what is durable only
		if err := l.syncActive(); err != nil {
			return err
		}
	}
	start := l.startOffset
	behind := l.forget(c)
	if l.persisted.clean || l.startOffset != start || l.persisted.valid && l.persisted.next > first {
		st := l.stateAt(c, 0)
		st.segs[len(st.segs)-1].indexRecs = 0 // the index is cut later: it is to be looked through
		if err := l.writeState(st); err != nil {
			return l.fail("truncate", err)
		}
	}
	if len(behind) > 0 {
		l.closeActive(behind[len(behind)-1])
		for _, b := range slices.Backward(behind) {
			if err := l.remove(b); err != nil {
				return l.fail("truncate", err)
			}
		}
		if err := l.reopenIndex(c.s); err != nil {
			return l.fail("truncate", err)
		}
	}
	if err := l.cutIndex(c.pos); err != nil {
		return l.fail("truncate index", err)
	}
	l.idx.lastPos = c.pos
	if err := l.openActive(first); err != nil {
		return l.fail("truncate", err)
	}
	if err := l.file.Truncate(c.pos); err != nil {
		return l.fail("truncate", err)
	}
	l.allocated = c.pos
	if err := l.o.Sync.Sync(Append{File: l.file, Pos: c.pos}); err != nil {
		return l.fail("truncate: sync", err)
	}
	l.mu.Lock()
	l.synced = c.pos
	l.mu.Unlock()
	return nil
}

// forget takes the entries from c on out of the picture and returns the segments behind c's, in order.
func (l *Log) forget(c cursor) (behind []*seg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	l.hints.clear()
	for i, s := range l.segs {
		if s == c.s {
			behind = append(behind, l.segs[i+1:]...)
			clear(l.segs[i+1:])
			l.segs = l.segs[:i+1]
			break
		}
	}
	if len(behind) > 0 {
		l.recent.clear()
	} else {
		l.recent.cut(c.index)
	}
	s := c.s
	s.size, s.nextIndex, s.nextOffset = c.pos, c.index, c.offset
	if s.maxTS != c.maxTS || s.maxTSOffset >= c.offset {
		s.maxTS, s.maxTSOffset = c.maxTS, -1
	}
	l.nextIndex, l.nextOffset = c.index, c.offset
	l.startOffset = min(l.startOffset, c.offset)
	for n := len(l.terms); n > 0 && l.terms[n-1].index >= c.index; n-- {
		l.terms = l.terms[:n-1]
	}
	for n := len(l.runs); n > 0 && l.runs[n-1].first+uint64(l.runs[n-1].n) > c.index; n-- {
		if r := &l.runs[n-1]; r.first < c.index {
			r.n = uint32(c.index - r.first)
			break
		}
		l.runs = l.runs[:n-1]
	}
	for n := len(l.configs); n > 0 && l.configs[n-1].index >= c.index; n-- {
		l.configs = l.configs[:n-1]
	}
	return behind
}

// closeActive lets go of the files of s, which was the active segment.
func (l *Log) closeActive(s *seg) {
	if l.idx.f != nil {
		_ = l.idx.f.Close()
	}
	l.idx = indexWriter{}
	if l.file != nil {
		s.unpin()
		l.file = nil
	}
}

// reopenIndex makes s's index the one that is written.
func (l *Log) reopenIndex(s *seg) error {
	f, n, err := loadIndex(l.o.FS, s, os.O_RDWR)
	if err != nil {
		return err
	}
	if f != nil && n == 0 {
		f.Close()
		f = nil
	}
	l.mu.Lock()
	l.idx = indexWriter{f: f, written: n, lastPos: s.headerSize, endPos: s.size, markPos: s.size}
	s.indexRecs = n
	l.mu.Unlock()
	return nil
}

// remove deletes a segment's files; durable on return.
func (l *Log) remove(s *seg) error {
	s.setGone()
	if err := l.o.FS.Remove(s.indexPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.o.FS.Remove(s.logPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return l.o.FS.SyncDir(l.o.Dir)
}

// AdvanceStart moves the log start to offset (retention, DeleteRecords): whole closed segments below it are deleted,
// and FirstIndex moves to the first kept segment's. The active segment always stays; Roll comes before when it should
// not. The new start is durable on return; the files go after Config.FileDeleteDelay.
func (l *Log) AdvanceStart(offset int64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if offset > l.nextOffset {
		return fmt.Errorf("%w: log start %d beyond the end %d", ErrNotFound, offset, l.nextOffset)
	}
	if offset <= l.startOffset {
		return nil
	}
	n := 0
	for n < len(l.segs)-1 && l.segs[n].nextOffset <= offset {
		n++
	}
	gone := append([]*seg(nil), l.segs[:n]...)
	before := l.startOffset
	l.mu.Lock()
	l.startOffset = offset
	if n > 0 {
		l.dropHead(n)
	}
	l.mu.Unlock()
	if err := l.writeState(l.stateAt(l.durableEnd(), 0)); err != nil {
		if n == 0 {
			l.mu.Lock()
			l.startOffset = before
			l.mu.Unlock()
			return err
		}
		return l.fail("move log start", err)
	}
	delay := l.config().FileDeleteDelay
	for _, s := range gone {
		s.setGone()
		if err := l.retire(s, delay); err != nil { // the next Open finds and deletes what stayed
			l.o.Logger.Warn("segment not deleted", "path", s.logPath(), "error", err)
		}
	}
	return nil
}

// dropHead takes the first n segments out of the picture. mu is held.
func (l *Log) dropHead(n int) {
	first := l.segs[n]
	l.firstIndex, l.prevTerm = first.firstIndex, first.prevTerm
	l.segs = append([]*seg(nil), l.segs[n:]...)
	k := 0
	for k < len(l.terms)-1 && l.terms[k+1].index <= l.firstIndex {
		k++
	}
	l.terms = append([]termStart(nil), l.terms[k:]...)
	k = 0
	for k < len(l.runs) && l.runs[k].first+uint64(l.runs[k].n) <= l.firstIndex {
		k++
	}
	l.runs = append([]run(nil), l.runs[k:]...)
	k = 0 // the last configuration below the first entry stays
	for k < len(l.configs)-1 && l.configs[k+1].index < l.firstIndex {
		k++
	}
	l.configs = append([]configEntry(nil), l.configs[k:]...)
}

// retire renames a segment's files, so that a look into the folder shows what is part of the log, and removes them
// after the delay. Nothing here needs to be durable: files before the first segment of the state file are leftovers.
func (l *Log) retire(s *seg, delay time.Duration) error {
	fsys := l.o.FS
	var names []string
	for _, name := range []string{s.indexPath(), s.logPath()} {
		err := fsys.Rename(name, name+deletedSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		names = append(names, name+deletedSuffix)
	}
	del := func() {
		for _, name := range names {
			_ = fsys.Remove(name) // Open removes what stays
		}
	}
	if delay <= 0 {
		del()
	} else {
		time.AfterFunc(delay, del)
	}
	return nil
}

// Reset empties the log durably (a mark first, so that a crash finishes it), the next entry to be index next with
// Kafka offset offset, following an entry of term prevTerm (safety rule 6, and the start of an empty replica from a
// checkpoint).
func (l *Log) Reset(next uint64, offset int64, prevTerm uint64) error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if next == 0 || offset < 0 {
		return fmt.Errorf("%w: reset to index %d, offset %d", ErrInvalid, next, offset)
	}
	st := &state{
		flags: stateResetting, startOffset: offset, firstIndex: next, prevTerm: prevTerm, nextIndex: next,
		nextOffset: offset, lastTerm: prevTerm, boot: l.o.BootID,
	}
	if err := l.writeState(st); err != nil {
		return l.fail("reset", err)
	}
	if s := l.active(); s != nil {
		l.closeActive(s)
	}
	l.mu.Lock()
	for _, s := range l.segs {
		s.setGone()
	}
	l.segs, l.terms, l.runs, l.configs = nil, nil, nil, nil
	l.firstIndex, l.prevTerm, l.nextIndex, l.nextOffset, l.startOffset = next, prevTerm, next, offset, offset
	l.synced, l.allocated, l.idx = 0, 0, indexWriter{}
	l.generation++
	l.recent.clear()
	l.hints.clear()
	l.mu.Unlock()
	if err := l.finishReset(st); err != nil {
		return l.fail("reset", err)
	}
	l.failed = nil // its files are gone
	return nil
}

// finishReset deletes every segment file and then takes the mark of st away.
func (l *Log) finishReset(st *state) error {
	names, err := l.o.FS.ReadDir(l.o.Dir)
	if err != nil {
		return err
	}
	for _, d := range names {
		if n := d.Name(); strings.HasSuffix(n, logSuffix) || strings.HasSuffix(n, indexSuffix) {
			if err := l.o.FS.Remove(filepath.Join(l.o.Dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
		return err
	}
	st.flags &^= stateResetting
	return l.writeState(st)
}
