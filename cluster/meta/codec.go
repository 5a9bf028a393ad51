package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrCorrupt is an encoding that cannot be read: cut short, too long, or with impossible counts.
var ErrCorrupt = errors.New("meta: corrupt encoding")

// ErrTooNew is an encoding of a newer version of Balsa.
var ErrTooNew = errors.New("meta: written by a newer version")

// Primitives. Integers are unsigned varints (signed ones zigzag), identities that are random are 8 bytes big endian,
// strings and lists carry their length first; maps are written in the order of their keys, so that equal values have
// equal encodings.

type writer struct{ b []byte }

func (w *writer) byte(v byte)      { w.b = append(w.b, v) }
func (w *writer) uvarint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) varint(v int64)   { w.b = binary.AppendVarint(w.b, v) }
func (w *writer) fixed64(v uint64) { w.b = binary.BigEndian.AppendUint64(w.b, v) }

func (w *writer) bool(v bool) {
	if v {
		w.byte(1)
	} else {
		w.byte(0)
	}
}

func (w *writer) string(s string) {
	w.uvarint(uint64(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) nodes(nodes []int32) {
	w.uvarint(uint64(len(nodes)))
	for _, n := range nodes {
		w.varint(int64(n))
	}
}

func (w *writer) strings(m map[string]string) {
	w.uvarint(uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.string(k)
		w.string(m[k])
	}
}

// changes writes a map whose nil values mean "remove".
func (w *writer) changes(m map[string]*string) {
	w.uvarint(uint64(len(m)))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.string(k)
		w.bool(m[k] != nil)
		if m[k] != nil {
			w.string(*m[k])
		}
	}
}

// reader never panics and never allocates more than a small multiple of what it was given; the first error sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	r.b = nil
}

func (r *reader) take(n int, what string) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.fail(what)
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if b := r.take(1, "byte"); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) bool() bool {
	v := r.byte()
	if v > 1 {
		r.fail("bool")
	}
	return v == 1
}

// uvarint takes the shortest form only, so that a value has one encoding.
func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.err != nil || n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.fail("uvarint")
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) int32() int32 {
	v := r.varint()
	if v != int64(int32(v)) {
		r.fail("int32")
		return 0
	}
	return int32(v)
}

func (r *reader) fixed64() uint64 {
	if b := r.take(8, "fixed64"); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) string() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail("string")
		return ""
	}
	return string(r.take(int(n), "string"))
}

// count reads a list's length; each element takes at least size bytes.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail("count")
		return 0
	}
	return int(n)
}

func (r *reader) topicID() (t TopicID) {
	copy(t[:], r.take(len(t), "topic id"))
	return t
}

func (r *reader) nodes() []int32 {
	nodes := make([]int32, r.count(1))
	for i := range nodes {
		nodes[i] = r.int32()
	}
	return nodes
}

func (r *reader) assignment() [][]int32 {
	parts := make([][]int32, r.count(1))
	for i := range parts {
		parts[i] = r.nodes()
	}
	return parts
}

func (w *writer) assignment(parts [][]int32) {
	w.uvarint(uint64(len(parts)))
	for _, nodes := range parts {
		w.nodes(nodes)
	}
}

// sortedKey refuses keys out of order: a map has one encoding.
func (r *reader) sortedKey(i int, last, key string) {
	if i > 0 && key <= last {
		r.fail("map order")
	}
}

func (r *reader) strings() map[string]string {
	n := r.count(2)
	m := make(map[string]string, n)
	last := ""
	for i := 0; i < n && r.err == nil; i++ {
		k := r.string()
		r.sortedKey(i, last, k)
		last = k
		m[k] = r.string()
	}
	return m
}

func (r *reader) changes() map[string]*string {
	n := r.count(2)
	m := make(map[string]*string, n)
	last := ""
	for i := 0; i < n && r.err == nil; i++ {
		k := r.string()
		r.sortedKey(i, last, k)
		last = k
		if r.bool() {
			v := r.string()
			m[k] = &v
		} else {
			m[k] = nil
		}
	}
	return m
}

// end refuses what is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%w: %d bytes behind the end", ErrCorrupt, len(r.b))
	}
	return r.err
}
