package segment

import "time"

// Log is the log of one partition replica. One writer (Raft) at a time calls Append, TruncateSuffix and
// AdvanceStart; everything else may be called concurrently with it and with each other.
type Log struct{}

// Open recovers the log in o.Dir, or makes an empty one.
func Open(o Options) (*Log, error) { panic("todo") }

// FirstIndex and LastIndex are 0 when the log is empty and never held anything; after prefix deletion of
// everything FirstIndex is LastIndex+1.
func (l *Log) FirstIndex() uint64 { panic("todo") }
func (l *Log) LastIndex() uint64  { panic("todo") }

// StartOffset is the lowest Kafka offset that may be read, NextOffset the one that the next record gets.
func (l *Log) StartOffset() int64 { panic("todo") }
func (l *Log) NextOffset() int64  { panic("todo") }

// Term of an entry, answered from memory, also for FirstIndex-1.
func (l *Log) Term(index uint64) (uint64, bool) { panic("todo") }

// Type of an entry, answered from memory, with the payload of a configuration.
func (l *Log) Type(index uint64) (t Type, payload []byte, ok bool) { panic("todo") }

// Entry reads the description of an entry (memory for recent ones, else a read near an index entry).
func (l *Log) Entry(index uint64) (Entry, error) { panic("todo") }

// Scan calls f with each entry from index first on, in order, until f returns false or the log ends.
func (l *Log) Scan(first uint64, f func(Entry) bool) error { panic("todo") }

// Append stamps and writes the entries with one write, and returns when they are durable (Config.Fsync), else when
// written. On error the log is as before the call, or failed (ErrFailed). Indexes follow LastIndex without a gap;
// the first append of an empty log may have any index.
func (l *Log) Append(entries []NewEntry) error { panic("todo") }

// TruncateSuffix removes the entries from index first on; durable on return (safety rule 9).
func (l *Log) TruncateSuffix(first uint64) error { panic("todo") }

// AdvanceStart moves the log start to offset (retention, DeleteRecords): whole segments below it are deleted, and
// FirstIndex moves to the first kept segment's. Durable on return.
func (l *Log) AdvanceStart(offset int64) error { panic("todo") }

// Reset empties the log durably (a mark first, so that a crash finishes it), the next entry to be index next with
// Kafka offset offset, following an entry of term prevTerm (safety rule 6, and the start of an empty replica from a
// checkpoint).
func (l *Log) Reset(next uint64, offset int64, prevTerm uint64) error { panic("todo") }

// ReadIndexes returns the frames of entries first.. as one range of one file: at most last, at most maxBytes unless
// the first frame alone is larger.
func (l *Log) ReadIndexes(first, last uint64, maxBytes int) (Range, error) { panic("todo") }

// ReadOffsets returns stretches of batches from the one holding offset on, only batches that lie below limit
// (NextOffset of the batch <= limit), at most maxBytes in all; when minOne, the first batch even if larger.
// Reserved frames are never inside a range. ErrNotFound when offset < StartOffset or > NextOffset; no ranges at the end.
func (l *Log) ReadOffsets(offset, limit int64, maxBytes int, minOne bool) ([]Range, error) {
	panic("todo")
}

// EpochEnd answers OffsetForLeaderEpoch: the largest epoch <= epoch that the log knows and the offset where it ends
// (NextOffset for the last one); -1, -1 when unknown.
func (l *Log) EpochEnd(epoch int32) (int32, int64) { panic("todo") }

// EpochAt is the leader epoch of the batch that holds offset (or would), from memory.
func (l *Log) EpochAt(offset int64) (int32, bool) { panic("todo") }

// OffsetForTime returns the base offset of the first batch with a max timestamp >= ts (ms), and its index; ok false
// when there is none. The caller looks into the batch for the record.
func (l *Log) OffsetForTime(ts int64) (offset int64, ok bool, err error) { panic("todo") }

// MaxTimestamp returns the largest timestamp of the log and the base offset of its batch; -1, -1 when empty.
func (l *Log) MaxTimestamp() (ts, offset int64) { panic("todo") }

// Segment describes one segment file.
type Segment struct {
	Path                   string
	BaseOffset, NextOffset int64
	FirstIndex, LastIndex  uint64
	Size                   int64 // bytes of frames, without preallocated space
	MaxTimestamp           int64
	Created                time.Time
	Active                 bool
}

// Segments lists the segments in order, the active one last.
func (l *Log) Segments() []Segment { panic("todo") }

// Size is the sum of the segments' sizes.
func (l *Log) Size() int64 { panic("todo") }

// OnRoll registers f, called by the writer after a roll with the base index of the new segment, before its first
// entry is stored: everything up to base-1 is in closed, synced segments.
func (l *Log) OnRoll(f func(baseIndex uint64)) { panic("todo") }

// Sync makes all that was written durable.
func (l *Log) Sync() error { panic("todo") }

// Recovery says what Open found.
type Recovery struct {
	Clean     bool  // closed by Close
	SameBoot  bool  // the machine did not restart since
	TornBytes int64 // cut from the tail of the last segment
	BytesRead int64
}

func (l *Log) Recovery() Recovery { panic("todo") }

// Close syncs, releases preallocated space, writes the clean mark and closes the files.
func (l *Log) Close() error { panic("todo") }
