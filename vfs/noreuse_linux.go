package vfs

import "golang.org/x/sys/unix"

// NoReuse tells the system that what is read through f will not be read again soon: reading it should not push out what
// others use. A hint; f must not be shared.
func NoReuse(f File) {
	if o := f.OS(); o != nil {
		_ = control(o, "fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_NOREUSE) })
	}
}
