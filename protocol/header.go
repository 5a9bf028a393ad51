package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed: the bytes are not what the protocol says; the connection is closed.
var ErrMalformed = errors.New("protocol: malformed request")

// MinHeader is the size of the part of a request header that every version has.
const MinHeader = 8

// Header of a request.
//
//	v1: key int16, version int16, correlation id int32, client id nullable string
//	v2 (flexible versions): the same, then tagged fields
type Header struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string
}

// Peek reads the fields that every header version has.
func Peek(b []byte) (Header, error) {
	if len(b) < MinHeader {
		return Header{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	return Header{
		Key:           int16(binary.BigEndian.Uint16(b)),
		Version:       int16(binary.BigEndian.Uint16(b[2:])),
		CorrelationID: int32(binary.BigEndian.Uint32(b[4:])),
	}, nil
}

// ParseHeader reads a request header, of v2 when flexible, and returns the rest: the body, a sub-slice of b.
func ParseHeader(b []byte, flexible bool) (Header, []byte, error) {
	h, err := Peek(b)
	if err != nil {
		return h, nil, err
	}
	r := Reader{B: b[MinHeader:]}
	h.ClientID = string(r.NullableString())
	if flexible {
		r.Tags()
	}
	if r.Bad {
		return h, nil, fmt.Errorf("%w: header of api %d version %d", ErrMalformed, h.Key, h.Version)
	}
	return h, r.B, nil
}

// Reader takes fields off the head of B. After a field that is not there Bad is true and everything read is zero.
// Nothing is copied: slices alias B.
type Reader struct {
	B   []byte
	Bad bool
}

func (r *Reader) take(n int) []byte {
	if r.Bad || n < 0 || n > len(r.B) {
		r.Bad, r.B = true, nil
		return nil
	}
	b := r.B[:n:n]
	r.B = r.B[n:]
	return b
}

func (r *Reader) Int8() int8 {
	if b := r.take(1); b != nil {
		return int8(b[0])
	}
	return 0
}

func (r *Reader) Int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *Reader) Int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *Reader) Int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// UUID reads a topic id.
func (r *Reader) UUID() (u [16]byte) {
	copy(u[:], r.take(16))
	return u
}

// Uvarint reads an unsigned varint of at most 32 bits.
func (r *Reader) Uvarint() uint32 {
	v, n := binary.Uvarint(r.B)
	if n <= 0 || n > 5 || v > 1<<32-1 {
		r.Bad, r.B = true, nil
		return 0
	}
	r.B = r.B[n:]
	return uint32(v)
}

// NullableString reads a string with an int16 length; nil for null.
func (r *Reader) NullableString() []byte {
	if n := r.Int16(); n != -1 {
		return r.take(int(n))
	}
	return nil
}

// CompactString reads a string with an unsigned varint length plus one; nil for null.
func (r *Reader) CompactString() []byte {
	if n := r.Uvarint(); n != 0 {
		return r.take(int(n) - 1)
	}
	return nil
}

// String reads a string of either form; nil for null.
func (r *Reader) String(flexible bool) []byte {
	if flexible {
		return r.CompactString()
	}
	return r.NullableString()
}

// Bytes reads bytes with an int32 or varint length; nil for null.
func (r *Reader) Bytes(flexible bool) []byte {
	if flexible {
		return r.CompactString()
	}
	if n := r.Int32(); n != -1 {
		return r.take(int(n))
	}
	return nil
}

// Array reads the length of an array, 0 for null. A length that the remaining bytes cannot hold, with minBytes for
// each element, is refused: nobody allocates for elements that are not there.
func (r *Reader) Array(flexible bool, minBytes int) int {
	var n int
	if flexible {
		n = int(r.Uvarint()) - 1
	} else {
		n = int(r.Int32())
	}
	if n <= 0 {
		if n < -1 {
			r.Bad, r.B = true, nil
		}
		return 0
	}
	if n > len(r.B)/minBytes {
		r.Bad, r.B = true, nil
		return 0
	}
	return n
}

// Tags skips tagged fields.
func (r *Reader) Tags() {
	r.TagsFunc(nil)
}

// TagsFunc calls f with each tagged field.
func (r *Reader) TagsFunc(f func(tag uint32, b []byte)) {
	n := r.Uvarint()
	for range n {
		if r.Bad {
			return
		}
		tag := r.Uvarint()
		size := r.Uvarint()
		b := r.take(int(size))
		if f != nil && !r.Bad {
			f(tag, b)
		}
	}
}
