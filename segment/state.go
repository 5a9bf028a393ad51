package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/balsa-broker/balsa/vfs"
)

// The file `state` holds what is known of the log up to some durable entry, so that Open need not read it again. It is
// replaced atomically at each roll, on a clean close, before any truncation of what it covers, and whenever the log
// start moves; a log without it is read as a whole. Integers are big endian:
//
//	offset size field
//	     0    8 "BALSASTA"
//	     8    4 format version = 1
//	    12    4 flags: 1 closed cleanly, 2 a reset is under way (files are to be deleted), 4 what is appended is not
//	          synced before it counts (Config.Fsync was off)
//	    16    8 log start offset
//	    24    8 index of the first entry
//	    32    8 term of the entry before it
//	    40    8 next index   ) the end of what is covered
//	    48    8 next offset  )
//	    56    8 term of the last entry
//	    64    4 length of the boot id, then the boot id
//	       4+.. segments:       base offset, first index, previous term, id, created, size, next offset,
//	                            next index, max timestamp, its offset, index records, header size (8 each)
//	       4+.. terms:          term, first index, start offset (8 each)
//	       4+.. reserved runs:  first index (8), count (4), type (1)
//	       4+.. configurations: index (8), length (4), payload
//	          4 CRC-32C of all before
//
// The last segment may go on beyond its recorded size: recovery starts there.
const (
	stateMagic   = "BALSASTA"
	stateVersion = 1
	maxState     = 256 << 20

	stateClean     = 1
	stateResetting = 2
	stateUnsynced  = 4
)

type termStart struct {
	term   uint64
	index  uint64 // of the first entry
	offset int64  // next offset at that place
}

// run is a stretch of reserved frames of one type.
type run struct {
	first uint64
	n     uint32
	typ   Type
}

type configEntry struct {
	index   uint64
	payload []byte
}

type state struct {
	flags       uint32
	startOffset int64
	firstIndex  uint64
	prevTerm    uint64
	nextIndex   uint64
	nextOffset  int64
	lastTerm    uint64
	boot        string
	segs        []segInfo
	terms       []termStart
	runs        []run
	configs     []configEntry
}

func (s *state) encode() []byte {
	b := make([]byte, 0, 128+96*len(s.segs)+24*len(s.terms)+13*len(s.runs))
	u32 := func(v int) { b = binary.BigEndian.AppendUint32(b, uint32(v)) }
	u64 := func(v uint64) { b = binary.BigEndian.AppendUint64(b, v) }
	i64 := func(v int64) { u64(uint64(v)) }
	b = append(b, stateMagic...)
	u32(stateVersion)
	u32(int(s.flags))
	i64(s.startOffset)
	u64(s.firstIndex)
	u64(s.prevTerm)
	u64(s.nextIndex)
	i64(s.nextOffset)
	u64(s.lastTerm)
	u32(len(s.boot))
	b = append(b, s.boot...)
	u32(len(s.segs))
	for _, g := range s.segs {
		i64(g.baseOffset)
		u64(g.firstIndex)
		u64(g.prevTerm)
		u64(g.id)
		i64(g.created)
		i64(g.size)
		i64(g.nextOffset)
		u64(g.nextIndex)
		i64(g.maxTS)
		i64(g.maxTSOffset)
		u64(uint64(g.indexRecs))
		i64(g.headerSize)
	}
	u32(len(s.terms))
	for _, t := range s.terms {
		u64(t.term)
		u64(t.index)
		i64(t.offset)
	}
	u32(len(s.runs))
	for _, r := range s.runs {
		u64(r.first)
		u32(int(r.n))
		b = append(b, byte(r.typ))
	}
	u32(len(s.configs))
	for _, c := range s.configs {
		u64(c.index)
		u32(len(c.payload))
		b = append(b, c.payload...)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeState(b []byte) (*state, error) {
	if len(b) < 72 || string(b[:8]) != stateMagic {
		return nil, errors.New("not a state file")
	}
	n := len(b) - 4
	if crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, errors.New("CRC")
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != stateVersion {
		return nil, fmt.Errorf("format version %d; this program knows %d", v, stateVersion)
	}
	d := decoder{b: b[12:n]}
	s := &state{
		flags:       d.u32(),
		startOffset: d.i64(),
		firstIndex:  d.u64(),
		prevTerm:    d.u64(),
		nextIndex:   d.u64(),
		nextOffset:  d.i64(),
		lastTerm:    d.u64(),
	}
	s.boot = string(d.bytes(int(d.u32())))
	for range d.count(96) {
		s.segs = append(s.segs, segInfo{
			baseOffset: d.i64(), firstIndex: d.u64(), prevTerm: d.u64(), id: d.u64(), created: d.i64(), size: d.i64(),
			nextOffset: d.i64(), nextIndex: d.u64(), maxTS: d.i64(), maxTSOffset: d.i64(), indexRecs: int(d.i64()),
			headerSize: d.i64(),
		})
	}
	for range d.count(24) {
		s.terms = append(s.terms, termStart{term: d.u64(), index: d.u64(), offset: d.i64()})
	}
	for range d.count(13) {
		s.runs = append(s.runs, run{first: d.u64(), n: d.u32(), typ: Type(d.u8())})
	}
	for range d.count(12) {
		c := configEntry{index: d.u64()}
		c.payload = append([]byte{}, d.bytes(int(d.u32()))...)
		s.configs = append(s.configs, c)
	}
	if d.bad || len(d.b) != 0 {
		return nil, errors.New("lengths do not add up")
	}
	return s, nil
}

// decoder reads big endian fields; after the end it yields zeros and says bad.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u8() uint8 {
	if p := d.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if p := d.bytes(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if p := d.bytes(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (d *decoder) i64() int64 { return int64(d.u64()) }

// count reads a number of elements of at least size bytes each.
func (d *decoder) count(size int) int {
	n := int(d.u32())
	if n > len(d.b)/size {
		d.bad = true
		return 0
	}
	return n
}

func (l *Log) statePath() string { return filepath.Join(l.o.Dir, "state") }

// loadState returns nil when there is no state file.
func (l *Log) loadState() (*state, error) {
	b, err := vfs.ReadFile(l.o.FS, l.statePath(), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.rec.BytesRead += int64(len(b))
	return decodeState(b)
}

// stateAt describes the log up to c, a frame boundary below which all is durable. wmu is held; mu is not needed, for
// only the writer changes what is read here.
func (l *Log) stateAt(c cursor, flags uint32) *state {
	if l.persisted.unsynced && flags&stateClean == 0 {
		flags |= stateUnsynced
	}
	st := &state{
		flags:       flags,
		startOffset: l.startOffset,
		firstIndex:  l.firstIndex,
		prevTerm:    l.prevTerm,
		nextIndex:   c.index,
		nextOffset:  c.offset,
		boot:        l.o.BootID,
	}
	for _, s := range l.segs {
		if c.s == nil {
			break
		}
		i := s.segInfo
		if s == c.s {
			if c.pos < i.size {
				i.indexRecs = 0 // some may stand behind c
				i.size, i.nextIndex, i.nextOffset, i.maxTS, i.maxTSOffset = c.pos, c.index, c.offset, c.maxTS, -1
			}
			st.segs = append(st.segs, i)
			break
		}
		st.segs = append(st.segs, i)
	}
	for _, t := range l.terms {
		if t.index < c.index {
			st.terms = append(st.terms, t)
		}
	}
	st.lastTerm = l.prevTerm
	if n := len(st.terms); n > 0 {
		st.lastTerm = st.terms[n-1].term
	}
	for _, r := range l.runs {
		if r.first < c.index {
			r.n = uint32(min(uint64(r.n), c.index-r.first))
			st.runs = append(st.runs, r)
		}
	}
	for _, g := range l.configs {
		if g.index < c.index {
			st.configs = append(st.configs, g)
		}
	}
	return st
}

// writeState makes st durable. wmu is held.
func (l *Log) writeState(st *state) error {
	if err := vfs.WriteFile(l.o.FS, l.o.Dir, l.statePath(), st.encode()); err != nil {
		return fmt.Errorf("segment: write state: %w", err)
	}
	l.persisted = persisted{
		valid: true, next: st.nextIndex, clean: st.flags&stateClean != 0, unsynced: st.flags&stateUnsynced != 0, boot: st.boot,
	}
	return nil
}
