package segment

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// testLog opens a log on a crash double, with a no-op of term 1 in it.
func testLog(t testing.TB, fs *crashfs.FS, cfg Config) (*Log, Options, *model) {
	t.Helper()
	o := Options{FS: fs, Dir: "/log", Logger: quiet(), BootID: "boot-1", Config: func() Config { return cfg }, Sync: NewSyncer(0)}
	l, err := Open(o)
	must(t, err)
	m := &model{}
	es := []NewEntry{{Index: 1, Term: 1, Type: Noop}}
	m.add(es)
	must(t, l.Append(es))
	return l, o, m
}

func batches(m *model, n, size int) []NewEntry {
	var es []NewEntry
	for i := range n {
		es = append(es, NewEntry{Index: m.next() + uint64(i), Term: m.lastTerm(), Type: Batch, Data: makeBatch(2, 1000+int64(i), bytes.Repeat([]byte{byte(i + 1)}, size))})
	}
	return es
}

func mustAppend(t testing.TB, l *Log, m *model, es []NewEntry) {
	t.Helper()
	m.add(es)
	must(t, l.Append(es))
}

// TestDiskFull: an append for which there is no room changes nothing, reads go on, and appends are taken again when
// there is room (safety rule 14).
func TestDiskFull(t *testing.T) {
	for _, space := range []int64{64 << 10, 70_000, 100_000} {
		fs := crashfs.New(1)
		fs.SetSpace(space)
		l, o, m := testLog(t, fs, Config{Fsync: true})
		var err error
		for range 200 {
			es := batches(m, 3, 900)
			if err = l.Append(es); err != nil {
				break
			}
			m.add(es)
		}
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrFailed) {
			t.Fatalf("append on a full disk: %v", err)
		}
		verify(t, l, m)
		fs.SetSpace(-1)
		mustAppend(t, l, m, batches(m, 3, 900))
		verify(t, l, m)
		o.FS, o.BootID = fs.Crash(), "boot-2"
		l, err = Open(o)
		must(t, err)
		verify(t, l, m)
	}
}

// TestFailedSync: after a failed sync nothing more is taken, what the sync covered is not there to be read, and the
// next start finds all that was acknowledged (safety rules 7 and 8).
func TestFailedSync(t *testing.T) {
	for seed := range uint64(20) {
		fs := crashfs.New(seed)
		l, o, m := testLog(t, fs, Config{Fsync: true})
		mustAppend(t, l, m, batches(m, 5, 700))
		fs.SetHook(func(op crashfs.Op, name string) error {
			if op == crashfs.OpSync {
				return syscall.EIO
			}
			return nil
		})
		lost := batches(m, 5, 700)
		if err := l.Append(lost); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
			t.Fatalf("append with a failing sync: %v", err)
		}
		fs.SetHook(nil)
		verify(t, l, m)
		if err := l.Append(batches(m, 1, 10)); !errors.Is(err, ErrFailed) {
			t.Fatalf("append after a failed sync: %v", err)
		}
		if err := l.TruncateSuffix(2); !errors.Is(err, ErrFailed) {
			t.Fatalf("truncate after a failed sync: %v", err)
		}
		if err := l.Close(); !errors.Is(err, ErrFailed) {
			t.Fatalf("close after a failed sync: %v", err)
		}
		o.FS, o.BootID, o.DurableIndex = fs.Crash(), "boot-2", m.next()-1
		l, err := Open(o)
		must(t, err)
		both := m.clone()
		both.add(lost)
		verify(t, l, outcome(t, l, m, both, true))
	}
}

// TestRule8FailedSyncThenKill: after a failed sync the page cache shows entries as clean that never reached the disk. The
// next start of the process must not count them as they are: what it shows survives the loss of power.
func TestRule8FailedSyncThenKill(t *testing.T) {
	for seed := range uint64(30) {
		for _, again := range []bool{false, true} { // the first start's own sync fails, too
			fs := crashfs.New(seed)
			l, o, m := testLog(t, fs, Config{Fsync: true})
			mustAppend(t, l, m, batches(m, 5, 700))
			hook := func(op crashfs.Op, name string) error {
				if op == crashfs.OpSync && filepath.Ext(name) == logSuffix {
					return syscall.EIO
				}
				return nil
			}
			fs.SetHook(hook)
			if err := l.Append(batches(m, 5, 700)); !errors.Is(err, ErrFailed) {
				t.Fatal(err)
			}
			_ = l.Close()
			if len(o.Sync.files) > 0 {
				t.Fatal("the syncer keeps a file that was closed")
			}
			fs = fs.Kill()
			o.FS = fs
			if again {
				if _, err := Open(o); !errors.Is(err, syscall.EIO) {
					t.Fatalf("open with a failing sync: %v", err)
				}
			}
			fs.SetHook(nil)
			l, err := Open(o)
			must(t, err)
			shown := l.LastIndex()
			if shown < m.next()-1 {
				t.Fatalf("entries up to %d were acknowledged, the log ends at %d", m.next()-1, shown)
			}
			o.FS, o.BootID, o.DurableIndex = fs.Crash(), "boot-2", shown
			if _, err = Open(o); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}

// TestRule8WaitersOfAFailedSync: who joined while a sync ran that failed must not take the next one's success for his:
// the kernel tells an error once.
func TestRule8WaitersOfAFailedSync(t *testing.T) {
	fs := crashfs.New(1)
	f, err := fs.OpenFile("/f", os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	s := NewSyncer(1)
	begun, release := make(chan struct{}), make(chan struct{})
	var n int
	fs.SetHook(func(op crashfs.Op, name string) error {
		if op != crashfs.OpSync {
			return nil
		}
		if n++; n == 1 {
			close(begun)
			<-release
			return syscall.EIO
		}
		return nil
	})
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- s.Sync(Append{File: f}) }()
	<-begun
	go func() { second <- s.Sync(Append{File: f}) }()
	for joined := false; !joined; {
		s.mu.Lock()
		joined = s.files[f].next != nil
		s.mu.Unlock()
		runtime.Gosched()
	}
	close(release)
	if err := <-first; !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := <-second; !errors.Is(err, syscall.EIO) {
		t.Fatalf("the sync after a failed one says %v", err)
	}
	if err := s.Sync(Append{File: f}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a later sync says %v", err)
	}
}

func TestFailedWrite(t *testing.T) {
	fs := crashfs.New(1)
	l, _, m := testLog(t, fs, Config{Fsync: true})
	fs.SetHook(func(op crashfs.Op, name string) error {
		if op == crashfs.OpWrite && filepath.Ext(name) == logSuffix {
			return syscall.EIO
		}
		return nil
	})
	if err := l.Append(batches(m, 1, 10)); !errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	verify(t, l, m)
}

// TestEveryErrorOnce: each operation of the file system fails once in turn; the log is then as before the call or
// as after it, or failed, and the next start finds one of the two.
func TestEveryErrorOnce(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for n := 1; ; n++ {
			fs := crashfs.New(uint64(n))
			l, o, m := testLog(t, fs, Config{Fsync: true, SegmentBytes: 3000, IndexIntervalBytes: 1})
			left, hit := n, false
			fs.SetHook(func(op crashfs.Op, name string) error {
				if left--; left == 0 {
					hit = true
					return errno
				}
				return nil
			})
			before := m
			var err error
			for i := 0; i < 6 && err == nil; i++ {
				before, m = m, m.clone()
				if i == 4 {
					m.truncate(m.next() - 5)
					err = l.TruncateSuffix(before.next() - 5)
				} else {
					es := batches(m, 3, 400)
					m.add(es)
					err = l.Append(es)
				}
			}
			if err == nil {
				before = m
			}
			_ = l.Close()
			fs.SetHook(nil)
			o.FS = fs.Kill()
			l, oerr := Open(o)
			if oerr != nil && errno == syscall.EIO && errors.Is(oerr, ErrCorrupt) {
				continue // a failed sync dropped pages: never believed, never silently cut
			}
			must(t, oerr)
			verify(t, l, outcome(t, l, before, m, true))
			o.FS, o.BootID = o.FS.(*crashfs.FS).Crash(), "boot-2"
			l, oerr = Open(o)
			must(t, oerr)
			verify(t, l, outcome(t, l, before, m, true))
			if !hit {
				break
			}
		}
	}
}

// TestFlippedBits: one flipped byte anywhere in the frames of a file is seen by Dump, and recovery of a tail that
// was durable either finds it or did not need to read it; it never cuts silently (rule 12).
func TestFlippedBits(t *testing.T) {
	build := func() (*crashfs.FS, Options, *model) {
		fs := crashfs.New(7)
		l, o, m := testLog(t, fs, Config{Fsync: true, IndexIntervalBytes: 200})
		for range 8 {
			mustAppend(t, l, m, batches(m, 2, 60))
			mustAppend(t, l, m, []NewEntry{{Index: m.next(), Term: m.lastTerm(), Type: Command, Data: []byte("do it")}})
		}
		o.FS, o.DurableIndex = fs.Kill(), m.next()-1
		return o.FS.(*crashfs.FS), o, m
	}
	fs, o, _ := build()
	path := "/log/" + segmentName(0) + logSuffix
	sound, err := Dump(io.Discard, fs, path, false)
	if err != nil || !sound {
		t.Fatal(sound, err)
	}
	l, err := Open(o)
	must(t, err)
	size, headerSize := l.Size(), l.segs[0].headerSize
	for pos := range size {
		fs, o, _ = build()
		must(t, fs.Flip(path, pos, 1<<(pos%8)))
		for _, asJSON := range []bool{true, false} {
			if sound, err := Dump(io.Discard, fs, path, asJSON); err != nil || sound {
				t.Fatalf("flip at %d: dump says %v, %v", pos, sound, err)
			}
		}
		if _, err := Open(o); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("flip at %d: open says %v", pos, err)
		}
		if pos >= headerSize && pos < size-100 {
			o.DurableIndex = 0 // still: sound frames stand behind, and the machine did not restart
			if _, err := Open(o); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("flip at %d: open says %v", pos, err)
			}
		}
	}
}

// TestDamagedSideFiles: index and state files are worth nothing against the log itself: any byte of them may flip.
func TestDamagedSideFiles(t *testing.T) {
	build := func(clean bool) (*crashfs.FS, Options, *model) {
		fs := crashfs.New(7)
		l, o, m := testLog(t, fs, Config{Fsync: true, IndexIntervalBytes: 1, SegmentBytes: 3000})
		for range 8 {
			mustAppend(t, l, m, batches(m, 3, 100))
		}
		if clean {
			must(t, l.Close())
		}
		o.FS = fs.Kill()
		return o.FS.(*crashfs.FS), o, m
	}
	for _, clean := range []bool{true, false} {
		for _, name := range []string{"/log/state", "/log/" + segmentName(0) + indexSuffix} {
			for pos := int64(0); ; pos += 3 {
				fs, o, m := build(clean)
				if fs.Flip(name, pos, 0x10) != nil {
					break
				}
				l, err := Open(o)
				must(t, err)
				verify(t, l, m)
				for i := range m.nextOffset() {
					rs, err := l.ReadOffsets(i, m.nextOffset(), 1, true)
					must(t, err)
					for _, r := range rs {
						if b := record.Batch(readRange(t, r)); b.BaseOffset() > i || b.LastOffset() < i {
							t.Fatalf("%s flipped at %d: read at %d gives %d", name, pos, i, b.BaseOffset())
						}
					}
				}
			}
		}
	}
}

// TestMissingSegment: a file that is gone is corruption, not an end.
func TestMissingSegment(t *testing.T) {
	for _, withState := range []bool{true, false} {
		fs := crashfs.New(7)
		l, o, m := testLog(t, fs, Config{Fsync: true, SegmentBytes: 2000})
		for range 8 {
			mustAppend(t, l, m, batches(m, 3, 300))
		}
		must(t, l.Close())
		segs := l.Segments()
		if len(segs) < 3 {
			t.Fatal(len(segs))
		}
		must(t, fs.Remove(segs[1].Path))
		if !withState {
			must(t, fs.Remove("/log/state"))
		}
		if _, err := Open(o); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("state %v: %v", withState, err)
		}
	}
}

// TestPinned: ranges handed out stay readable when their segment is deleted or the log closed.
func TestPinned(t *testing.T) {
	o := Options{Dir: t.TempDir(), Logger: quiet(), Config: func() Config { return Config{Fsync: true, SegmentBytes: 2000} }}
	l, err := Open(o)
	must(t, err)
	m := &model{}
	mustAppend(t, l, m, []NewEntry{{Index: 1, Term: 1, Type: Noop}})
	for range 5 {
		mustAppend(t, l, m, batches(m, 3, 300))
	}
	r, err := l.ReadIndexes(1, 3, 1<<20)
	must(t, err)
	must(t, l.AdvanceStart(m.nextOffset()-1))
	must(t, l.Close())
	want := bytes.Join([][]byte{m.entries[0].frame, m.entries[1].frame, m.entries[2].frame}, nil)
	if got := readRange(t, r); !bytes.Equal(got, want) {
		t.Fatal("pinned bytes changed")
	}
	left, err := os.ReadDir(o.Dir)
	must(t, err)
	if len(left) > 3 {
		t.Fatalf("not deleted: %v", left)
	}
}

// TestStamped: a follower's append is refused when the leader's stamps do not fit the log.
func TestStamped(t *testing.T) {
	l, _, m := testLog(t, crashfs.New(1), Config{Fsync: true})
	b := record.Batch(makeBatch(1, 1, nil))
	for _, c := range []struct {
		offset int64
		epoch  int32
		ok     bool
	}{{1, 1, false}, {0, 2, false}, {0, 1, true}} {
		b.SetBaseOffset(c.offset)
		b.SetLeaderEpoch(c.epoch)
		err := l.Append([]NewEntry{{Index: 2, Term: 1, Type: Batch, Data: b, Stamped: true}})
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	m.add([]NewEntry{{Index: 2, Term: 1, Type: Batch, Data: b}})
	verify(t, l, m)
}

// TestPreallocation: space is taken in chunks from 64 KiB on, and given back on roll and close.
func TestPreallocation(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(Options{Dir: dir, Logger: quiet(), Config: func() Config { return Config{Fsync: true, SegmentBytes: 1 << 20} }})
	must(t, err)
	size := func(base int64) int64 {
		fi, err := os.Stat(filepath.Join(dir, segmentName(base)+logSuffix))
		must(t, err)
		return fi.Size()
	}
	m := &model{}
	mustAppend(t, l, m, []NewEntry{{Index: 1, Term: 1, Type: Noop}})
	if got := size(0); got != minChunk {
		t.Fatalf("%d bytes after the first append", got)
	}
	seen := map[int64]bool{}
	for len(l.Segments()) == 1 {
		mustAppend(t, l, m, batches(m, 1, 20_000))
		if len(l.Segments()) == 1 {
			seen[size(0)] = true
		}
	}
	for _, want := range []int64{128 << 10, 256 << 10, 512 << 10, 1 << 20} {
		if !seen[want] {
			t.Fatalf("sizes %v, want %d among them", seen, want)
		}
	}
	if s := l.Segments()[0]; size(0) != s.Size {
		t.Fatalf("%d bytes after roll, %d used", size(0), s.Size)
	}
	must(t, l.Close())
	if s := l.Segments()[1]; size(s.BaseOffset) != s.Size {
		t.Fatal("not released on close")
	}
}

// TestSyncerShares: requests that come while a sync of their file runs share the next one.
func TestSyncerShares(t *testing.T) {
	fs := crashfs.New(1)
	f, err := fs.OpenFile("/a", os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	s := NewSyncer(2)
	started, proceed := make(chan struct{}, 100), make(chan struct{})
	fs.SetHook(func(op crashfs.Op, _ string) error {
		if op == crashfs.OpSync {
			started <- struct{}{}
			<-proceed
		}
		return nil
	})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { must(t, s.Sync(Append{File: f})) })
	}
	<-started
	for s.Stats().Requests < 10 { // all have come
	}
	close(proceed)
	wg.Wait()
	// One for the first, and what came before or after the second started shares it or a third.
	if n := s.Stats().Syncs; n < 2 || n > 3 {
		t.Fatalf("%d syncs for 10 requests", n)
	}
	fs.SetHook(func(crashfs.Op, string) error { return syscall.EIO })
	if err := s.Sync(Append{File: f}); !errors.Is(err, syscall.EIO) || s.Stats().Failures != 1 {
		t.Fatal(err, s.Stats())
	}
}

// TestReplicated: without Fsync an append returns before any sync, and the background or Sync makes it durable.
func TestReplicated(t *testing.T) {
	fs := crashfs.New(3)
	l, o, m := testLog(t, fs, Config{SegmentBytes: 1 << 24})
	n := fs.Syncs()
	mustAppend(t, l, m, batches(m, 10, 1000))
	if fs.Syncs() != n {
		t.Fatal("append synced")
	}
	o.Sync.flush() // what the timer does
	if fs.Syncs() != n+1 {
		t.Fatalf("%d syncs in the background", fs.Syncs()-n)
	}
	mustAppend(t, l, m, batches(m, 2, flushBytes)) // enough for a flush at once
	must(t, l.Sync())
	o.Sync.forget(l)
	o.FS, o.BootID = fs.Crash(), "boot-2"
	l, err := Open(o)
	must(t, err)
	verify(t, l, m)
	if l.Recovery().SameBoot || l.Recovery().Clean {
		t.Fatalf("%+v", l.Recovery())
	}
}

// TestConcurrentReads: readers and one writer that appends, truncates its tail and rolls; what readers get below the
// stable part is what was written there.
func TestConcurrentReads(t *testing.T) {
	o := Options{FS: vfs.OS(), Dir: t.TempDir(), Logger: quiet(), Config: func() Config {
		return Config{SegmentBytes: 20_000, IndexIntervalBytes: 300}
	}}
	l, err := Open(o)
	must(t, err)
	m := &model{}
	mustAppend(t, l, m, []NewEntry{{Index: 1, Term: 1, Type: Noop}})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := uint64(0); ; i += 7 {
				select {
				case <-stop:
					return
				default:
				}
				last := l.LastIndex()
				index := 1 + (i*uint64(g+1))%last
				if r, err := l.ReadIndexes(index, index+5, 4000); err == nil {
					b := make([]byte, r.Len)
					_, _ = r.File.ReadAt(b, r.Pos)
					r.Release()
				} else if !errors.Is(err, ErrNotFound) {
					t.Error(err)
					return
				}
				if _, err := l.Entry(index); err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
					return
				}
				rs, err := l.ReadOffsets(int64(i)%max(l.NextOffset()/2, 1), l.NextOffset()/2, 5000, true)
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
					return
				}
				for _, r := range rs {
					b := make([]byte, r.Len)
					if n, err := r.File.ReadAt(b, r.Pos); n < r.Len {
						t.Error(err)
					}
					r.Release()
					if err := ParseFrames(r.First, b, func(Entry, []byte) error { return nil }); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for i := range 300 {
		mustAppend(t, l, m, batches(m, 4, 200))
		if i%10 == 9 {
			first := m.next() - 3
			must(t, l.TruncateSuffix(first))
			m.truncate(first)
		}
	}
	close(stop)
	wg.Wait()
	verify(t, l, m)
	must(t, l.Close())
}
