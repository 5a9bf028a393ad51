package crashfs_test

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

func write(t *testing.T, fsys vfs.FS, name string, data []byte, sync bool) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(fsys vfs.FS, name string) []byte {
	b, err := vfs.ReadFile(fsys, name, 1<<20)
	if err != nil {
		return nil
	}
	return b
}

// TestSyncedStays: bytes and names that were synced are there after every crash, others are sometimes and sometimes
// not.
func TestSyncedStays(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 3000)
	lostName, keptName, torn := 0, 0, 0
	for seed := range uint64(200) {
		fs := crashfs.New(seed)
		if err := fs.MkdirAll("/d", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := fs.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		write(t, fs, "/d/a", data, true)
		write(t, fs, "/d/b", data, false)
		if err := fs.SyncDir("/d"); err != nil {
			t.Fatal(err)
		}
		write(t, fs, "/d/c", data, true)
		after := fs.Crash()
		if !bytes.Equal(read(after, "/d/a"), data) {
			t.Fatalf("seed %d: synced file is not whole", seed)
		}
		b := read(after, "/d/b")
		if len(b) > 0 && !bytes.Equal(b, data[:len(b)]) {
			torn++
		}
		if c := read(after, "/d/c"); c == nil {
			lostName++
		} else if keptName++; !bytes.Equal(c, data) {
			t.Fatalf("seed %d: name without synced bytes", seed)
		}
		if _, err := fs.Stat("/d/a"); !errors.Is(err, crashfs.ErrCrashed) {
			t.Fatalf("the old file system answers: %v", err)
		}
	}
	if lostName == 0 || keptName == 0 || torn == 0 {
		t.Fatalf("not random: %d names lost, %d kept, %d files torn", lostName, keptName, torn)
	}
}

func TestRenameIsWhole(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(100) {
		fs := crashfs.New(seed)
		if err := vfs.WriteFile(fs, "/", "/f", []byte("old")); err != nil {
			t.Fatal(err)
		}
		fs.CrashAt(2) // the folder's sync
		if err := vfs.WriteFile(fs, "/", "/f", []byte("new")); !errors.Is(err, crashfs.ErrCrashed) {
			t.Fatal(err)
		}
		seen[string(read(fs.Crash(), "/f"))]++
	}
	if len(seen) != 2 || seen["old"] == 0 || seen["new"] == 0 {
		t.Fatalf("%v", seen)
	}
}

// TestKillKeepsCache: kill -9 keeps all bytes, and they are still unsynced.
func TestKillKeepsCache(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		fs := crashfs.New(seed)
		write(t, fs, "/a", []byte("hello"), false)
		fs = fs.Kill()
		if got := read(fs, "/a"); string(got) != "hello" {
			t.Fatalf("after kill: %q", got)
		}
		if string(read(fs.Crash(), "/a")) != "hello" {
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("unsynced bytes always survived")
	}
}

// TestFailedSync: pages that a failed sync dropped look fine and are not written by the next sync.
func TestFailedSync(t *testing.T) {
	lost := 0
	data := bytes.Repeat([]byte("x"), 10*crashfs.Sector)
	for seed := range uint64(50) {
		fs := crashfs.New(seed)
		write(t, fs, "/a", make([]byte, len(data)), true)
		if err := fs.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		write(t, fs, "/a", data, false)
		fail := true
		fs.SetHook(func(op crashfs.Op, _ string) error {
			if op == crashfs.OpSync && fail {
				fail = false
				return syscall.EIO
			}
			return nil
		})
		f, err := fs.OpenFile("/a", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(fs, "/a"), data) {
			t.Fatal("cache lost bytes")
		}
		if !bytes.Equal(read(fs.Crash(), "/a"), data) {
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("a failed sync lost nothing")
	}
}

func TestSpace(t *testing.T) {
	fs := crashfs.New(1)
	fs.SetSpace(1000)
	f, err := fs.OpenFile("/a", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.WriteAt(make([]byte, 1500), 0); n != 1000 || !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(n, err)
	}
	if err := f.Truncate(100); err != nil {
		t.Fatal(err)
	}
	if err := f.Allocate(100, 901); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Allocate(100, 900); err != nil {
		t.Fatal(err)
	}
}

// TestLyingSync: a sync that lies succeeds, and the next loss of power may take what it was for.
func TestLyingSync(t *testing.T) {
	lost := 0
	for seed := range uint64(50) {
		fs := crashfs.New(seed)
		write(t, fs, "/a", []byte("old"), true)
		if err := fs.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		fs.SetHook(func(op crashfs.Op, _ string) error {
			if op == crashfs.OpSync || op == crashfs.OpSyncDir {
				return crashfs.ErrLie
			}
			return nil
		})
		write(t, fs, "/a", []byte("new"), true)
		if err := fs.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		if string(read(fs.Crash(), "/a")) == "old" {
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("what a lying sync was for always survived")
	}
}
