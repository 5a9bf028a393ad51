package broker

import "encoding/binary"

// encoder appends fields of a response that is encoded by hand, in the flexible form or the old one.
type encoder struct {
	b    []byte
	flex bool
}

func (e *encoder) i16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *encoder) i32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *encoder) i64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }

func (e *encoder) uvarint(v int) { e.b = binary.AppendUvarint(e.b, uint64(v)) }

// tags appends no tagged fields.
func (e *encoder) tags() {
	if e.flex {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) array(n int) {
	if e.flex {
		e.uvarint(n + 1)
	} else {
		e.i32(int32(n))
	}
}

func (e *encoder) nullArray() {
	if e.flex {
		e.uvarint(0)
	} else {
		e.i32(-1)
	}
}

func (e *encoder) bytesLen(n int) { e.array(n) }

func (e *encoder) string(s string) {
	if e.flex {
		e.uvarint(len(s) + 1)
	} else {
		e.i16(int16(len(s)))
	}
	e.b = append(e.b, s...)
}

func (e *encoder) nullableString(s *string) {
	switch {
	case s != nil:
		e.string(*s)
	case e.flex:
		e.uvarint(0)
	default:
		e.i16(-1)
	}
}
