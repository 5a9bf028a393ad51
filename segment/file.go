package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/internal/iolock"
	"github.com/balsa-broker/balsa/vfs"
)

const (
	logSuffix     = ".log"
	indexSuffix   = ".index"
	deletedSuffix = ".deleted"
)

// segInfo is what is known of one segment file. Changed by the writer under the log's mu.
type segInfo struct {
	baseOffset  int64
	firstIndex  uint64
	prevTerm    uint64 // of the entry before the first
	id          uint64
	created     int64 // ms
	size        int64 // bytes of frames, with the header's
	nextOffset  int64
	nextIndex   uint64
	maxTS       int64 // -1: no batch
	maxTSOffset int64 // base offset of the batch that has it; -1: to be searched
	indexRecs   int   // records in the index file
	headerSize  int64
}

// seg is one segment. Its log file is open while somebody has it pinned; the active one's is pinned by the log from
// the first append on.
type seg struct {
	segInfo
	dir         string
	firstAppend time.Time // of a batch, in this process; zero: created counts

	rebuild iolock.Mutex // one rebuild of the index at a time
	checked checked

	mu   sync.Mutex
	file vfs.File
	refs int
	gone bool // its files were deleted
}

func segmentName(base int64) string { return fmt.Sprintf("%020d", base) }

func (s *seg) logPath() string { return filepath.Join(s.dir, segmentName(s.baseOffset)+logSuffix) }

func (s *seg) indexPath() string { return filepath.Join(s.dir, segmentName(s.baseOffset)+indexSuffix) }

// pin opens the log file, or shares the open one, until unpin.
func (s *seg) pin(fsys vfs.FS) (vfs.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		if s.gone {
			return nil, fmt.Errorf("%w: segment %d was deleted", ErrNotFound, s.baseOffset)
		}
		f, err := fsys.OpenFile(s.logPath(), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		if err != nil {
			return nil, err
		}
		s.file = f
	}
	s.refs++
	return s.file, nil
}

func (s *seg) unpin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs--
	if s.refs == 0 {
		// Whatever had to be durable was synced before: an error of close loses nothing.
		_ = s.file.Close()
		s.file = nil
	}
}

func (s *seg) setGone() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
}

// cursor is a frame boundary: the next frame stands at pos, is entry index and the next offset is offset. maxTS is the
// largest timestamp of the batches before it in the segment.
type cursor struct {
	s      *seg
	pos    int64
	index  uint64
	offset int64
	maxTS  int64
}

func (s *seg) begin() cursor {
	return cursor{s: s, pos: s.headerSize, index: s.firstIndex, offset: s.baseOffset, maxTS: -1}
}

// end is read under the log's mu.
func (s *seg) end() cursor {
	return cursor{s: s, pos: s.size, index: s.nextIndex, offset: s.nextOffset, maxTS: s.maxTS}
}
