package segment

import (
	"math"

	"github.com/balsa-broker/balsa/protocol/record"
)

// publish shows the written entries to readers and indexes them.
func (l *Log) publish(cfg Config, s *seg, entries []NewEntry, end int64) {
	l.mu.Lock()
	pos, now := s.size, l.o.Now()
	if !cfg.Fsync && l.synced >= pos {
		l.flushed = now
	}
	if pos == 0 {
		pos = s.headerSize
	}
	if l.firstIndex == 0 {
		l.firstIndex = entries[0].Index
	}
	begin := pos
	for i := range entries {
		e := &entries[i]
		f := Entry{Index: e.Index, Term: e.Term, Type: e.Type, BaseOffset: s.nextOffset, NextOffset: s.nextOffset}
		if e.Type == Batch {
			f.Header = e.Data[:record.HeaderSize]
			f.NextOffset += int64(record.Batch(e.Data).LastOffsetDelta()) + 1
			f.Size = len(e.Data)
			if s.firstAppend.IsZero() && s.nextOffset == s.baseOffset {
				s.firstAppend = now
			}
		} else {
			f.Payload = e.Data
			f.Size = reservedSize + len(e.Data)
		}
		l.note(s, f, pos, cfg.IndexIntervalBytes)
		pos += int64(f.Size)
	}
	if cfg.Fsync {
		l.synced = end
	}
	s.checked.add(begin, s.size, now)
	unsynced := end - l.synced
	pending := len(l.idx.pending)
	l.mu.Unlock()
	switch {
	case unsynced == 0 && l.markDue(end):
		l.flushIndexLogged(l.mark())
	case pending >= maxPending:
		l.flushIndexLogged(nil)
	}
	if unsynced >= flushBytes && !l.flushing {
		l.flushing = true
		go l.flushBackground()
	} else if unsynced > 0 {
		l.o.Sync.later(l)
	}
}

// note adds one entry, which stands at pos, to the picture in memory. mu is held; also used by recovery.
func (l *Log) note(s *seg, e Entry, pos int64, interval int) {
	r := l.recent.push(e.Index)
	r.pos, r.baseOffset, r.nextOffset, r.maxTS = pos, e.BaseOffset, e.NextOffset, s.maxTS
	r.term, r.size, r.typ = e.Term, int32(e.Size), e.Type
	if e.Type == Batch {
		copy(r.header[:], e.Header)
		if pos-l.idx.lastPos >= int64(interval) {
			l.addRec(indexRec{pos: pos, index: e.Index, offset: e.BaseOffset, maxTS: s.maxTS, term: e.Term, kind: recSparse})
		}
		if ts := record.Batch(e.Header).MaxTimestamp(); ts > s.maxTS {
			s.maxTS, s.maxTSOffset = ts, e.BaseOffset
		}
	} else {
		l.addRec(indexRec{
			pos: pos, index: e.Index, offset: e.BaseOffset, maxTS: s.maxTS, term: e.Term, kind: recReserved, typ: e.Type,
		})
		l.noteReserved(e.Index, e.Type, e.Payload)
	}
	l.noteTerm(e.Term, e.Index, e.BaseOffset)
	s.size = pos + int64(e.Size)
	s.nextIndex, s.nextOffset = e.Index+1, e.NextOffset
	l.nextIndex, l.nextOffset = s.nextIndex, s.nextOffset
}

func (l *Log) addRec(r indexRec) {
	l.idx.pending = append(l.idx.pending, r)
	l.idx.lastPos = r.pos
}

func (l *Log) noteTerm(term, index uint64, offset int64) {
	if n := len(l.terms); n == 0 || l.terms[n-1].term != term {
		l.terms = append(l.terms, termStart{term: term, index: index, offset: offset})
	}
}

func (l *Log) noteReserved(index uint64, t Type, payload []byte) {
	if n := len(l.runs); n > 0 && l.runs[n-1].typ == t && l.runs[n-1].first+uint64(l.runs[n-1].n) == index &&
		l.runs[n-1].n < math.MaxUint32 {
		l.runs[n-1].n++
	} else {
		l.runs = append(l.runs, run{first: index, n: 1, typ: t})
	}
	if t == Configuration {
		l.configs = append(l.configs, configEntry{index: index, payload: append([]byte{}, payload...)})
	}
}

// mark is a record that says all up to the end is durable.
func (l *Log) mark() *indexRec {
	e := l.active().end()
	return &indexRec{pos: e.pos, index: e.index, offset: e.offset, maxTS: e.maxTS, term: l.lastTerm(), kind: recDurable}
}

// flushIndexLogged: an index that cannot be written costs time at the next start, not data.
func (l *Log) flushIndexLogged(d *indexRec) {
	if err := l.flushIndex(d); err != nil {
		l.o.Logger.Warn("index not written", "dir", l.o.Dir, "error", err)
	}
}
