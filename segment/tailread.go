package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/vfs"
)

const (
	tailBuffer = 256 << 10
	// maxConfig bounds the payload of a configuration frame that is believed.
	maxConfig = 16 << 20
)

// tail reads the end of a segment file.
type tail struct {
	f          vfs.File
	size       int64 // without the zeros that the file system knows of
	headerSize int64
	read       *int64

	buf   []byte
	start int64 // of have
	have  []byte
}

// view returns n bytes at pos, or fewer at the end of the file. n is at most tailBuffer. Valid until the next call.
func (t *tail) view(pos int64, n int) ([]byte, error) {
	n = int(min(int64(n), t.size-pos))
	if off := pos - t.start; off >= 0 && off+int64(n) <= int64(len(t.have)) {
		return t.have[off : off+int64(n)], nil
	}
	if t.buf == nil {
		t.buf = make([]byte, tailBuffer)
	}
	k, err := t.f.ReadAt(t.buf[:min(tailBuffer, t.size-pos)], pos)
	if k < n {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read at %d: %w", pos, err)
	}
	*t.read += int64(k)
	t.start, t.have = pos, t.buf[:k]
	return t.have[:n], nil
}

// rewrite writes the bytes from..to, which were read and checked, once more where they are, so that a sync has to bring
// them to the disk.
func (t *tail) rewrite(from, to int64) error {
	buf := make([]byte, tailBuffer)
	for at := from; at < to; {
		n := min(int64(len(buf)), to-at)
		if k, err := t.f.ReadAt(buf[:n], at); int64(k) < n {
			return fmt.Errorf("read at %d: %w", at, err)
		}
		if _, err := t.f.WriteAt(buf[:n], at); err != nil {
			return fmt.Errorf("write again at %d: %w", at, err)
		}
		at += n
	}
	return nil
}

// header parses the file's header.
func (t *tail) header() (fileHeader, error) {
	b, err := t.view(0, maxHeader)
	if err != nil {
		return fileHeader{}, err
	}
	h, n, err := parseHeader(b)
	t.headerSize = int64(n)
	return h, err
}

// sound checks the whole frame at c, with its CRC, where term is in force, and describes it without header and payload.
// errBadFrame: it is none.
func (t *tail) sound(c cursor, term uint64) (e Entry, err error) {
	bad := func(err error) (Entry, error) {
		return Entry{}, fmt.Errorf("%w at position %d: %w", errBadFrame, c.pos, err)
	}
	b, err := t.view(c.pos, record.HeaderSize)
	if err != nil {
		return Entry{}, err
	}
	if e, err = parseHead(b); err != nil {
		return bad(err)
	}
	if err := c.accepts(&e, t.size); err != nil {
		return bad(err)
	}
	if err := follows(Entry{Term: term, NextOffset: c.offset}, e); err != nil {
		return bad(err)
	}
	e.Index = c.index
	ok, err := t.checksum(c.pos, e)
	if err != nil {
		return Entry{}, err
	}
	if !ok {
		return bad(errors.New("CRC"))
	}
	return e, nil
}

// frame is sound with the header of a batch and the payload of a configuration.
func (t *tail) frame(c cursor, term uint64) (Entry, error) {
	var head [record.HeaderSize]byte
	b, err := t.view(c.pos, record.HeaderSize)
	if err != nil {
		return Entry{}, err
	}
	n := copy(head[:], b)
	e, err := t.sound(c, term)
	if err != nil {
		return Entry{}, err
	}
	if e.Type == Batch {
		e.Header = append([]byte(nil), head[:n]...)
	}
	if e.Type == Configuration {
		if e.Size > maxConfig {
			return Entry{}, fmt.Errorf("%w at position %d: configuration of %d bytes", errBadFrame, c.pos, e.Size)
		}
		e.Payload = make([]byte, e.Size-reservedSize)
		if n, err := t.f.ReadAt(e.Payload, c.pos+reservedSize); n < len(e.Payload) {
			return Entry{}, err
		}
	}
	return e, nil
}

// checksum computes the CRC of the frame at pos, whose head is e, piece by piece: a damaged length costs no memory.
func (t *tail) checksum(pos int64, e Entry) (bool, error) {
	b, err := t.view(pos, 21)
	if err != nil {
		return false, err
	}
	want := binary.BigEndian.Uint32(b[17:])
	crc := uint32(0)
	if e.Type != Batch {
		crc = crc32.Checksum(b[:prefixSize], castagnoli)
	}
	for at, end := pos+21, pos+int64(e.Size); at < end; {
		if _, err := t.view(at, 1); err != nil {
			return false, err
		}
		b := t.have[at-t.start:]
		b = b[:min(int64(len(b)), end-at)]
		crc = crc32.Update(crc, castagnoli, b)
		at += int64(len(b))
	}
	return crc == want, nil
}

// used returns how many bytes from pos on are there before the zeros at the end.
func (t *tail) used(pos int64) (int64, error) {
	end := pos
	for at := pos; at < t.size; {
		b, err := t.view(at, 64<<10)
		if err != nil {
			return 0, err
		}
		for i, v := range slices.Backward(b) {
			if v != 0 {
				end = at + int64(i) + 1
				break
			}
		}
		at += int64(len(b))
	}
	return end - pos, nil
}

// search returns the position of the first sound frame at or after from that may follow c, -1 when there is none.
// Records may hold anything, frames too: inside the length that the bad frame at c claims, only frames that follow one
// another to the end of what is written count.
func (t *tail) search(from int64, c cursor, term uint64) (int64, error) {
	claimed := from
	if b, err := t.view(c.pos, record.HeaderSize); err != nil {
		return -1, err
	} else if e, err := parseHead(b); err == nil && c.accepts(&e, t.size) == nil {
		claimed = c.pos + int64(e.Size)
	}
	used, err := t.used(c.pos)
	if err != nil {
		return -1, err
	}
	end := c.pos + used
	const step = 64 << 10
	for at := from; at < end; at += step {
		b, err := t.view(at, step+record.HeaderSize)
		if err != nil {
			return -1, err
		}
		b = append([]byte(nil), b...) // checksum moves the view
		for i := 0; i < step && i+prefixSize < len(b); i++ {
			if m := b[i+16]; m != 2 && m&reservedBit == 0 {
				continue
			}
			e, err := parseHead(b[i:])
			if err != nil || e.Type == typeHeader || e.BaseOffset < c.offset || e.Term < term ||
				e.Type != Batch && e.Index <= c.index || at+int64(i+e.Size) > t.size {
				continue
			}
			pos := at + int64(i)
			reached, err := t.chain(pos, pos < claimed, end)
			if err != nil {
				return -1, err
			}
			if reached > pos && (pos >= claimed || reached >= end) {
				return pos, nil
			}
		}
	}
	return -1, nil
}

// chain returns where the sound frames end that follow one another from pos on; all says whether to look further
// than the first.
func (t *tail) chain(pos int64, all bool, end int64) (int64, error) {
	var prev Entry
	for first := true; pos < end && (first || all); first = false {
		b, err := t.view(pos, record.HeaderSize)
		if err != nil {
			return pos, err
		}
		e, err := parseHead(b)
		if err != nil || e.Type == typeHeader || pos+int64(e.Size) > t.size || !first && follows(prev, e) != nil {
			return pos, nil //nolint:nilerr // the chain ends
		}
		if ok, err := t.checksum(pos, e); err != nil || !ok {
			return pos, err
		}
		prev = e
		pos += int64(e.Size)
	}
	return pos, nil
}
