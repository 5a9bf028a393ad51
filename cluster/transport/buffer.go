package transport

import (
	"math/bits"
	"sync"
)

// buffer is a byte slice that goes back to a pool. Its owner calls free once, or drops it for the collector when
// somebody else may still hold it.
type buffer struct{ b []byte }

const (
	minBufferBits = 9  // 512 B
	maxBufferBits = 21 // 2 MiB: a part of entries with its header; larger ones are not kept
)

var bufferPools [maxBufferBits + 1]sync.Pool

// newBuffer returns an empty buffer with at least the capacity n.
func newBuffer(n int) *buffer {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		return &buffer{b: make([]byte, 0, n)}
	}
	if v := bufferPools[class].Get(); v != nil {
		buf := v.(*buffer)
		buf.b = buf.b[:0]
		return buf
	}
	return &buffer{b: make([]byte, 0, 1<<class)}
}

// free gives the buffer back. A nil buffer may be freed.
func (b *buffer) free() {
	if b == nil {
		return
	}
	class := bits.Len(uint(cap(b.b))) - 1 // the largest class that the capacity fills
	if class < minBufferBits || class > maxBufferBits || cap(b.b) > 1<<maxBufferBits {
		return
	}
	bufferPools[class].Put(b)
}
