package segment

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/internal/iolock"
	"github.com/balsa-broker/balsa/vfs"
)

// Log is the log of one partition replica. Append, TruncateSuffix, AdvanceStart, Reset, Roll and Close exclude one
// another; everything else may be called concurrently with them and with each other.
type Log struct {
	o   Options
	rec Recovery

	// wmu is held by the one writer. What follows is the writer's.
	wmu       iolock.Mutex
	file      vfs.File // of the active segment, pinned; nil until the first append
	allocated int64    // size of the active file, with preallocated space
	idx       indexWriter
	persisted persisted
	onRoll    func(baseIndex uint64)
	flushing  bool // a flush of the background is on its way
	closed    bool
	failed    error
	// distrusted: Open found that the log had failed in this run of the machine.
	distrusted bool

	// mu guards the picture that readers take; it is never held over I/O. Only the writer changes it (holding wmu too),
	// so the writer reads it without mu.
	mu          sync.RWMutex
	segs        []*seg
	firstIndex  uint64 // 0: nothing was ever held
	prevTerm    uint64 // of entry firstIndex-1
	nextIndex   uint64 // 0: any
	nextOffset  int64
	startOffset int64
	synced      int64     // position in the active segment up to which it is durable
	flushed     time.Time // all that was appended before is durable
	terms       []termStart
	runs        []run
	configs     []configEntry
	recent      ring
	hints       hints
	generation  uint64 // counts truncations
}

// persisted is what the state file says.
type persisted struct {
	valid bool
	next  uint64
	clean bool
	// unsynced: entries may have counted before they were synced (Config.Fsync off).
	unsynced bool
	boot     string
}

// withDefaults fills in Kafka's defaults.
func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Sync == nil {
		o.Sync = NewSyncer(0)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Config == nil {
		o.Config = func() Config { return Config{Fsync: true} }
	}
	if o.BootID == "" {
		o.BootID = bootID()
	}
	return o
}

// config returns the settings in force with the defaults filled in.
func (l *Log) config() Config {
	c := l.o.Config()
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = 1 << 30
	}
	if c.SegmentAge <= 0 {
		c.SegmentAge = 7 * 24 * time.Hour
	}
	if c.IndexIntervalBytes <= 0 {
		c.IndexIntervalBytes = 4096
	}
	if c.FileDeleteDelay < 0 {
		c.FileDeleteDelay = 0
	}
	return c
}

// active is the last segment, nil when there is none yet. wmu or mu is held.
func (l *Log) active() *seg {
	if n := len(l.segs); n > 0 {
		return l.segs[n-1]
	}
	return nil
}

func (l *Log) usable() error {
	if l.closed {
		return ErrClosed
	}
	if l.failed != nil {
		return fmt.Errorf("%w: %w", ErrFailed, l.failed)
	}
	return nil
}

// fail ends all writing (safety rule 8) and returns the error for the call that met it.
func (l *Log) fail(what string, err error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("%s: %w", what, err)
		l.distrust()
		l.o.Logger.Error("log takes no more appends", "dir", l.o.Dir, "doing", what, "error", err)
	}
	return fmt.Errorf("%w: %w", ErrFailed, l.failed)
}

// distrust notes, for the next start in this run of the machine, that the page cache may show entries as clean that never
// reached the disk (safety rule 8): Open then writes what is not known durable once more. After a restart of the machine
// the cache is gone, so the note need not be durable. When it cannot be written, little else can.
func (l *Log) distrust() {
	f, err := l.o.FS.OpenFile(l.distrustPath(), os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		l.o.Logger.Error("cannot note that the log failed", "dir", l.o.Dir, "error", err)
	}
}

func (l *Log) distrustPath() string { return filepath.Join(l.o.Dir, "distrust") }

// FirstIndex and LastIndex are 0 when the log is empty and never held anything; after prefix deletion of
// everything FirstIndex is LastIndex+1.
func (l *Log) FirstIndex() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.firstIndex
}

// LastIndex: see FirstIndex.
func (l *Log) LastIndex() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.lastIndex()
}

func (l *Log) lastIndex() uint64 {
	if l.nextIndex == 0 {
		return 0
	}
	return l.nextIndex - 1
}

// StartOffset is the lowest Kafka offset that may be read, NextOffset the one that the next record gets.
func (l *Log) StartOffset() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.startOffset
}

// NextOffset: see StartOffset.
func (l *Log) NextOffset() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.nextOffset
}

// Term of an entry, answered from memory, also for FirstIndex-1.
func (l *Log) Term(index uint64) (uint64, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.term(index)
}

func (l *Log) term(index uint64) (uint64, bool) {
	if l.firstIndex > 0 && index == l.firstIndex-1 {
		return l.prevTerm, index > 0
	}
	if index < l.firstIndex || index >= l.nextIndex || index == 0 {
		return 0, false
	}
	i := sort.Search(len(l.terms), func(i int) bool { return l.terms[i].index > index })
	if i == 0 {
		return 0, false
	}
	return l.terms[i-1].term, true
}

// lastTerm is the term in force at the end. wmu or mu is held.
func (l *Log) lastTerm() uint64 {
	if n := len(l.terms); n > 0 {
		return l.terms[n-1].term
	}
	return l.prevTerm
}

// Type of an entry, answered from memory, with the payload of a configuration.
func (l *Log) Type(index uint64) (t Type, payload []byte, ok bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if index < l.firstIndex || index >= l.nextIndex || index == 0 {
		return 0, nil, false
	}
	i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].first > index })
	if i == 0 || index-l.runs[i-1].first >= uint64(l.runs[i-1].n) {
		return Batch, nil, true
	}
	if t = l.runs[i-1].typ; t == Configuration {
		_, payload = l.configurationAt(index)
	}
	return t, payload, true
}

// ConfigurationAt returns the last configuration at or below index, also when it stands before FirstIndex (the last
// of those is kept in memory and in the state file). index 0 and nil when there is none.
func (l *Log) ConfigurationAt(index uint64) (at uint64, payload []byte) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.configurationAt(index)
}

func (l *Log) configurationAt(index uint64) (uint64, []byte) {
	i := sort.Search(len(l.configs), func(i int) bool { return l.configs[i].index > index })
	if i == 0 {
		return 0, nil
	}
	return l.configs[i-1].index, l.configs[i-1].payload
}

// Segment describes one segment file.
type Segment struct {
	Path                   string
	BaseOffset, NextOffset int64
	FirstIndex, LastIndex  uint64
	Size                   int64 // bytes of frames, without preallocated space
	MaxTimestamp           int64 // -1: no batches
	Created                time.Time
	Active                 bool
}

// Segments lists the segments in order, the active one last.
func (l *Log) Segments() []Segment {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := make([]Segment, len(l.segs))
	for i, s := range l.segs {
		out[i] = Segment{
			Path: s.logPath(), BaseOffset: s.baseOffset, NextOffset: s.nextOffset, FirstIndex: s.firstIndex,
			LastIndex: max(s.nextIndex, 1) - 1, Size: s.size, MaxTimestamp: s.maxTS, Created: time.UnixMilli(s.created),
			Active: i == len(l.segs)-1,
		}
	}
	return out
}

// Size is the sum of the segments' sizes.
func (l *Log) Size() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var n int64
	for _, s := range l.segs {
		n += s.size
	}
	return n
}

// OnRoll registers f, called by the writer after a roll with the base index of the new segment, before its first
// entry is stored: everything up to base-1 is in closed, synced segments. f must not call Append, TruncateSuffix,
// AdvanceStart, Reset, Roll or Close. Register before the first append.
func (l *Log) OnRoll(f func(baseIndex uint64)) {
	l.wmu.Lock()
	l.onRoll = f
	l.wmu.Unlock()
}

// Durable says whether the entries up to index are known to be on disk.
func (l *Log) Durable(index uint64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.active()
	return index < l.nextIndex && (s == nil || l.synced >= s.size || index < s.firstIndex)
}

// Flushed is a time before which all that was appended is on disk; zero when none is known.
func (l *Log) Flushed() time.Time {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.active(); s == nil || l.synced >= s.size {
		return l.o.Now()
	}
	return l.flushed
}

// Recovery says what Open found.
type Recovery struct {
	Clean    bool // closed by Close
	SameBoot bool // the machine did not restart since
	// Unsynced: entries may have counted before they were synced (Config.Fsync was off). Unless Clean or SameBoot, the
	// end of what was appended may be missing (safety rule 13).
	Unsynced  bool
	TornBytes int64 // cut from the tail of the last segment
	BytesRead int64
}

// Recovery returns what Open found.
func (l *Log) Recovery() Recovery { return l.rec }
