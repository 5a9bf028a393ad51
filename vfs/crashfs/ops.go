package crashfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

func pathErr(op Op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: string(op), Path: name, Err: err}
}

// OpenFile opens or makes a file.
func (f *FS) OpenFile(name string, flag int, _ fs.FileMode) (vfs.File, error) {
	if err := f.enter(OpOpen, name); err != nil {
		return nil, err
	}
	w := f.w
	defer w.mu.Unlock()
	dir, base, err := w.parent(name)
	if err != nil {
		return nil, pathErr(OpOpen, name, err)
	}
	n := dir.names[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, pathErr(OpOpen, name, syscall.ENOENT)
	case n == nil:
		n = newFile()
		w.group++
		dir.set(base, n, w.group)
	case n.names != nil:
		return nil, pathErr(OpOpen, name, syscall.EISDIR)
	case flag&os.O_EXCL != 0 && flag&os.O_CREATE != 0:
		return nil, pathErr(OpOpen, name, syscall.EEXIST)
	case flag&os.O_TRUNC != 0:
		n.resize(w, 0)
	}
	return &file{fs: f, n: n, name: name, readOnly: flag&(os.O_RDWR|os.O_WRONLY) == 0}, nil
}

// Remove removes a file or an empty folder.
func (f *FS) Remove(name string) error {
	if err := f.enter(OpRemove, name); err != nil {
		return err
	}
	defer f.w.mu.Unlock()
	dir, base, err := f.w.parent(name)
	if err != nil {
		return pathErr(OpRemove, name, err)
	}
	n := dir.names[base]
	switch {
	case n == nil:
		return pathErr(OpRemove, name, syscall.ENOENT)
	case len(n.names) > 0:
		return pathErr(OpRemove, name, syscall.ENOTEMPTY)
	}
	f.w.group++
	dir.set(base, nil, f.w.group)
	f.w.used -= n.total()
	return nil
}

// RemoveAll removes name and all below it.
func (f *FS) RemoveAll(name string) error {
	if err := f.enter(OpRemove, name); err != nil {
		return err
	}
	defer f.w.mu.Unlock()
	dir, base, err := f.w.parent(name)
	if err != nil || dir.names[base] == nil {
		return nil
	}
	n := dir.names[base]
	f.w.used -= n.total()
	f.w.removeAll(n)
	f.w.group++
	dir.set(base, nil, f.w.group)
	return nil
}

func (w *world) removeAll(n *node) {
	for name, c := range n.names {
		w.removeAll(c)
		w.group++
		n.set(name, nil, w.group)
	}
}

// Rename moves a name, replacing what stands at the new one.
func (f *FS) Rename(oldName, newName string) error {
	if err := f.enter(OpRename, oldName); err != nil {
		return err
	}
	defer f.w.mu.Unlock()
	from, oldBase, err := f.w.parent(oldName)
	if err != nil {
		return pathErr(OpRename, oldName, err)
	}
	to, newBase, err := f.w.parent(newName)
	if err != nil {
		return pathErr(OpRename, newName, err)
	}
	n := from.names[oldBase]
	if n == nil {
		return pathErr(OpRename, oldName, syscall.ENOENT)
	}
	if old := to.names[newBase]; old != nil && old != n {
		if len(old.names) > 0 {
			return pathErr(OpRename, newName, syscall.ENOTEMPTY)
		}
		f.w.used -= old.total()
	}
	f.w.group++
	from.set(oldBase, nil, f.w.group)
	to.set(newBase, n, f.w.group)
	return nil
}

// MkdirAll makes a folder and those above it.
func (f *FS) MkdirAll(name string, _ fs.FileMode) error {
	if err := f.enter(OpOpen, name); err != nil {
		return err
	}
	defer f.w.mu.Unlock()
	n := f.w.root
	for _, part := range split(name) {
		if n.names == nil {
			return pathErr(OpOpen, name, syscall.ENOTDIR)
		}
		c := n.names[part]
		if c == nil {
			c = newDir()
			f.w.group++
			n.set(part, c, f.w.group)
		}
		n = c
	}
	if n.names == nil {
		return pathErr(OpOpen, name, syscall.ENOTDIR)
	}
	return nil
}

// ReadDir lists a folder in the order of names.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := f.enter(OpRead, name); err != nil {
		return nil, err
	}
	defer f.w.mu.Unlock()
	n, err := f.w.find(name)
	if err == nil && n.names == nil {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathErr(OpRead, name, err)
	}
	var out []fs.DirEntry
	for base, c := range n.names {
		out = append(out, fs.FileInfoToDirEntry(c.info(base)))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name() < out[j].Name() })
	return out, nil
}

// Stat describes a file or folder.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	if err := f.enter(OpRead, name); err != nil {
		return nil, err
	}
	defer f.w.mu.Unlock()
	n, err := f.w.find(name)
	if err != nil {
		return nil, pathErr(OpRead, name, err)
	}
	return n.info(filepath.Base(name)), nil
}

// SyncDir makes the names in a folder durable. A failing hook leaves them as they were.
func (f *FS) SyncDir(name string) error {
	if err := f.enter(OpSyncDir, name); err != nil {
		return lie(err)
	}
	defer f.w.mu.Unlock()
	n, err := f.w.find(name)
	if err == nil && n.names == nil {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return pathErr(OpSyncDir, name, err)
	}
	if !f.w.syncPoint() {
		return ErrCrashed
	}
	n.syncNames()
	return nil
}

// lie is the answer of a sync to which the hook said err.
func lie(err error) error {
	if errors.Is(err, ErrLie) {
		return nil
	}
	return err
}

// Free returns what SetSpace leaves.
func (f *FS) Free(string) (free, total uint64, err error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.w.space < 0 {
		return 1 << 40, 1 << 40, nil
	}
	return uint64(max(f.w.space-f.w.used, 0)), uint64(f.w.space), nil
}

type info struct {
	name string
	size int64
	dir  bool
}

func (n *node) info(name string) info { return info{name, int64(len(n.data)), n.names != nil} }

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }
func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// file is an open file.
type file struct {
	fs       *FS
	n        *node
	name     string
	readOnly bool
	closed   bool // guarded by w.mu
}

func (f *file) enter(op Op, writes bool) error {
	if err := f.fs.enter(op, f.name); err != nil {
		return err
	}
	err := error(nil)
	switch {
	case f.closed:
		err = fs.ErrClosed
	case writes && f.readOnly:
		err = syscall.EBADF
	default:
		return nil
	}
	f.fs.w.mu.Unlock()
	return pathErr(op, f.name, err)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.enter(OpRead, false); err != nil {
		return 0, err
	}
	defer f.fs.w.mu.Unlock()
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.enter(OpWrite, true); err != nil {
		return 0, err
	}
	defer f.fs.w.mu.Unlock()
	n, err := f.n.write(f.fs.w, p, off)
	return n, pathErr(OpWrite, f.name, err)
}

func (f *file) Truncate(size int64) error {
	if err := f.enter(OpTruncate, true); err != nil {
		return err
	}
	defer f.fs.w.mu.Unlock()
	if size > f.n.room(f.fs.w) {
		return pathErr(OpTruncate, f.name, syscall.ENOSPC)
	}
	f.n.resize(f.fs.w, size)
	return nil
}

func (f *file) Allocate(off, n int64) error {
	if err := f.enter(OpAllocate, true); err != nil {
		return err
	}
	defer f.fs.w.mu.Unlock()
	if off+n > f.n.room(f.fs.w) {
		return pathErr(OpAllocate, f.name, syscall.ENOSPC)
	}
	if off+n > int64(len(f.n.data)) {
		f.n.resize(f.fs.w, off+n)
	}
	return nil
}

func (f *file) Sync() error {
	if err := f.enter(OpSync, false); err != nil {
		return lie(err)
	}
	defer f.fs.w.mu.Unlock()
	if !f.fs.w.syncPoint() {
		return ErrCrashed
	}
	f.n.sync()
	return nil
}

func (f *file) Close() error {
	f.fs.w.mu.Lock()
	defer f.fs.w.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	return nil
}

func (f *file) Size() (int64, error) {
	if err := f.enter(OpRead, false); err != nil {
		return 0, err
	}
	defer f.fs.w.mu.Unlock()
	return int64(len(f.n.data)), nil
}

func (f *file) Name() string { return f.name }

func (f *file) OS() *os.File { return nil }
