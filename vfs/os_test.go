package vfs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/balsa-broker/balsa/vfs"
)

func TestOS(t *testing.T) {
	fsys := vfs.OS()
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "f")
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Allocate(0, 1<<20); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Size(); err != nil || n != 1<<20 {
		t.Fatal(n, err)
	}
	var bufs [][]byte
	var want []byte
	for i := range 2500 { // more than one call takes
		b := bytes.Repeat([]byte{byte(i)}, i%7)
		bufs = append(bufs, b)
		want = append(want, b...)
	}
	if n, err := vfs.WriteBuffers(f, bufs, 5); err != nil || n != int64(len(want)) {
		t.Fatal(n, err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 5); err != nil || !bytes.Equal(got, want) {
		t.Fatal("what was written is not what is read", err)
	}
	if at := vfs.DataEnd(f, 0, 1<<20); at < 5+int64(len(want)) || at > 1<<20 {
		t.Fatalf("data said to end at %d", at)
	}
	if at := vfs.DataEnd(f, 1<<20, 1<<20); at != 1<<20 {
		t.Fatalf("data said to end at %d", at)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(10); err != nil {
		t.Fatal(err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		t.Fatal(err)
	}
	if free, total, err := fsys.Free(dir); err != nil || free == 0 || total < free {
		t.Fatal(free, total, err)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	for _, data := range []string{"first, the longer one", "second"} {
		if err := vfs.WriteFile(vfs.OS(), dir, name, []byte(data)); err != nil {
			t.Fatal(err)
		}
		b, err := vfs.ReadFile(vfs.OS(), name, 100)
		if err != nil || string(b) != data {
			t.Fatalf("%q %v", b, err)
		}
	}
	if _, err := vfs.ReadFile(vfs.OS(), name, 3); err == nil {
		t.Fatal("read more than the limit")
	}
}
