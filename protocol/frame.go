package protocol

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sync"
)

// Frames are an int32 length and that many bytes.

// FrameLenSize is the size of the length before a frame.
const FrameLenSize = 4

// Frame is the bytes of one request, from a pool. Whoever holds slices of it holds the frame: it goes back to the pool by
// Release, once, when nothing points into it any more. A frame that may still be pointed at (an append whose outcome
// was not awaited) is simply dropped.
type Frame struct {
	B     []byte
	class int // of the pool; -1: none
}

const (
	minClass = 12 // 4 KiB
	maxClass = 21 // 2 MiB: a full batch of max.message.bytes; larger frames are left to the garbage collector
)

var framePools [maxClass - minClass + 1]sync.Pool

func newFrame(n int) *Frame {
	class := max(bits.Len(uint(max(n, 1)-1)), minClass)
	if class > maxClass {
		return &Frame{B: make([]byte, n), class: -1}
	}
	if f, _ := framePools[class-minClass].Get().(*Frame); f != nil {
		f.B = f.B[:n]
		return f
	}
	return &Frame{B: make([]byte, n, 1<<class), class: class}
}

// Release gives the frame back. The caller keeps no slice of it.
func (f *Frame) Release() {
	if f.class >= 0 {
		framePools[f.class-minClass].Put(f)
	}
}

// growStep is how much of a large frame is allocated ahead of the bytes that really arrived.
const growStep = 1 << maxClass

// ReadFrameSize reads the length of the next frame and checks it against limit.
func ReadFrameSize(r io.Reader, limit int) (int, error) {
	var b [FrameLenSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	n := int32(binary.BigEndian.Uint32(b[:]))
	if n < MinHeader || int(n) > limit {
		return 0, fmt.Errorf("%w: a frame of %d bytes (limit %d)", ErrMalformed, n, limit)
	}
	return int(n), nil
}

// ReadFrame reads a frame of n bytes, the first of which, head, were read already. Memory follows what arrives, not
// what the length claims.
func ReadFrame(r io.Reader, n int, head []byte) (*Frame, error) {
	if n <= growStep {
		f := newFrame(n)
		copy(f.B, head)
		if _, err := io.ReadFull(r, f.B[len(head):]); err != nil {
			f.Release()
			return nil, err
		}
		return f, nil
	}
	b := make([]byte, growStep)
	got := copy(b, head)
	for {
		m, err := io.ReadFull(r, b[got:])
		got += m
		if err != nil {
			return nil, err
		}
		if got == n {
			return &Frame{B: b, class: -1}, nil
		}
		grown := make([]byte, min(n, 4*len(b)))
		copy(grown, b)
		b = grown
	}
}
