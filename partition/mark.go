package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/balsa-broker/balsa/vfs"
)

// A mark is the kept high watermark: an index known committed and held here. It lets a restart apply what it may without
// asking, and it is evidence: a log that ends below it has lost acknowledged entries (safety rule 12).
type mark struct {
	index, term uint64
	durable     bool  // the entry was on disk when the mark was written
	offset      int64 // the high watermark then
	flushed     int64 // ms since 1970: all that was appended before was on disk; 0 when that is not known
}

// The file has two slots, written in turn, so that a torn write leaves the other one:
//
//	offset size field            (slot 0 at 0, slot 1 at 512)
//	     0    4 magic "BHW2"
//	     4    4 flags: 1 = the index was durable
//	     8    8 index
//	    16    8 term
//	    24    8 sequence: the higher slot counts
//	    32    8 offset
//	    40    8 flushed, ms since 1970
//	    48    4 CRC-32C of the above
const (
	markName   = "high-watermark"
	markMagic  = "BHW2"
	markSize   = 52
	markStride = 512
)

// markFile is not safe for concurrent use.
type markFile struct {
	fsys  vfs.FS
	dir   string
	seq   uint64
	last  mark
	named bool // the file's name is durable
}

// openMark reads the kept mark; zero when there is none.
func openMark(fsys vfs.FS, dir string) (*markFile, error) {
	m := &markFile{fsys: fsys, dir: dir}
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, markName), 2*markStride)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read high watermark: %w", err)
	}
	for off := 0; off+markSize <= len(b); off += markStride {
		s := b[off : off+markSize]
		if string(s[:4]) != markMagic || crc32.Checksum(s[:48], castagnoli) != binary.BigEndian.Uint32(s[48:]) {
			continue
		}
		if seq := binary.BigEndian.Uint64(s[24:]); seq > m.seq {
			m.seq = seq
			m.last = mark{
				index:   binary.BigEndian.Uint64(s[8:]),
				term:    binary.BigEndian.Uint64(s[16:]),
				durable: binary.BigEndian.Uint32(s[4:])&1 != 0,
				offset:  int64(binary.BigEndian.Uint64(s[32:])),
				flushed: int64(binary.BigEndian.Uint64(s[40:])),
			}
		}
	}
	return m, nil
}

// write keeps k. It need not be durable to be useful (an older mark is only a lower one); sync makes it so.
func (m *markFile) write(k mark, sync bool) error {
	if k == m.last && !sync {
		return nil
	}
	f, err := m.fsys.OpenFile(filepath.Join(m.dir, markName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("keep high watermark: %w", err)
	}
	b := make([]byte, 0, markSize)
	b = append(b, markMagic...)
	flags := uint32(0)
	if k.durable {
		flags = 1
	}
	b = binary.BigEndian.AppendUint32(b, flags)
	b = binary.BigEndian.AppendUint64(b, k.index)
	b = binary.BigEndian.AppendUint64(b, k.term)
	b = binary.BigEndian.AppendUint64(b, m.seq+1)
	b = binary.BigEndian.AppendUint64(b, uint64(k.offset))
	b = binary.BigEndian.AppendUint64(b, uint64(k.flushed))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	_, err = f.WriteAt(b, int64((m.seq+1)%2)*markStride)
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && sync && !m.named {
		err = m.fsys.SyncDir(m.dir)
		m.named = err == nil
	}
	if err != nil {
		return fmt.Errorf("keep high watermark: %w", err)
	}
	m.seq++
	m.last = k
	return nil
}

// reset forgets the mark, durably (safety rule 6: before a log is wiped).
func (m *markFile) reset() error {
	m.last, m.seq, m.named = mark{}, 0, false
	err := m.fsys.Remove(filepath.Join(m.dir, markName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reset high watermark: %w", err)
	}
	return m.fsys.SyncDir(m.dir)
}
