package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Open recovers the log in o.Dir, or makes an empty one. On return all that the log holds is durable (safety rule 8).
//
// After Close it reads the state file alone. Otherwise what the state file covers is taken as it is, of the segment
// that goes on beyond it the index says what more was synced, and only the rest is read and checked, CRCs too. The
// end of the last segment may be torn and is cut there; anything else that does not check is ErrCorrupt (rule 12).
func Open(o Options) (*Log, error) {
	o = o.withDefaults()
	l := &Log{o: o}
	if err := l.open(); err != nil {
		if l.idx.f != nil {
			_ = l.idx.f.Close()
		}
		return nil, fmt.Errorf("segment: open %s: %w", o.Dir, err)
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.makeDir(); err != nil {
		return err
	}
	st, err := l.loadState()
	if err != nil {
		// What it said can be read from the segments, but for the log start, which the caller has in a checkpoint.
		l.o.Logger.Error("state file is damaged; reading all segments", "dir", l.o.Dir, "error", err)
		st = nil
	}
	if st != nil && st.flags&stateResetting != 0 {
		if err := l.finishReset(st); err != nil {
			return err
		}
	}
	bases, err := l.listFiles(st)
	if err != nil {
		return err
	}
	l.rec.Unsynced = !l.config().Fsync // to be believed when the state file is lost only: without Fsync there is one
	if st != nil {
		l.adopt(st)
		l.rec.Unsynced = l.persisted.unsynced
	}
	switch _, err := l.o.FS.Stat(l.distrustPath()); {
	case err == nil:
		l.distrusted = true
		l.o.Logger.Warn("the log failed before: what is not known durable is written again", "dir", l.o.Dir)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := l.recoverSegments(st, bases); err != nil {
		return err
	}
	if l.distrusted {
		if err := l.o.FS.Remove(l.distrustPath()); err != nil {
			return err
		}
		l.distrusted = false
	}
	if !l.rec.Clean { // a process that was killed may have made files whose names are not durable
		if err := l.o.FS.SyncDir(l.o.Dir); err != nil {
			return fmt.Errorf("sync the folder: %w", err)
		}
		if st == nil { // nor the folder's own, perhaps
			if err := l.o.FS.SyncDir(filepath.Dir(l.o.Dir)); err != nil {
				return fmt.Errorf("sync the folder above: %w", err)
			}
		}
	}
	l.startOffset = min(l.startOffset, l.nextOffset) // what it named may be lost without Config.Fsync
	if last := l.lastIndex(); l.o.DurableIndex > last {
		return fmt.Errorf("%w: entries up to %d were durable, the log ends at %d", ErrCorrupt, l.o.DurableIndex, last)
	}
	return nil
}

func (l *Log) makeDir() error {
	_, err := l.o.FS.Stat(l.o.Dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := l.o.FS.MkdirAll(l.o.Dir, 0o755); err != nil {
		return err
	}
	return l.o.FS.SyncDir(filepath.Dir(l.o.Dir))
}

// listFiles returns the base offsets of the segment files in order, and deletes leftovers: deleted segments, temporary
// files, and what stands before the first segment of the state file.
func (l *Log) listFiles(st *state) ([]int64, error) {
	entries, err := l.o.FS.ReadDir(l.o.Dir)
	if err != nil {
		return nil, err
	}
	var bases []int64
	var indexes []int64
	drop := func(name string) {
		if err := l.o.FS.Remove(filepath.Join(l.o.Dir, name)); err != nil {
			l.o.Logger.Warn("leftover not deleted", "dir", l.o.Dir, "name", name, "error", err)
		}
	}
	before := int64(-1)
	if st != nil && len(st.segs) > 0 {
		before = st.segs[0].baseOffset
	} else if st != nil {
		before = st.nextOffset
	}
	for _, d := range entries {
		name := d.Name()
		ext := filepath.Ext(name)
		if ext == deletedSuffix || ext == ".tmp" && (strings.HasPrefix(name, "state") || strings.Contains(name, indexSuffix)) {
			drop(name)
			continue
		}
		if ext != logSuffix && ext != indexSuffix {
			continue
		}
		base, err := strconv.ParseInt(strings.TrimSuffix(name, ext), 10, 64)
		if err != nil || name != segmentName(base)+ext {
			return nil, fmt.Errorf("%w: a file named %s", ErrCorrupt, name)
		}
		switch {
		case base < before:
			drop(name)
		case ext == logSuffix:
			bases = append(bases, base)
		default:
			indexes = append(indexes, base)
		}
	}
	slices.Sort(bases)
	for _, b := range indexes {
		if i := sort.Search(len(bases), func(i int) bool { return bases[i] >= b }); i == len(bases) || bases[i] != b {
			drop(segmentName(b) + indexSuffix)
		}
	}
	return bases, nil
}

// adopt takes the picture of the state file.
func (l *Log) adopt(st *state) {
	l.startOffset, l.firstIndex, l.prevTerm = st.startOffset, st.firstIndex, st.prevTerm
	l.nextIndex, l.nextOffset = st.nextIndex, st.nextOffset
	l.terms, l.runs, l.configs = st.terms, st.runs, st.configs
	l.persisted = persisted{valid: true, next: st.nextIndex, unsynced: st.flags&stateUnsynced != 0, boot: st.boot}
	l.rec.SameBoot = st.boot == l.o.BootID && st.boot != ""
}

// recoverSegments goes through the files in order: those that the state covers, the one that it covers in part, and
// those behind.
func (l *Log) recoverSegments(st *state, bases []int64) error {
	covered := 0
	if st != nil {
		covered = len(st.segs)
		if len(bases) < covered {
			return fmt.Errorf("%w: %d segment files, %d are known", ErrCorrupt, len(bases), covered)
		}
		for i, info := range st.segs {
			if bases[i] != info.baseOffset {
				return fmt.Errorf("%w: segment %d is missing", ErrCorrupt, info.baseOffset)
			}
			l.segs = append(l.segs, &seg{segInfo: info, dir: l.o.Dir})
		}
		if st.flags&stateClean != 0 && len(bases) == covered {
			if done, err := l.openClean(); done || err != nil {
				return err
			}
		}
	}
	for i := 0; i < covered-1; i++ {
		fi, err := l.o.FS.Stat(l.segs[i].logPath())
		if err != nil {
			return err
		}
		if fi.Size() < l.segs[i].size {
			return fmt.Errorf("%w: segment %d has %d bytes of %d", ErrCorrupt, l.segs[i].baseOffset, fi.Size(), l.segs[i].size)
		}
	}
	for i := max(covered-1, 0); i < len(bases); i++ {
		last := i == len(bases)-1
		var s *seg
		if i < covered {
			s = l.segs[i]
		} else {
			s = &seg{dir: l.o.Dir, segInfo: segInfo{baseOffset: bases[i], maxTS: -1, maxTSOffset: -1}}
		}
		if err := l.recoverSegment(s, i < covered, last); err != nil {
			return fmt.Errorf("segment %d: %w", s.baseOffset, err)
		}
	}
	l.synced = 0
	if s := l.active(); s != nil {
		l.synced = s.size
	}
	return nil
}

// openClean takes the state file's word when the last file is as Close left it.
func (l *Log) openClean() (done bool, err error) {
	if s := l.active(); s != nil {
		fi, err := l.o.FS.Stat(s.logPath())
		if err != nil {
			return false, err
		}
		if fi.Size() != s.size {
			if fi.Size() < s.size {
				return false, fmt.Errorf("%w: segment %d has %d bytes of %d", ErrCorrupt, s.baseOffset, fi.Size(), s.size)
			}
			l.o.Logger.Warn("segment has changed since the log was closed", "path", s.logPath())
			return false, nil
		}
		l.idx = indexWriter{written: s.indexRecs, lastPos: s.size, endPos: s.size, markPos: s.size}
		l.synced = s.size
	}
	l.persisted.clean = true
	l.rec.Clean = true
	return true, nil
}
