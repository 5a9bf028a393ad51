package vfs

import (
	"io/fs"
	"os"
)

// OS returns the file system of the machine.
func OS() FS { return osFS{} }

type osFS struct{}

func (osFS) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{f}, nil
}

func (osFS) Remove(name string) error                       { return os.Remove(name) }
func (osFS) RemoveAll(name string) error                    { return os.RemoveAll(name) }
func (osFS) Rename(oldName, newName string) error           { return os.Rename(oldName, newName) }
func (osFS) MkdirAll(name string, perm fs.FileMode) error   { return os.MkdirAll(name, perm) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error)     { return os.ReadDir(name) }
func (osFS) Stat(name string) (fs.FileInfo, error)          { return os.Stat(name) }
func (osFS) SyncDir(name string) error                      { return syncDir(name) }
func (osFS) Free(name string) (free, total uint64, e error) { return diskFree(name) }

type osFile struct{ f *os.File }

func (o *osFile) ReadAt(p []byte, off int64) (int, error)  { return o.f.ReadAt(p, off) }
func (o *osFile) WriteAt(p []byte, off int64) (int, error) { return o.f.WriteAt(p, off) }
func (o *osFile) Close() error                             { return o.f.Close() }
func (o *osFile) Name() string                             { return o.f.Name() }
func (o *osFile) Truncate(size int64) error                { return o.f.Truncate(size) }
func (o *osFile) Sync() error                              { return dataSync(o.f) }
func (o *osFile) Allocate(off, n int64) error              { return allocate(o.f, off, n) }
func (o *osFile) OS() *os.File                             { return o.f }

func (o *osFile) Size() (int64, error) {
	fi, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// extend is the fallback of allocate: the size grows, no block is reserved.
func extend(f *os.File, off, n int64) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() >= off+n {
		return nil
	}
	return f.Truncate(off + n)
}
