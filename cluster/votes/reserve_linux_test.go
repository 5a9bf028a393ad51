package votes

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Rule 14: the file's bytes are taken from the disk when it is opened, not when they are written.
func TestRule14ReserveIsTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	open(t, path, Options{ReserveBytes: 4 << 20})
	info, err := os.Stat(path)
	must(t, err)
	if got := info.Sys().(*syscall.Stat_t).Blocks * 512; got < 4<<20 {
		t.Fatalf("%d bytes of disk are taken", got)
	}
}
