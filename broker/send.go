package broker

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/segment"
)

// piece is where ranges of files go into a response: after its first upTo bytes.
type piece struct {
	upTo   int
	ranges []segment.Range
}

const (
	// copyBelow: answers with at most so many bytes of records are copied into one write; larger ones go from file to socket.
	copyBelow = 64 << 10
	// sendChunk is what a client must take within writeTime.
	sendChunk = 1 << 20
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBelow); return &b }}

// sendPieces sends b with the pieces in their places. The length of the answer is promised already, so a range that
// cannot be read costs the connection.
func (k *conn) sendPieces(b []byte, pieces []piece) {
	from := 0
	for _, p := range pieces {
		k.writeAll(b[from:p.upTo])
		from = p.upTo
		for _, r := range p.ranges {
			if k.broken {
				return
			}
			k.sendRange(r)
		}
	}
	k.writeAll(b[from:])
	k.keep(b)
}

// readFull fills b; io.EOF together with the last byte is no error.
func readFull(f io.ReaderAt, b []byte, pos int64) error {
	n, err := f.ReadAt(b, pos)
	if n == len(b) {
		return nil
	}
	return err
}

// keep takes b back as the buffer for answers.
func (k *conn) keep(b []byte) {
	if cap(b) <= keepOut {
		k.out = b[:0]
	}
}

// sendRange sends a range from file to socket where the system can do that, by way of a buffer elsewhere.
func (k *conn) sendRange(r segment.Range) {
	if f := r.File.OS(); f != nil && canSendfile {
		if tc, ok := k.nc.(*net.TCPConn); ok {
			if err := k.sendfile(tc, f, r.Pos, r.Len); err != nil {
				k.sendFailed(r, err)
			}
			return
		}
	}
	bp := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(bp)
	for pos, left := r.Pos, r.Len; left > 0 && !k.broken; {
		n := min(left, len(*bp))
		if err := readFull(r.File, (*bp)[:n], pos); err != nil {
			k.unreadable(r, err)
			return
		}
		k.writeAll((*bp)[:n])
		pos += int64(n)
		left -= n
	}
}

func (k *conn) sendfile(tc *net.TCPConn, f *os.File, pos int64, left int) error {
	raw, err := tc.SyscallConn()
	if err != nil {
		return err
	}
	for left > 0 {
		_ = k.nc.SetWriteDeadline(time.Now().Add(writeTime))
		n, err := sendfile(raw, f, pos, min(left, sendChunk))
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		pos += int64(n)
		left -= n
	}
	return nil
}

// sendFailed ends the connection. Mostly the client went; a file that is too short is ours.
func (k *conn) sendFailed(r segment.Range, err error) {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		k.unreadable(r, err)
		return
	}
	k.breakOff()
}

func (k *conn) unreadable(r segment.Range, err error) {
	k.log.Error("a range of a segment cannot be read", "file", r.File.Name(), "pos", r.Pos, "len", r.Len, "err", err)
	k.breakOff()
}
