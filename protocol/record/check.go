package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

var (
	// ErrShort: the bytes end before the batch does.
	ErrShort = errors.New("record: batch is cut off")
	// ErrCorrupt: the CRC does not match (CORRUPT_MESSAGE).
	ErrCorrupt = errors.New("record: batch checksum does not match")
	// ErrInvalid: the batch or a record in it cannot be accepted (INVALID_RECORD).
	ErrInvalid = errors.New("record: invalid batch")
	// ErrMagic: not a batch of format v2; it wraps ErrInvalid.
	ErrMagic = fmt.Errorf("%w: not of format v2", ErrInvalid)
	// ErrTooLarge: the batch, a record or the decompressed payload is above a limit (MESSAGE_TOO_LARGE).
	ErrTooLarge = errors.New("record: too large")
	// ErrTimestamp: a timestamp is outside what the topic accepts (INVALID_TIMESTAMP).
	ErrTimestamp = errors.New("record: timestamp out of range")
	// ErrCodec: the compression codec is not known or not allowed here (UNSUPPORTED_COMPRESSION_TYPE).
	ErrCodec = errors.New("record: compression type is not supported")
)

// Codecs, the lowest three bits of the attributes.
const (
	CodecNone   int8 = 0
	CodecGzip   int8 = 1
	CodecSnappy int8 = 2
	CodecLZ4    int8 = 3
	CodecZstd   int8 = 4
)

// Check checks the frame of the batch at the head of b (length, magic, count against last offset delta, CRC) and
// returns exactly its bytes, a sub-slice of b. The records are not looked at: Validate and ForEach do that.
func Check(b []byte) (Batch, error) {
	if len(b) < HeaderSize {
		return nil, ErrShort
	}
	if b[16] != 2 {
		return nil, fmt.Errorf("%w (magic %d)", ErrMagic, int8(b[16]))
	}
	n := int32(binary.BigEndian.Uint32(b[8:]))
	if n < HeaderSize-Overhead || n > math.MaxInt32-Overhead {
		return nil, fmt.Errorf("%w: length %d", ErrInvalid, n)
	}
	if Overhead+int(n) > len(b) {
		return nil, ErrShort
	}
	batch := Batch(b[: Overhead+int(n) : Overhead+int(n)])
	if !batch.CRCValid() {
		return nil, ErrCorrupt
	}
	// A compacted batch holds fewer records than offsets, never more.
	if last, count := batch.LastOffsetDelta(), batch.Count(); last < 0 || count < 0 || int64(count) > int64(last)+1 {
		return nil, fmt.Errorf("%w: %d records up to offset delta %d", ErrInvalid, count, last)
	}
	return batch, nil
}

// NextOffset is the offset after the batch.
func (b Batch) NextOffset() int64 { return b.LastOffset() + 1 }

// The setters below change bytes under the CRC: StampCRC afterwards.

func (b Batch) setAttributes(a int16)   { binary.BigEndian.PutUint16(b[21:], uint16(a)) }
func (b Batch) setMaxTimestamp(t int64) { binary.BigEndian.PutUint64(b[35:], uint64(t)) }

// SetMaxTimestamp puts right the max timestamp of a batch whose producer got it wrong, and the CRC with it. It does
// nothing when t is there already.
func (b Batch) SetMaxTimestamp(t int64) {
	if b.MaxTimestamp() != t {
		b.setMaxTimestamp(t)
		b.StampCRC()
	}
}

// SetLogAppendTime stamps the batch as one whose records all have the time t (ms): attribute, max timestamp, CRC.
func (b Batch) SetLogAppendTime(t int64) {
	b.setAttributes(b.Attributes() | 8)
	b.setMaxTimestamp(t)
	b.StampCRC()
}
