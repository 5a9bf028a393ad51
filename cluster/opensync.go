package cluster

import (
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

// Making a replica takes some ten syncs of small files and folders, each a commit of the file system's journal. When
// many replicas are opened at once (a topic of a thousand partitions) these syncs are gathered: all that wait are
// served by one sync of the whole file system. Each still returns only when its bytes are durable. A replica that is
// open syncs its own files again.
type openSync struct {
	fs  vfs.FS
	dir string

	opening atomic.Int32 // replicas being opened

	mu      sync.Mutex
	running bool
	next    *openRound
}

type openRound struct {
	done chan struct{}
	err  error
}

const (
	// gatherFrom is how many replicas must be opening for their syncs to be gathered.
	gatherFrom = 4
	// gatherFor is how long a round waits for company.
	gatherFor = time.Millisecond
)

// begin returns the file system for one replica; end says that it is open.
func (s *openSync) begin() (fsys vfs.FS, end func()) {
	s.opening.Add(1)
	o := &openFS{FS: s.fs, s: s}
	o.gather.Store(true)
	return o, func() {
		o.gather.Store(false)
		s.opening.Add(-1)
	}
}

// do runs direct, or waits for a sync of everything that starts after this call.
func (s *openSync) do(direct func() error) error {
	if s.opening.Load() < gatherFrom {
		return direct()
	}
	s.mu.Lock()
	r := s.next
	if r == nil {
		r = &openRound{done: make(chan struct{})}
		s.next = r
		if !s.running {
			s.running = true
			go s.run()
		}
	}
	s.mu.Unlock()
	<-r.done
	if r.err != nil {
		return direct() // it cannot be done for all, or one of the others' files fails
	}
	return nil
}

func (s *openSync) run() {
	for {
		time.Sleep(gatherFor)
		s.mu.Lock()
		r := s.next
		s.next = nil
		if r == nil {
			s.running = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		ok, err := vfs.SyncAll(s.fs, s.dir)
		if !ok && err == nil {
			err = errNoSyncAll
		}
		r.err = err
		close(r.done)
	}
}

var errNoSyncAll = errors.New("cluster: this file system is not synced as a whole")

type openFS struct {
	vfs.FS
	s      *openSync
	gather atomic.Bool
}

func (o *openFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := o.FS.OpenFile(name, flag, perm)
	if err != nil || !o.gather.Load() {
		return f, err
	}
	return &openFile{f, o}, nil
}

func (o *openFS) SyncDir(name string) error {
	if !o.gather.Load() {
		return o.FS.SyncDir(name)
	}
	return o.s.do(func() error { return o.FS.SyncDir(name) })
}

type openFile struct {
	vfs.File
	o *openFS
}

func (f *openFile) Sync() error {
	if !f.o.gather.Load() {
		return f.File.Sync()
	}
	return f.o.s.do(f.File.Sync)
}
