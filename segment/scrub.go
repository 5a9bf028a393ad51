package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/balsa-broker/balsa/vfs"
)

// scrubStep is how much is read between two calls of Scrub's pace, a frame more or less.
const scrubStep = 256 << 10

// Scrub reads the whole log as it is now and checks every byte of it: headers, frames, and the records of the indexes of
// closed segments, which it writes anew where they do not check. pace is called after each step with the number of bytes
// read; its error ends the scrub. It returns ErrCorrupt when the log is damaged. Reads and appends go on meanwhile; the
// files are opened apart, and the system is told that their pages are not worth keeping for this.
func (l *Log) Scrub(pace func(bytes int) error) error {
	l.mu.RLock()
	segs := append([]*seg(nil), l.segs...)
	l.mu.RUnlock()
	for _, s := range segs {
		var from *cursor // where the last step ended: a truncation repeats no more than a step
		for done := false; !done; {
			read := 0
			err := l.settled(func(uint64) (err error) {
				from, read, done, err = l.scrubFrom(s, from)
				return err
			})
			if errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
				break // deleted or cut meanwhile
			}
			if err != nil {
				return err
			}
			if err := pace(read); err != nil {
				return err
			}
		}
		if err := l.scrubIndex(s, pace); err != nil {
			return err
		}
	}
	return nil
}

// scrubFrom checks the next step of a segment; from nil: its header and the first.
func (l *Log) scrubFrom(s *seg, from *cursor) (to *cursor, read int, done bool, err error) {
	f, err := l.o.FS.OpenFile(s.logPath(), os.O_RDONLY, 0)
	if err != nil {
		return from, 0, false, err
	}
	defer f.Close()
	vfs.NoReuse(f)
	l.mu.RLock()
	begin, end, id, prevTerm := s.begin(), s.end(), s.id, s.prevTerm
	l.mu.RUnlock()
	if end.pos <= begin.pos {
		return from, 0, true, nil // nothing was written yet
	}
	c := begin
	if from != nil {
		c = *from
	} else {
		t := &tail{f: f, size: begin.pos, read: new(int64)}
		switch h, err := t.header(); {
		case err != nil && isIO(err):
			return from, 0, false, err
		case err != nil:
			return from, 0, false, fmt.Errorf("%w: segment %d: %w", errBadFrame, s.baseOffset, err)
		case h.id != id || h.baseOffset != s.baseOffset || h.firstIndex != begin.index || h.prevTerm != prevTerm:
			return from, 0, false, fmt.Errorf("%w: segment %d: the header is another's", errBadFrame, s.baseOffset)
		}
	}
	if c.pos > end.pos {
		return from, 0, true, nil // cut meanwhile: what came since was written by this process
	}
	now := l.o.Now()
	next, err := l.checkFrames(f, c, end, scrubStep)
	if err != nil {
		return from, 0, false, err
	}
	s.checked.add(c.pos, next.pos, now)
	return &next, int(next.pos - c.pos), next.pos >= end.pos, nil
}

// isIO: the file could not be read, which says nothing about its bytes.
func isIO(err error) bool {
	_, ok := errors.AsType[*fs.PathError](err)
	return ok
}

// scrubIndex checks the records of a closed segment's index.
func (l *Log) scrubIndex(s *seg, pace func(int) error) error {
	l.mu.RLock()
	closed, recs, id := s != l.active(), s.indexRecs, s.id
	l.mu.RUnlock()
	if !closed || recs == 0 {
		return nil
	}
	err := func() error {
		f, n, err := loadIndex(l.o.FS, s, os.O_RDONLY)
		if err != nil {
			return err
		}
		if f == nil {
			return fmt.Errorf("%w: it is gone", ErrCorrupt)
		}
		defer f.Close()
		vfs.NoReuse(f)
		if n < recs {
			return fmt.Errorf("%w: %d records of %d", ErrCorrupt, n, recs)
		}
		before := indexRec{}
		for i := range recs {
			r, err := readRec(f, id, i)
			if err != nil {
				return err
			}
			if r.pos < before.pos || r.index < before.index || r.offset < before.offset {
				return fmt.Errorf("%w: record %d is out of order", ErrCorrupt, i)
			}
			before = r
		}
		return nil
	}()
	if err != nil {
		s.mu.Lock()
		gone := s.gone
		s.mu.Unlock()
		if gone {
			return nil
		}
		l.o.Logger.Warn("index is damaged", "path", s.indexPath(), "error", err)
		if err := l.rebuildIndex(s); err != nil && !errors.Is(err, ErrNotFound) {
			l.o.Logger.Warn("index not rebuilt", "path", s.indexPath(), "error", err)
		}
	}
	return pace(recs * recSize)
}
