package record

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Record is one record of a batch. Key, Value and the headers alias a buffer that is reused for the next record.
//
//	length              varint, of all that follows
//	attributes          int8
//	timestamp delta     varlong
//	offset delta        varint
//	key                 varint length (-1: null), bytes
//	value               varint length (-1: null), bytes
//	headers             varint count, each: key (varint length, bytes), value (varint length or -1, bytes)
type Record struct {
	Offset    int64
	Timestamp int64
	Key       []byte // nil: null
	Value     []byte // nil: null
	// OffsetDelta and TimestampDelta as they stand in the record.
	OffsetDelta    int32
	TimestampDelta int64
	NumHeaders     int
	headers        []byte
}

// Header of a record; the slices alias the record's buffer.
type Header struct{ Key, Value []byte }

// Headers calls f with each header until it returns false. They were checked when the record was parsed.
func (r *Record) Headers(f func(Header) bool) {
	b := r.headers
	for range r.NumHeaders {
		var h Header
		var n int
		h.Key, n = lengthBytes(b)
		b = b[n:]
		h.Value, n = lengthBytes(b)
		b = b[n:]
		if !f(h) {
			return
		}
	}
}

// lengthBytes reads bytes that were checked before; null gives nil.
func lengthBytes(b []byte) ([]byte, int) {
	l, n := uvarint(b)
	size := int(unzigzag(l))
	if size < 0 {
		return nil, n
	}
	return b[n : n+size : n+size], n + size
}

// Limits bound what a walk takes. Zero values mean the defaults.
type Limits struct {
	// MaxRecordBytes is the largest record that is brought into memory as a whole (default 128 MiB).
	MaxRecordBytes int
	// MaxDecompressedBytes of one batch (default 512 MiB). Only uncompressing counts: a batch that was not compressed
	// is as large as it is.
	MaxDecompressedBytes int64
}

const (
	defaultMaxRecord       = 128 << 20
	defaultMaxDecompressed = 512 << 20
)

func (l Limits) orDefault() Limits {
	if l.MaxRecordBytes <= 0 {
		l.MaxRecordBytes = defaultMaxRecord
	}
	if l.MaxDecompressedBytes <= 0 {
		l.MaxDecompressedBytes = defaultMaxDecompressed
	}
	return l
}

// ForEach calls f with each record of b, in order, until f returns false. b went through Check. The record and what it
// points to are good until f returns. Memory: a decoder and a window of the stream, or the largest record if that is
// larger; the number of decoders in the process is bounded, so f must not wait for another ForEach or Validate.
func ForEach(b Batch, limits Limits, f func(*Record) bool) error {
	return forEach(b, limits, true, f)
}

// Scan is ForEach for who wants offsets and times only: records that are larger than a window come without key, value and
// headers, so that memory is bounded whatever a batch expands to.
func Scan(b Batch, limits Limits, f func(*Record) bool) error {
	return forEach(b, limits, false, f)
}

func forEach(b Batch, limits Limits, whole bool, f func(*Record) bool) error {
	w := walker{batch: b, limits: limits.orDefault(), whole: whole}
	return w.run(func(r *Record) bool {
		r.Offset = b.BaseOffset() + int64(r.OffsetDelta)
		if b.LogAppendTime() {
			r.Timestamp = b.MaxTimestamp()
		} else {
			r.Timestamp = b.BaseTimestamp() + r.TimestampDelta
		}
		return f(r)
	})
}

// walker goes over the records of one batch. An uncompressed payload is walked in place; of a compressed one a window
// is held, which grows to one record only when records are wanted whole.
type walker struct {
	batch  Batch
	limits Limits
	whole  bool // records larger than the window are brought in whole; otherwise skipped through, Key/Value not set

	src    io.Reader // nil: uncompressed, all is in buf
	buf    []byte    // window; [r:n] is unread
	r, n   int
	left   int64 // decompressed bytes still allowed
	eof    bool
	srcErr error
}

// nonNull stands for a key or value that was skipped through.
var nonNull = []byte{}

func (w *walker) run(f func(*Record) bool) error {
	codec := w.batch.Codec()
	if codec == CodecNone {
		w.buf, w.n, w.eof = w.batch.Records(), len(w.batch.Records()), true
	} else {
		d, err := openDecoder(codec, w.batch.Records())
		if err != nil {
			return err
		}
		w.src, w.buf, w.left = d.stream, d.window[:], w.limits.MaxDecompressedBytes
		defer d.release()
	}
	var rec Record
	for i := range w.batch.Count() {
		if err := w.next(&rec); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
		if !f(&rec) {
			return nil
		}
	}
	if w.r < w.n || w.more() {
		return fmt.Errorf("%w: bytes after the last of %d records", ErrInvalid, w.batch.Count())
	}
	if w.srcErr != nil {
		return w.srcErr
	}
	return nil
}

// next parses the next record.
func (w *walker) next(rec *Record) error {
	// A length is at most 5 bytes.
	for w.n-w.r < 5 && w.more() {
	}
	v, ln := uvarint(w.buf[w.r:w.n])
	size := unzigzag(v)
	if ln <= 0 || size < 0 || size > math.MaxInt32 {
		return w.malformed("length")
	}
	total := ln + int(size)
	if w.n-w.r < total {
		if w.eof {
			return w.malformed("cut off")
		}
		if total > len(w.buf) {
			if !w.whole {
				w.r += ln
				return w.skipLarge(rec, int(size))
			}
			if size > int64(w.limits.MaxRecordBytes) {
				return fmt.Errorf("%w: a record of %d bytes", ErrTooLarge, size)
			}
		}
		// Grow with what really arrives, not with what the length claims.
		for w.n-w.r < total {
			if w.r > 0 && total > len(w.buf)-w.r {
				w.n = copy(w.buf, w.buf[w.r:w.n])
				w.r = 0
			}
			if w.n == len(w.buf) {
				grown := make([]byte, min(2*len(w.buf), max(total, len(w.buf)+1)))
				w.n = copy(grown, w.buf[:w.n])
				w.buf = grown
			}
			if !w.more() {
				return w.malformed("cut off")
			}
		}
	}
	b := w.buf[w.r+ln : w.r+total]
	w.r += total
	if !parseRecord(b, rec) {
		return w.malformed("fields do not add up")
	}
	return nil
}

func (w *walker) malformed(what string) error {
	if w.srcErr != nil {
		return w.srcErr
	}
	return fmt.Errorf("%w: record %s", ErrInvalid, what)
}

// more reads from the stream into the window; false at the end or on an error (srcErr).
func (w *walker) more() bool {
	if w.eof {
		return false
	}
	if w.r == w.n {
		w.r, w.n = 0, 0
	} else if w.n == len(w.buf) && w.r > 0 {
		w.n = copy(w.buf, w.buf[w.r:w.n])
		w.r = 0
	}
	if w.n == len(w.buf) {
		return false
	}
	for range 64 {
		n, err := w.src.Read(w.buf[w.n:])
		w.left -= int64(n)
		if w.left < 0 {
			w.eof = true
			w.srcErr = fmt.Errorf("%w: decompresses to more than %d bytes", ErrTooLarge, w.limits.MaxDecompressedBytes)
			return false
		}
		if err != nil {
			w.eof = true
			if err != io.EOF {
				w.srcErr = decodeError(err)
				return false
			}
		}
		w.n += n
		if n > 0 || w.eof {
			return n > 0
		}
	}
	w.eof = true
	w.srcErr = fmt.Errorf("%w: %w", ErrInvalid, io.ErrNoProgress)
	return false
}

// skipLarge goes through a record that does not fit the window, checking its fields, without keeping it.
func (w *walker) skipLarge(rec *Record, size int) error {
	left := size
	get := func() (int64, bool) {
		for w.n-w.r < 10 && w.more() {
		}
		v, n := uvarint(w.buf[w.r:w.n])
		if n <= 0 || n > left {
			return 0, false
		}
		w.r += n
		left -= n
		return unzigzag(v), true
	}
	skip := func(n int) bool {
		if n > left {
			return false
		}
		left -= n
		for n > 0 {
			if w.r == w.n && !w.more() {
				return false
			}
			k := min(n, w.n-w.r)
			w.r += k
			n -= k
		}
		return true
	}
	field := func(null bool) (isNull, ok bool) {
		n, ok := get()
		if !ok || n < -1 || (n == -1 && !null) || n > int64(left) {
			return false, false
		}
		if n == -1 {
			return true, true
		}
		return false, skip(int(n))
	}
	*rec = Record{Key: nonNull, Value: nonNull}
	if !skip(1) {
		return w.malformed("cut off")
	}
	ts, ok1 := get()
	off, ok2 := get()
	rec.TimestampDelta, rec.OffsetDelta = ts, int32(off)
	if !ok1 || !ok2 || off != int64(int32(off)) {
		return w.malformed("fields do not add up")
	}
	if null, ok := field(true); !ok {
		return w.malformed("key")
	} else if null {
		rec.Key = nil
	}
	if null, ok := field(true); !ok {
		return w.malformed("value")
	} else if null {
		rec.Value = nil
	}
	count, ok := get()
	if !ok || count < 0 || count > int64(left)/2 {
		return w.malformed("headers")
	}
	for range count {
		if _, ok := field(false); !ok {
			return w.malformed("headers")
		}
		if _, ok := field(true); !ok {
			return w.malformed("headers")
		}
	}
	if left != 0 {
		return w.malformed("fields do not add up")
	}
	return nil
}

// parseRecord parses the fields of a record (without its length), which must fill b exactly.
func parseRecord(b []byte, rec *Record) bool {
	if len(b) < 6 {
		return false
	}
	p := 1
	var v uint64
	var n int
	// The one-byte varint is the common case of every field but the timestamp and the value's length; spelled out,
	// the compiler keeps the walk in registers.
	if c := b[p]; c < 0x80 {
		v, n = uint64(c), 1
	} else if v, n = uvarint(b[p:]); n <= 0 {
		return false
	}
	p += n
	rec.TimestampDelta = unzigzag(v)

	if v, n = uvarint(b[p:]); n <= 0 {
		return false
	}
	p += n
	off := unzigzag(v)
	if off != int64(int32(off)) {
		return false
	}
	rec.OffsetDelta = int32(off)

	if v, n = uvarint(b[p:]); n <= 0 {
		return false
	}
	p += n
	size := unzigzag(v)
	switch {
	case size >= 0:
		if size > int64(len(b)-p) {
			return false
		}
		rec.Key = b[p : p+int(size) : p+int(size)]
		p += int(size)
	case size == -1:
		rec.Key = nil
	default:
		return false
	}

	if v, n = uvarint(b[p:]); n <= 0 {
		return false
	}
	p += n
	size = unzigzag(v)
	switch {
	case size >= 0:
		if size > int64(len(b)-p) {
			return false
		}
		rec.Value = b[p : p+int(size) : p+int(size)]
		p += int(size)
	case size == -1:
		rec.Value = nil
	default:
		return false
	}

	if p < len(b) && b[p] == 0 { // no headers
		rec.NumHeaders, rec.headers = 0, nil
		return p+1 == len(b)
	}
	return parseHeaders(b[p:], rec)
}

func parseHeaders(b []byte, rec *Record) bool {
	v, p := uvarint(b)
	if p <= 0 {
		return false
	}
	count := unzigzag(v)
	if count < 0 || count > int64(len(b))/2 {
		return false
	}
	rec.NumHeaders, rec.headers = int(count), b[p:]
	for range count {
		v, n := uvarint(b[p:])
		if n <= 0 {
			return false
		}
		p += n
		if v = uint64(unzigzag(v)); v > uint64(len(b)-p) { // a null key is refused too: -1 is huge
			return false
		}
		p += int(v)
		v, n = uvarint(b[p:])
		if n <= 0 {
			return false
		}
		p += n
		if size := unzigzag(v); size >= 0 {
			if size > int64(len(b)-p) {
				return false
			}
			p += int(size)
		} else if size != -1 {
			return false
		}
	}
	return p == len(b)
}

// uvarint is binary.Uvarint with the short forms first; n <= 0 when b is cut off or the number is too long.
func uvarint(b []byte) (v uint64, n int) {
	if len(b) > 1 {
		if b[0] < 0x80 {
			return uint64(b[0]), 1
		}
		if b[1] < 0x80 {
			return uint64(b[0]&0x7f) | uint64(b[1])<<7, 2
		}
	}
	return binary.Uvarint(b)
}

func unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }
