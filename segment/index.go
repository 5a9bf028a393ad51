package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"github.com/balsa-broker/balsa/vfs"
)

// The index file `<base offset>.index` beside a segment holds records in the order of positions, each naming a frame
// boundary of the segment. It is a hint for reads and a record of what is durable for recovery; with its log file at
// hand it can be thrown away. It starts with 48 bytes of header:
//
//	offset size field
//	     0    8 "BALSAIDX"
//	     8    4 format version = 1
//	    12    8 id of the segment, from its header
//	    20   24 zeros
//	    44    4 CRC-32C of the 44 bytes before
//
// followed by records of 48 bytes:
//
//	 0    8 position of a frame in the log file (or of the end)
//	 8    8 Raft index of that frame
//	16    8 offset of the next record at that place
//	24    8 largest timestamp of the batches before, in this segment; -1: none
//	32    8 term of the frame; of kind durable: of the frame before
//	40    1 kind: 1 a frame now and then, 2 a reserved frame (every one has a record), 3 all before is durable
//	41    1 type of the frame, for kind 2
//	42    2 zeros
//	44    4 CRC-32C of the segment id and the 44 bytes before
//
// A record of kind durable is written only after the log was synced up to its position, and truncation cuts the index
// durably before it cuts the log, so such a record is never wrong, only possibly lost.
const (
	indexMagic   = "BALSAIDX"
	indexVersion = 1
	recSize      = 48

	// flushRecords is how many records wait in memory before they are written with a record of kind durable.
	flushRecords = 32
	// maxPending bounds the records in memory when durability is long in coming (background flush).
	maxPending = 1024
	// markBytes is after how many durable bytes a record of kind durable is written even without others: what a start
	// after a kill has to read again.
	markBytes = 1 << 20
)

type recKind uint8

const (
	recSparse recKind = iota + 1
	recReserved
	recDurable
)

type indexRec struct {
	pos    int64
	index  uint64
	offset int64
	maxTS  int64
	term   uint64
	kind   recKind
	typ    Type
}

func (r indexRec) put(b []byte, id uint64) {
	binary.BigEndian.PutUint64(b[0:], uint64(r.pos))
	binary.BigEndian.PutUint64(b[8:], r.index)
	binary.BigEndian.PutUint64(b[16:], uint64(r.offset))
	binary.BigEndian.PutUint64(b[24:], uint64(r.maxTS))
	binary.BigEndian.PutUint64(b[32:], r.term)
	b[40], b[41], b[42], b[43] = byte(r.kind), byte(r.typ), 0, 0
	binary.BigEndian.PutUint32(b[44:], recCRC(b, id))
}

// recCRC starts from the segment's id, so that records of an older file with the same name never check.
func recCRC(b []byte, id uint64) uint32 {
	return crc32.Update(uint32(id)^uint32(id>>32), castagnoli, b[:44])
}

func parseRec(b []byte, id uint64) (indexRec, bool) {
	r := indexRec{
		pos:    int64(binary.BigEndian.Uint64(b[0:])),
		index:  binary.BigEndian.Uint64(b[8:]),
		offset: int64(binary.BigEndian.Uint64(b[16:])),
		maxTS:  int64(binary.BigEndian.Uint64(b[24:])),
		term:   binary.BigEndian.Uint64(b[32:]),
		kind:   recKind(b[40]),
		typ:    Type(b[41]),
	}
	ok := recCRC(b, id) == binary.BigEndian.Uint32(b[44:]) &&
		r.kind >= recSparse && r.kind <= recDurable && r.pos > 0
	return r, ok
}

func indexHeader(id uint64) []byte {
	b := make([]byte, recSize)
	copy(b, indexMagic)
	binary.BigEndian.PutUint32(b[8:], indexVersion)
	binary.BigEndian.PutUint64(b[12:], id)
	binary.BigEndian.PutUint32(b[44:], crc32.Checksum(b[:44], castagnoli))
	return b
}

// indexWriter is the writer's side of the active segment's index. Its fields are written under the log's mu by the
// writer; readers take `written` and `pending` under it.
type indexWriter struct {
	f       vfs.File // nil until the first record is written
	written int      // records in the file
	pending []indexRec
	lastPos int64 // position of the last record, or of the first frame
	endPos  int64 // position of the last record in the file
	markPos int64 // position of the last record of kind durable in the file
	tail    bool  // a failed write may have left records beyond written
}

// flush writes the pending records, and after them that all before d.pos is durable. Records beyond d stay. d nil:
// everything is written without a promise. An index is advisory: the error is for the log only. wmu is held.
func (l *Log) flushIndex(d *indexRec) error {
	w, s := &l.idx, l.active()
	n := len(w.pending)
	if d != nil && d.pos < w.endPos {
		d, n = nil, 0 // records beyond it were written without a promise; the next one will do
	}
	if d != nil {
		for n > 0 && w.pending[n-1].pos >= d.pos {
			n--
		}
	}
	if n == 0 && d == nil {
		return nil
	}
	if w.f == nil {
		f, err := l.o.FS.OpenFile(s.indexPath(), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		if w.written == 0 {
			if err = f.Truncate(0); err == nil {
				_, err = f.WriteAt(indexHeader(s.id), 0)
			}
			if err != nil {
				f.Close()
				return err
			}
		}
		w.f = f
	}
	buf := make([]byte, (n+1)*recSize)
	for i, r := range w.pending[:n] {
		r.put(buf[i*recSize:], s.id)
	}
	k := n
	if d != nil {
		d.kind = recDurable
		d.put(buf[n*recSize:], s.id)
		k++
	}
	if _, err := w.f.WriteAt(buf[:k*recSize], int64(w.written+1)*recSize); err != nil {
		w.tail = true
		return err
	}
	if n > 0 {
		w.endPos = w.pending[n-1].pos
	}
	if d != nil {
		w.endPos, w.markPos = d.pos, d.pos
	}
	l.mu.Lock()
	w.written += k
	w.pending = append(w.pending[:0], w.pending[n:]...)
	s.indexRecs = w.written
	l.mu.Unlock()
	return nil
}

// markDue says whether the durable end at pos is worth a record.
func (l *Log) markDue(pos int64) bool {
	return len(l.idx.pending) >= flushRecords || pos-l.idx.markPos >= markBytes
}

// cutIndex removes the records beyond pos, durably when any of them was written. wmu is held.
func (l *Log) cutIndex(pos int64) error {
	w, s := &l.idx, l.active()
	l.mu.Lock()
	for n := len(w.pending); n > 0 && w.pending[n-1].pos >= pos; n-- {
		w.pending = w.pending[:n-1]
	}
	l.mu.Unlock()
	keep, err := s.findRec(l.o.FS, func(r indexRec) bool { return r.pos < pos || r.pos == pos && r.kind == recDurable })
	if err != nil { // an index that cannot be read cannot be trusted to be cut either
		keep = -1
	}
	keep++ // their number
	w.endPos, w.markPos = min(w.endPos, pos), min(w.markPos, pos)
	if keep == w.written && !w.tail {
		return nil
	}
	if w.f == nil {
		if w.f, err = l.o.FS.OpenFile(s.indexPath(), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
			return err
		}
	}
	if keep == 0 {
		if _, err = w.f.WriteAt(indexHeader(s.id), 0); err != nil {
			return err
		}
	}
	l.mu.Lock()
	w.written, s.indexRecs = keep, keep
	l.mu.Unlock()
	if err := w.f.Truncate(int64(keep+1) * recSize); err != nil {
		return err
	}
	if err := w.f.Sync(); err != nil {
		return err
	}
	w.tail = false
	return nil
}

// readRec reads record i of an index file.
func readRec(f vfs.File, id uint64, i int) (indexRec, error) {
	var b [recSize]byte
	if n, err := f.ReadAt(b[:], int64(i+1)*recSize); n < recSize {
		return indexRec{}, fmt.Errorf("index record %d: %w", i, err)
	}
	r, ok := parseRec(b[:], id)
	if !ok {
		return indexRec{}, fmt.Errorf("%w: index record %d", ErrCorrupt, i)
	}
	return r, nil
}

// findRec returns the number of the last record in the file for which before is true, -1 when there is none. before
// must be true up to some record and false after it.
func (s *seg) findRec(fsys vfs.FS, before func(indexRec) bool) (int, error) {
	n := s.indexRecs
	if n == 0 {
		return -1, nil
	}
	f, err := fsys.OpenFile(s.indexPath(), os.O_RDONLY, 0)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	i, _, err := searchRecs(f, s.id, n, before)
	return i, err
}

func searchRecs(f vfs.File, id uint64, n int, before func(indexRec) bool) (at int, rec indexRec, err error) {
	lo, hi := -1, n // before(lo) is true, before(hi) false
	const block = 64
	for hi-lo > 1 {
		if hi-lo <= block { // the rest in one read
			b := make([]byte, (hi-lo-1)*recSize)
			if k, err := f.ReadAt(b, int64(lo+2)*recSize); k < len(b) {
				return -1, indexRec{}, fmt.Errorf("index record %d: %w", lo+1, err)
			}
			for ; len(b) > 0; b = b[recSize:] {
				r, ok := parseRec(b, id)
				if !ok {
					return -1, indexRec{}, fmt.Errorf("%w: index record %d", ErrCorrupt, lo+1)
				}
				if !before(r) {
					break
				}
				lo, rec = lo+1, r
			}
			return lo, rec, nil
		}
		mid := lo + (hi-lo)/2
		r, err := readRec(f, id, mid)
		if err != nil {
			return -1, indexRec{}, err
		}
		if before(r) {
			lo, rec = mid, r
		} else {
			hi = mid
		}
	}
	return lo, rec, nil
}

// searchIndex is findRec with the record.
func (s *seg) searchIndex(fsys vfs.FS, n int, before func(indexRec) bool) (indexRec, bool, error) {
	f, err := fsys.OpenFile(s.indexPath(), os.O_RDONLY, 0)
	if err != nil {
		return indexRec{}, false, err
	}
	defer f.Close()
	i, r, err := searchRecs(f, s.id, n, before)
	return r, i >= 0, err
}

// rebuildIndex writes the index of a closed segment anew from the log file.
func (l *Log) rebuildIndex(s *seg) error {
	s.rebuild.Lock()
	defer s.rebuild.Unlock()
	interval := int64(l.config().IndexIntervalBytes)
	l.mu.RLock()
	end := s.end()
	l.mu.RUnlock()
	buf := indexHeader(s.id)
	lastPos := s.headerSize
	add := func(r indexRec) {
		buf = append(buf, make([]byte, recSize)...)
		r.put(buf[len(buf)-recSize:], s.id)
		lastPos = r.pos
	}
	var term uint64
	_, err := l.walkTo(s.begin(), end.pos, func(h *head) bool {
		r := indexRec{pos: h.at.pos, index: h.Index, offset: h.BaseOffset, maxTS: h.at.maxTS, term: h.Term, kind: recSparse}
		if h.Type != Batch {
			r.kind, r.typ = recReserved, h.Type
			add(r)
		} else if h.at.pos-lastPos >= interval {
			add(r)
		}
		term = h.Term
		return true
	})
	if err != nil {
		return err
	}
	add(indexRec{pos: end.pos, index: end.index, offset: end.offset, maxTS: end.maxTS, term: term, kind: recDurable})
	if err := vfs.WriteFile(l.o.FS, l.o.Dir, s.indexPath(), buf); err != nil {
		return err
	}
	l.mu.Lock()
	s.indexRecs = len(buf)/recSize - 1
	l.mu.Unlock()
	l.o.Logger.Warn("index was damaged and is rebuilt", "path", s.indexPath())
	return nil
}

// loadIndex opens the index of segment s (os.O_RDWR or O_RDONLY) and counts its whole records. An index that is
// missing or of another file counts none.
func loadIndex(fsys vfs.FS, s *seg, flag int) (f vfs.File, records int, err error) {
	f, err = fsys.OpenFile(s.indexPath(), flag, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	b := make([]byte, recSize)
	if n, _ := f.ReadAt(b, 0); n < recSize || string(b) != string(indexHeader(s.id)) {
		return f, 0, nil
	}
	return f, int(size/recSize) - 1, nil
}
