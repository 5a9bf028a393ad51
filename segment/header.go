package segment

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The header of a segment file is a reserved frame of type 0. Its base offset is that of the segment, its index that
// of the first entry, its term that of the entry before the first (0: none or unknown). It is written in one write
// with the segment's first entries. Its payload:
//
//	offset size field
//	     0    8 "BALSASEG"
//	     8    2 format version = 1
//	    10    2 length of the boot id
//	    12    8 segment id, random: the index file names it
//	    20    8 time of creation, ms since 1970
//	    28      boot id of the machine that made the file
const (
	headerMagic   = "BALSASEG"
	headerVersion = 1
	headerFixed   = 28
	maxHeader     = reservedSize + headerFixed + 256
)

type fileHeader struct {
	baseOffset int64
	firstIndex uint64
	prevTerm   uint64
	id         uint64
	created    int64
	boot       string
}

func (h fileHeader) append(buf []byte) []byte {
	boot := h.boot[:min(len(h.boot), 255)]
	p := make([]byte, headerFixed, headerFixed+len(boot))
	copy(p, headerMagic)
	binary.BigEndian.PutUint16(p[8:], headerVersion)
	binary.BigEndian.PutUint16(p[10:], uint16(len(boot)))
	binary.BigEndian.PutUint64(p[12:], h.id)
	binary.BigEndian.PutUint64(p[20:], uint64(h.created))
	p = append(p, boot...)
	return appendReserved(buf, typeHeader, h.firstIndex, h.prevTerm, h.baseOffset, p)
}

// parseHeader reads the header that a file starts with, and its size.
func parseHeader(b []byte) (h fileHeader, size int, err error) {
	e, err := parseHead(b)
	if err != nil {
		return h, 0, fmt.Errorf("header: %w", err)
	}
	if e.Type != typeHeader || e.Size < reservedSize+headerFixed || e.Size > maxHeader {
		return h, 0, fmt.Errorf("header: a %v frame of %d bytes", e.Type, e.Size)
	}
	if len(b) < e.Size {
		return h, 0, fmt.Errorf("header: %w", errShort)
	}
	b = b[:e.Size]
	if !checksumOK(b, typeHeader) {
		return h, 0, fmt.Errorf("header: CRC")
	}
	p := b[reservedSize:]
	if !bytes.Equal(p[:8], []byte(headerMagic)) {
		return h, 0, fmt.Errorf("header: not a segment file")
	}
	if v := binary.BigEndian.Uint16(p[8:]); v != headerVersion {
		return h, 0, fmt.Errorf("header: format version %d; this program knows %d", v, headerVersion)
	}
	if n := int(binary.BigEndian.Uint16(p[10:])); n != len(p)-headerFixed {
		return h, 0, fmt.Errorf("header: boot id of %d bytes", n)
	}
	return fileHeader{
		baseOffset: e.BaseOffset,
		firstIndex: e.Index,
		prevTerm:   e.Term,
		id:         binary.BigEndian.Uint64(p[12:]),
		created:    int64(binary.BigEndian.Uint64(p[20:])),
		boot:       string(p[headerFixed:]),
	}, e.Size, nil
}
