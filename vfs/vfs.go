// Package vfs is the one seam through which Balsa touches files: the real file system, and in tests a double
// that crashes (vfs/crashfs).
package vfs

import (
	"io"
	"io/fs"
	"os"
)

// FS is a file system. Names are paths of the host. A created, renamed or removed name is durable only after
// SyncDir of its folder.
type FS interface {
	// OpenFile opens name as os.OpenFile does.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Remove(name string) error
	RemoveAll(name string) error
	Rename(oldName, newName string) error
	MkdirAll(name string, perm fs.FileMode) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the entries of a folder durable.
	SyncDir(name string) error
	// Free returns the bytes free for this user and in all on the file system that holds name.
	Free(name string) (free, total uint64, err error)
}

// File is an open file. Reads and writes at offsets may overlap.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Name() string
	Size() (int64, error)
	Truncate(size int64) error
	// Sync makes the file's bytes, and its size, durable (fdatasync).
	Sync() error
	// Allocate reserves disk blocks for [off, off+n) and extends the size over them (zeros).
	Allocate(off, n int64) error
	// OS returns the file for sendfile, or nil for one that is not of the operating system.
	OS() *os.File
}
