package segment

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

// flushInterval and flushBytes bound what a log under the `replicated` policy leaves unsynced.
const (
	flushInterval = time.Second
	flushBytes    = 1 << 20
)

// Syncer is the one component of a broker that makes appended bytes durable, so that the syncs of many partitions
// can be shared. Logs hand it the range they wrote; how it becomes durable is the Syncer's business.
//
// This one syncs the file itself, a bounded number of files at a time. A shared journal would take the range's bytes
// in Sync and let the file be synced later.
type Syncer struct {
	slots chan struct{}

	mu    sync.Mutex
	files map[vfs.File]*fileSync
	dirty map[*Log]bool // waiting for the background flush
	timer *time.Timer   // runs while dirty is not empty

	syncs, waits, nanos, failures atomic.Uint64
}

// fileSync is the syncs of one file: at most one runs and one waits to start. Whoever comes while one runs joins the
// one that waits: only a sync that starts after the write covers it.
//
// After a sync that failed every later one of the file fails, too: the system tells the error once, and the pages that
// it lost count as clean (safety rule 8).
type fileSync struct {
	running bool
	next    *syncRound
	err     error
}

type syncRound struct {
	done chan struct{}
	err  error
}

// Append says what one log wrote.
type Append struct {
	File vfs.File
	Pos  int64
	Len  int
}

// NewSyncer returns a Syncer that runs at most parallel file syncs at once (0: 16).
func NewSyncer(parallel int) *Syncer {
	if parallel <= 0 {
		parallel = 16
	}
	return &Syncer{
		slots: make(chan struct{}, parallel),
		files: make(map[vfs.File]*fileSync),
		dirty: make(map[*Log]bool),
	}
}

// Sync returns when the range is durable, or with the error that says it may not be: then the file's pages are not
// to be believed (safety rule 8). Concurrent calls for one file share a sync.
func (s *Syncer) Sync(a Append) error {
	s.mu.Lock()
	s.waits.Add(1)
	fs := s.files[a.File]
	if fs == nil {
		fs = &fileSync{}
		s.files[a.File] = fs
	}
	if fs.err != nil {
		s.mu.Unlock()
		return fs.err
	}
	if r := fs.next; r != nil { // joins a sync that has not started
		s.mu.Unlock()
		<-r.done
		return r.err
	}
	r := &syncRound{done: make(chan struct{})}
	if fs.running {
		fs.next = r
		s.mu.Unlock()
		<-r.done
		return r.err
	}
	fs.running = true
	s.mu.Unlock()
	r.err = s.syncFile(a.File)
	s.after(a.File, fs, r.err)
	close(r.done)
	return r.err
}

// after starts the sync that gathered waiters during the one that ended with err.
func (s *Syncer) after(f vfs.File, fs *fileSync, err error) {
	s.mu.Lock()
	if err != nil {
		fs.err, fs.running = err, false
		if fs.next != nil {
			fs.next.err = err
			close(fs.next.done)
			fs.next = nil
		}
		s.mu.Unlock()
		return
	}
	if fs.next == nil {
		fs.running = false
		delete(s.files, f)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	go func() {
		s.slots <- struct{}{}
		s.mu.Lock()
		r := fs.next // joined until now
		fs.next = nil
		s.mu.Unlock()
		r.err = s.sync(f)
		<-s.slots
		s.after(f, fs, r.err)
		close(r.done)
	}()
}

// dismiss forgets a file that is closed.
func (s *Syncer) dismiss(f vfs.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fs := s.files[f]; fs != nil && !fs.running && fs.next == nil {
		delete(s.files, f)
	}
}

func (s *Syncer) syncFile(f vfs.File) error {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	return s.sync(f)
}

func (s *Syncer) sync(f vfs.File) error {
	begin := time.Now()
	err := f.Sync()
	s.nanos.Add(uint64(time.Since(begin)))
	s.syncs.Add(1)
	if err != nil {
		s.failures.Add(1)
	}
	return err
}

// later has l flushed in the background within flushInterval.
func (s *Syncer) later(l *Log) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty[l] {
		return
	}
	s.dirty[l] = true
	if s.timer == nil {
		s.timer = time.AfterFunc(flushInterval, s.flush)
	}
}

// forget takes l from the list of the background flush.
func (s *Syncer) forget(l *Log) {
	s.mu.Lock()
	delete(s.dirty, l)
	s.mu.Unlock()
}

func (s *Syncer) flush() {
	s.mu.Lock()
	logs := s.dirty
	s.dirty = make(map[*Log]bool)
	s.timer = nil
	s.mu.Unlock()
	var wg sync.WaitGroup
	gate := make(chan struct{}, cap(s.slots))
	for l := range logs {
		gate <- struct{}{}
		wg.Go(func() {
			l.flushBackground()
			<-gate
		})
	}
	wg.Wait()
}

// SyncerStats counts since the start.
type SyncerStats struct {
	Syncs    uint64        // file syncs done
	Requests uint64        // ranges made durable; more than Syncs when they were shared
	Failures uint64        // syncs that failed
	Time     time.Duration // sum over the syncs
}

// Stats returns the counters.
func (s *Syncer) Stats() SyncerStats {
	return SyncerStats{
		Syncs:    s.syncs.Load(),
		Requests: s.waits.Load(),
		Failures: s.failures.Load(),
		Time:     time.Duration(s.nanos.Load()),
	}
}
