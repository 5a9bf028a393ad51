package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Bounds of decompression. A batch in flight is bounded by max.message.bytes; what it expands to is not, so payloads
// are streamed: the memory of a walk is one decoder's.
const (
	// windowSize is the part of the decompressed stream that a walk holds.
	windowSize = 64 << 10
	// maxZstdWindow is what the zstd format asks every decoder to support; levels 20-22 of the reference encoder make
	// larger ones for large inputs, and are refused then.
	maxZstdWindow = 8 << 20
	// maxSnappyBlock bounds a snappy block, which is decoded as a whole. A megabyte of snappy cannot decode to more
	// than some 22 MiB.
	maxSnappyBlock = 32 << 20
	// keepSnappy is the largest block buffer that an idle decoder keeps.
	keepSnappy = 1 << 20
)

// decoder is what one walk over a compressed payload needs. There are few in the process (decoders), so that the memory
// of all walks together is bounded; a walk waits for a free one.
type decoder struct {
	window [windowSize]byte
	stream io.Reader

	src    bytes.Reader
	gz     *gzip.Reader
	zstd   *zstd.Decoder
	lz4    *lz4.Reader
	snappy snappyReader
}

var decoders = func() chan *decoder {
	n := min(max(2, runtime.GOMAXPROCS(0)), 16)
	c := make(chan *decoder, n)
	for range n {
		c <- new(decoder)
	}
	return c
}()

// openDecoder waits for a free decoder and points it at src. release gives it back.
func openDecoder(codec int8, src []byte) (*decoder, error) {
	if codec < CodecGzip || codec > CodecZstd {
		return nil, fmt.Errorf("%w: %d", ErrCodec, codec)
	}
	d := <-decoders
	if err := d.open(codec, src); err != nil {
		d.release()
		return nil, decodeError(err)
	}
	return d, nil
}

func (d *decoder) open(codec int8, src []byte) (err error) {
	d.src.Reset(src)
	switch codec {
	case CodecGzip:
		if d.gz == nil {
			d.gz = new(gzip.Reader)
		}
		err = d.gz.Reset(&d.src)
		d.stream = d.gz
	case CodecSnappy:
		err = d.snappy.reset(src)
		d.stream = &d.snappy
	case CodecLZ4:
		if d.lz4 == nil {
			d.lz4 = lz4.NewReader(nil)
		}
		d.lz4.Reset(&d.src)
		d.stream = d.lz4
	case CodecZstd:
		if d.zstd == nil {
			d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderMaxMemory(1<<40))
			if err != nil {
				return err
			}
		}
		err = d.zstd.Reset(&d.src)
		d.stream = d.zstd
	}
	return err
}

func (d *decoder) release() {
	d.src.Reset(nil)
	d.stream = nil
	if d.zstd != nil {
		_ = d.zstd.Reset(nil)
	}
	d.snappy.src = nil
	d.snappy.out = nil
	if cap(d.snappy.block) > keepSnappy {
		d.snappy.block = nil
	}
	decoders <- d
}

// decodeError makes an error of a decompressor one of ours.
func decodeError(err error) error {
	switch {
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrInvalid):
		return err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	default:
		return fmt.Errorf("%w: cannot be decompressed: %w", ErrInvalid, err)
	}
}

// xerialMagic opens the framing of the Java snappy stream:
//
//	magic (8), version (4), lowest compatible version (4), then blocks: length (4), a raw snappy block
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const (
	xerialHeader = 16
	xerialBlock  = 32 << 10
)

// snappyReader decodes block by block: xerial framing, or one raw block.
type snappyReader struct {
	src    []byte
	xerial bool
	block  []byte // decoded, reused
	out    []byte // part of block that was not read yet
}

func (s *snappyReader) reset(src []byte) error {
	s.out = nil
	s.xerial = bytes.HasPrefix(src, xerialMagic)
	if s.xerial {
		if len(src) < xerialHeader {
			return io.ErrUnexpectedEOF
		}
		src = src[xerialHeader:]
	}
	s.src = src
	return nil
}

func (s *snappyReader) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if len(s.src) == 0 {
			return 0, io.EOF
		}
		block := s.src
		if s.xerial {
			if len(s.src) < 4 {
				return 0, io.ErrUnexpectedEOF
			}
			n := binary.BigEndian.Uint32(s.src)
			if uint64(n) > uint64(len(s.src)-4) {
				return 0, io.ErrUnexpectedEOF
			}
			block, s.src = s.src[4:4+n], s.src[4+n:]
		} else {
			s.src = nil
		}
		n, err := snappy.DecodedLen(block)
		if err != nil {
			return 0, err
		}
		// Believe a length only as far as snappy can compress: 64 bytes by a copy of 3.
		if n > 24*len(block) {
			return 0, fmt.Errorf("%w: a snappy block of %d bytes from %d", ErrInvalid, n, len(block))
		}
		if n > maxSnappyBlock {
			return 0, fmt.Errorf("%w: a snappy block of %d bytes", ErrTooLarge, n)
		}
		if n > cap(s.block) {
			s.block = make([]byte, n)
		}
		if s.out, err = snappy.Decode(s.block[:cap(s.block)], block); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// newEncoder writes the compressed form of what is written to it to dst; Close finishes it. Level 0 is the codec's
// default.
func newEncoder(codec int8, level int, dst io.Writer) (io.WriteCloser, error) {
	switch codec {
	case CodecGzip:
		if level == 0 {
			level = gzip.DefaultCompression
		}
		return gzip.NewWriterLevel(dst, level)
	case CodecSnappy:
		return &xerialWriter{dst: dst}, nil
	case CodecLZ4:
		w := lz4.NewWriter(dst)
		// Kafka's levels are those of the reference encoder: up to 2 fast, from 3 (here 9 at most) high compression.
		l := lz4.Fast
		if level >= 3 {
			l = lz4.CompressionLevel(1 << (8 + min(level, 9)))
		}
		return w, w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.CompressionLevelOption(l))
	case CodecZstd:
		l := zstd.SpeedDefault
		if level != 0 {
			l = zstd.EncoderLevelFromZstd(level)
		}
		return zstd.NewWriter(dst, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(l), zstd.WithLowerEncoderMem(true))
	default:
		return nil, fmt.Errorf("%w: %d", ErrCodec, codec)
	}
}

// xerialWriter frames snappy as the Java clients and brokers do; every client reads it.
type xerialWriter struct {
	dst     io.Writer
	started bool
	buf     []byte // not compressed yet
	out     []byte
}

func (w *xerialWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), xerialBlock-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		if len(w.buf) == xerialBlock {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (w *xerialWriter) flush() error {
	w.out = w.out[:0]
	if !w.started {
		w.started = true
		w.out = append(append(w.out, xerialMagic...), 0, 0, 0, 1, 0, 0, 0, 1)
	}
	if len(w.buf) > 0 {
		block := snappy.Encode(nil, w.buf)
		w.out = append(binary.BigEndian.AppendUint32(w.out, uint32(len(block))), block...)
		w.buf = w.buf[:0]
	}
	_, err := w.dst.Write(w.out)
	return err
}

func (w *xerialWriter) Close() error { return w.flush() }
