package vfs

import (
	"fmt"
	"os"
)

// WriteBuffers writes bufs one after the other at off with one call of the system where it has one (pwritev), else
// joined into one WriteAt: never several writes of which a crash could keep the later one only by our own doing.
// bufs and its slices' headers are consumed; the bytes are not changed.
func WriteBuffers(f File, bufs [][]byte, off int64) (int64, error) {
	if len(bufs) == 1 {
		n, err := f.WriteAt(bufs[0], off)
		return int64(n), err
	}
	if o := f.OS(); o != nil {
		return writev(o, bufs, off)
	}
	n, err := f.WriteAt(join(bufs), off)
	return int64(n), err
}

// DataEnd returns a position at or after off from which on f, of the given size, holds only zeros, as far as the
// system can tell without reading (preallocated space that was never written); else size. What was read since it was
// written may count as data.
func DataEnd(f File, off, size int64) int64 {
	if o := f.OS(); o != nil && off < size {
		return dataEnd(o, off, size)
	}
	return max(size, off)
}

func join(bufs [][]byte) []byte {
	n := 0
	for _, b := range bufs {
		n += len(b)
	}
	all := make([]byte, 0, n)
	for _, b := range bufs {
		all = append(all, b...)
	}
	return all
}

// WriteFile replaces name by data so that after a crash it is either the old file or the new one, and makes it
// durable: a temporary file is synced, renamed over name, and dir (its folder) synced.
func WriteFile(fsys FS, dir, name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := fsys.OpenFile(tmp, createFlags, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	return err
}

// ReadFile reads a whole file of at most max bytes.
func ReadFile(fsys FS, name string, max int64) ([]byte, error) {
	f, err := fsys.OpenFile(name, readFlags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	if n > max {
		return nil, &tooLarge{name, n, max}
	}
	b := make([]byte, n)
	if n > 0 {
		if k, err := f.ReadAt(b, 0); k < len(b) {
			return nil, err
		}
	}
	return b, nil
}

const (
	createFlags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	readFlags   = os.O_RDONLY
)

type tooLarge struct {
	name      string
	size, max int64
}

func (e *tooLarge) Error() string {
	return fmt.Sprintf("read %s: %d bytes, more than the limit of %d", e.name, e.size, e.max)
}
