package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// dataSync is fdatasync: bytes and size, without the times.
func dataSync(f *os.File) error {
	return control(f, "fdatasync", unix.Fdatasync)
}

// allocate reserves blocks and extends the size over them, so that a later fdatasync has no size to write and a
// later write cannot fail for want of space. A file system without fallocate only gets the size.
func allocate(f *os.File, off, n int64) error {
	err := control(f, "fallocate", func(fd int) error { return unix.Fallocate(fd, 0, off, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return extend(f, off, n)
	}
	return err
}

// iovMax is the kernel's limit on the buffers of one call.
const iovMax = 1024

// writev writes bufs with pwritev. bufs is consumed.
func writev(f *os.File, bufs [][]byte, off int64) (int64, error) {
	var done int64
	for len(bufs) > 0 {
		part := bufs
		if len(part) > iovMax {
			part = part[:iovMax]
		}
		var n int
		err := control(f, "pwritev", func(fd int) (err error) {
			n, err = unix.Pwritev(fd, part, off+done)
			return err
		})
		if err != nil {
			return done, err
		}
		done += int64(n)
		for n > 0 || len(bufs) > 0 && len(bufs[0]) == 0 {
			if n < len(bufs[0]) {
				bufs[0] = bufs[0][n:]
				break
			}
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
	}
	return done, nil
}

// control runs call on the file's descriptor, again when a signal interrupts it.
func control(f *os.File, op string, call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = rc.Control(func(fd uintptr) {
		for {
			if inner = call(int(fd)); !errors.Is(inner, unix.EINTR) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	if inner != nil {
		return &os.PathError{Op: op, Path: f.Name(), Err: inner}
	}
	return nil
}

// dataEnd asks the file system for its extents with data. It moves the file's position, which nothing here uses.
func dataEnd(f *os.File, off, size int64) int64 {
	end := off
	err := control(f, "lseek", func(fd int) error {
		for range 1024 {
			data, err := unix.Seek(fd, end, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				return nil
			}
			if err != nil {
				return err
			}
			if end, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		return unix.EINVAL // too many holes to be ours
	})
	if err != nil {
		return size
	}
	return min(end, size)
}
