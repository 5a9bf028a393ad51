package record

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// Rewrite returns b with its records compressed by codec at level (0: the codec's default), in a buffer of its own. The
// records and the header's other fields stay as they are, with a new CRC; b is not changed. When b has that codec
// already a plain copy is made. b went through Validate. limits.MaxRecordBytes bounds the result: what expands beyond it is
// ErrTooLarge, and no more memory than that is taken.
func Rewrite(b Batch, codec int8, level int, limits Limits) (Batch, error) {
	limits = limits.orDefault()
	out := bytes.NewBuffer(make([]byte, 0, len(b)))
	out.Write(b[:HeaderSize])
	if codec == b.Codec() {
		out.Write(b.Records())
		return Batch(out.Bytes()), nil
	}
	var src io.Reader = bytes.NewReader(b.Records())
	if b.Codec() != CodecNone {
		d, err := openDecoder(b.Codec(), b.Records())
		if err != nil {
			return nil, err
		}
		defer d.release()
		src = d.stream
	}
	bounded := &boundedWriter{out: out, max: HeaderSize + limits.MaxRecordBytes}
	var dst io.Writer = bounded
	var enc io.WriteCloser
	if codec != CodecNone {
		var err error
		if enc, err = newEncoder(codec, level, bounded); err != nil {
			return nil, err
		}
		dst = enc
	}
	n, err := io.Copy(dst, io.LimitReader(src, limits.MaxDecompressedBytes+1))
	if err != nil {
		return nil, decodeError(err)
	}
	if n > limits.MaxDecompressedBytes {
		return nil, fmt.Errorf("%w: decompresses to more than %d bytes", ErrTooLarge, limits.MaxDecompressedBytes)
	}
	if enc != nil {
		if err := enc.Close(); err != nil {
			return nil, decodeError(err)
		}
	}
	if out.Len() > math.MaxInt32 {
		return nil, ErrTooLarge
	}
	nb := Batch(out.Bytes())
	nb.setAttributes(nb.Attributes()&^7 | int16(codec))
	binary.BigEndian.PutUint32(nb[8:], uint32(len(nb)-Overhead))
	nb.StampCRC()
	return nb, nil
}

// boundedWriter takes bytes until there are too many.
type boundedWriter struct {
	out *bytes.Buffer
	max int
}

func (w *boundedWriter) Write(p []byte) (int, error) {
	if w.out.Len()+len(p) > w.max {
		return 0, fmt.Errorf("%w: more than %d bytes when compressed anew", ErrTooLarge, w.max)
	}
	return w.out.Write(p)
}
