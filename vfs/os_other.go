//go:build !linux

package vfs

import "os"

func dataSync(f *os.File) error { return f.Sync() }

func allocate(f *os.File, off, n int64) error { return extend(f, off, n) }

func writev(f *os.File, bufs [][]byte, off int64) (int64, error) {
	n, err := f.WriteAt(join(bufs), off)
	return int64(n), err
}

func dataEnd(_ *os.File, _, size int64) int64 { return size }
