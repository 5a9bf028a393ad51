package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SyncAll makes everything durable that was written to the file system holding name: one commit where many files
// and folders were made. ok false: not possible here, and nothing was done.
func SyncAll(fsys FS, name string) (ok bool, err error) {
	if _, real := fsys.(osFS); !real {
		return false, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	err = control(f, "syncfs", unix.Syncfs)
	return true, errors.Join(err, f.Close())
}
