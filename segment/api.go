// Package segment keeps the log of one partition: segment files that are the Raft log and the Kafka log at once.
package segment

import (
	"errors"
	"log/slog"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

// Type says what an entry is. A batch carries Kafka offsets; every other type has a Raft index and no offset
// ("zero-width"), stands in the file as a reserved frame, and is never sent to a client.
type Type uint8

const (
	Batch Type = iota + 1
	Noop
	Barrier
	Configuration // Payload is raft.EncodeConfiguration's
	Void          // a refused append (safety rule 15)
	Command       // a state machine's own command: Payload is the machine's
)

var (
	// ErrNotFound: the index or offset is outside the log.
	ErrNotFound = errors.New("segment: not in the log")
	// ErrCorrupt: bytes that were durable do not check. The replica must stop serving (safety rule 12).
	ErrCorrupt = errors.New("segment: corrupt")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("segment: closed")
	// ErrFailed: a write or sync failed earlier; the log takes no more appends until it is reopened (safety rule 8).
	ErrFailed = errors.New("segment: failed")
	// ErrInvalid: the entries handed to Append do not fit the log; nothing was written.
	ErrInvalid = errors.New("segment: invalid append")
)

// Entry describes one entry without its records.
type Entry struct {
	Index, Term uint64
	Type        Type
	// BaseOffset is the offset of the first record of a batch; for other types the next record's offset.
	BaseOffset int64
	// NextOffset is BaseOffset plus the number of offsets that the entry takes.
	NextOffset int64
	// Size is the number of bytes on disk.
	Size int
	// Payload of a reserved frame; nil for a batch.
	Payload []byte
	// Header is the first record.HeaderSize bytes of a batch (a copy or a stable slice); nil for other types.
	Header []byte
}

// NewEntry is an entry to append. Append stamps base offset and leader epoch into a batch's Data in place.
type NewEntry struct {
	Index, Term uint64
	Type        Type
	Data        []byte // the whole batch, or the payload of a reserved frame
	// Stamped: Data is a batch stamped by a leader. Append then refuses it when base offset or epoch are not what it
	// would stamp, instead of stamping.
	Stamped bool
}

// Options of a Log. Zero values of the numbers mean Kafka's defaults.
type Options struct {
	FS     vfs.FS
	Dir    string // made by Open if it is not there
	Sync   *Syncer
	Logger *slog.Logger
	// Config returns the settings in force; it may change while the log is open.
	Config func() Config
	Now    func() time.Time
	// DurableIndex: entries up to it are known to have been durable (the kept high watermark). Open fails with
	// ErrCorrupt when the log ends before (safety rule 12).
	DurableIndex uint64
	// BootID names the run of the machine; empty: the system's. For tests of crashes.
	BootID string
}

// Config is the part of a topic's configuration that shapes segments.
type Config struct {
	SegmentBytes       int64
	SegmentAge         time.Duration
	IndexIntervalBytes int
	// Fsync: Append returns when its bytes are durable. Otherwise they are flushed in the background.
	Fsync bool
	// FileDeleteDelay is how long a deleted segment's file stays under its .deleted name.
	FileDeleteDelay time.Duration
	// DiskTight: the disk is nearly full, so space is preallocated in the smallest chunks only.
	DiskTight bool
}

// Range is a stretch of whole frames in one file, pinned until Release: a truncation or deletion meanwhile does
// not change the bytes read from it (the file is kept, or the read reports ErrNotFound; see ReadAt).
type Range struct {
	File      vfs.File
	Pos       int64
	Len       int
	Release   func() // call exactly once
	First     uint64 // Raft index of the first frame
	Last      uint64
	NextIndex uint64

	offset int64 // of the first record at or behind the first frame
}
