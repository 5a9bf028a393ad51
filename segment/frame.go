package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/balsa-broker/balsa/protocol/record"
)

// A segment file is a sequence of frames and nothing else, until its end or the zeros of preallocated space. A frame
// is a record batch (protocol/record draws it) or a reserved frame, which starts with the same 17 bytes and has in
// the place of the batch's magic a value that is no magic of Kafka's:
//
//	offset size field
//	     0    8 base offset: the offset that the next record gets
//	     8    4 length of all that follows
//	    12    4 epoch: the low 32 bits of the term
//	    16    1 0x80 | type (0x80: the segment's header, see header.go)
//	    17    4 CRC-32C of the whole frame without these four bytes
//	    21    8 Raft index
//	    29    8 term
//	    37      payload
//
// A batch has no room for its Raft index: it is that of the frame before it plus one. Its epoch must be the term in
// force, which only a reserved frame changes (every term begins with a no-op), and its base offset the next one:
// both lie outside the batch's CRC (safety rule 11).
const (
	reservedSize = 37
	reservedBit  = 0x80
	typeHeader   = Type(0)
	prefixSize   = 17 // what both kinds of frame share
	maxType      = Command
)

// MaxFrame is the largest frame that is believed. A longer length is taken for damage.
const MaxFrame = 1 << 30

// errShort: the buffer ends before the frame does.
var errShort = errors.New("segment: frame is cut short")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (t Type) String() string {
	switch t {
	case typeHeader:
		return "header"
	case Batch:
		return "batch"
	case Noop:
		return "noop"
	case Barrier:
		return "barrier"
	case Configuration:
		return "configuration"
	case Void:
		return "void"
	case Command:
		return "command"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// parseHead reads what the first bytes of a frame say, without its checksum. b must hold reservedSize bytes for a
// reserved frame, record.HeaderSize for a batch, else errShort. The entry's Header and Payload are not set; the index
// of a batch is 0 and its term its epoch.
func parseHead(b []byte) (Entry, error) {
	if len(b) < prefixSize {
		return Entry{}, errShort
	}
	e := Entry{
		BaseOffset: int64(binary.BigEndian.Uint64(b)),
		Size:       record.Overhead + int(int32(binary.BigEndian.Uint32(b[8:]))),
		Term:       uint64(binary.BigEndian.Uint32(b[12:])),
	}
	if e.BaseOffset < 0 {
		return Entry{}, fmt.Errorf("base offset %d", e.BaseOffset)
	}
	magic := b[16]
	switch {
	case magic == 2:
		if e.Size < record.HeaderSize || e.Size > MaxFrame {
			return Entry{}, fmt.Errorf("batch of %d bytes", e.Size)
		}
		if len(b) < record.HeaderSize {
			return Entry{}, errShort
		}
		delta := record.Batch(b).LastOffsetDelta()
		if delta < 0 || e.BaseOffset > math.MaxInt64-int64(delta)-1 {
			return Entry{}, fmt.Errorf("last offset delta %d at offset %d", delta, e.BaseOffset)
		}
		e.Type = Batch
		e.NextOffset = e.BaseOffset + int64(delta) + 1
	case magic&reservedBit != 0:
		e.Type = Type(magic &^ reservedBit)
		if e.Type > maxType || e.Type == Batch {
			return Entry{}, fmt.Errorf("frame type %#x", magic)
		}
		if e.Size < reservedSize || e.Size > MaxFrame {
			return Entry{}, fmt.Errorf("%v frame of %d bytes", e.Type, e.Size)
		}
		if len(b) < reservedSize {
			return Entry{}, errShort
		}
		e.Index = binary.BigEndian.Uint64(b[21:])
		term := binary.BigEndian.Uint64(b[29:])
		if uint64(uint32(term)) != e.Term {
			return Entry{}, fmt.Errorf("epoch %d with term %d", e.Term, term)
		}
		e.Term = term
		e.NextOffset = e.BaseOffset
	default:
		return Entry{}, fmt.Errorf("magic %d", int8(magic))
	}
	return e, nil
}

// checksumOK checks the CRC of one whole frame whose head was parsed.
func checksumOK(frame []byte, t Type) bool {
	if t == Batch {
		return record.Batch(frame).CRCValid()
	}
	return reservedCRC(frame) == binary.BigEndian.Uint32(frame[17:])
}

func reservedCRC(frame []byte) uint32 {
	return crc32.Update(crc32.Checksum(frame[:prefixSize], castagnoli), castagnoli, frame[21:])
}

// ParseFrame reads the frame that b starts with and checks its CRC. Header and Payload alias b. A batch does not
// know its index (0 here). A segment's header is not a frame that travels: it is an error.
func ParseFrame(b []byte) (e Entry, frameLen int, err error) {
	e, err = parseHead(b)
	if err != nil {
		return Entry{}, 0, fmt.Errorf("%w: frame: %w", ErrCorrupt, err)
	}
	if e.Type == typeHeader {
		return Entry{}, 0, fmt.Errorf("%w: a segment header where an entry should be", ErrCorrupt)
	}
	if e.Size > len(b) {
		return Entry{}, 0, fmt.Errorf("%w: frame: %w", ErrCorrupt, errShort)
	}
	frame := b[:e.Size:e.Size]
	if !checksumOK(frame, e.Type) {
		return Entry{}, 0, fmt.Errorf("%w: %v frame of %d bytes at offset %d: CRC", ErrCorrupt, e.Type, e.Size, e.BaseOffset)
	}
	if e.Type == Batch {
		e.Header = frame[:record.HeaderSize:record.HeaderSize]
	} else {
		e.Payload = frame[reservedSize:]
	}
	return e, e.Size, nil
}

// ParseFrames reads contiguous frames, as ReadIndexes' ranges hold them and peers exchange them, the first being
// entry first, and calls f with each and its bytes (aliasing b). It checks CRCs, that indexes and offsets follow one
// another, that terms never fall, and that only a reserved frame changes the term. What comes before the first frame
// (previous index, term, next offset) is the caller's to compare; see NewEntry.Stamped.
func ParseFrames(first uint64, b []byte, f func(e Entry, frame []byte) error) error {
	var prev Entry
	for index := first; len(b) > 0; index++ {
		e, n, err := ParseFrame(b)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if e.Type != Batch && e.Index != index {
			return fmt.Errorf("%w: entry %d has index %d", ErrCorrupt, index, e.Index)
		}
		e.Index = index
		if index > first {
			if err := follows(prev, e); err != nil {
				return fmt.Errorf("%w: entry %d: %w", ErrCorrupt, index, err)
			}
		}
		if err := f(e, b[:n:n]); err != nil {
			return err
		}
		prev, b = e, b[n:]
	}
	return nil
}

// follows checks e against the entry before it. A previous term of 0 is unknown.
func follows(prev, e Entry) error {
	if e.BaseOffset != prev.NextOffset {
		return fmt.Errorf("base offset %d, not %d", e.BaseOffset, prev.NextOffset)
	}
	if e.Term < prev.Term || e.Type == Batch && e.Term != prev.Term && prev.Term != 0 {
		return fmt.Errorf("%v of term %d after term %d", e.Type, e.Term, prev.Term)
	}
	return nil
}

// AppendFrame appends the frame of e to buf, stamped with nextOffset and e's term, as it will stand in the file. The
// Data of a batch is copied, and stamped in the copy only.
func AppendFrame(buf []byte, e NewEntry, nextOffset int64) []byte {
	if e.Type == Batch {
		n := len(buf)
		buf = append(buf, e.Data...)
		stamp(buf[n:], e.Term, nextOffset)
		return buf
	}
	return appendReserved(buf, e.Type, e.Index, e.Term, nextOffset, e.Data)
}

func appendReserved(buf []byte, t Type, index, term uint64, nextOffset int64, payload []byte) []byte {
	n := len(buf)
	buf = append(buf, make([]byte, reservedSize)...)
	buf = append(buf, payload...)
	b := buf[n:]
	binary.BigEndian.PutUint64(b[0:], uint64(nextOffset))
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-record.Overhead))
	binary.BigEndian.PutUint32(b[12:], uint32(term))
	b[16] = reservedBit | byte(t)
	binary.BigEndian.PutUint64(b[21:], index)
	binary.BigEndian.PutUint64(b[29:], term)
	binary.BigEndian.PutUint32(b[17:], reservedCRC(b))
	return buf
}

func stamp(batch []byte, term uint64, offset int64) {
	record.Batch(batch).SetBaseOffset(offset)
	record.Batch(batch).SetLeaderEpoch(int32(term))
}
