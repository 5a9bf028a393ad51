package vfs

import (
	"os"

	"golang.org/x/sys/windows"
)

// syncDir: NTFS journals its directory entries; there is no call to wait for them.
func syncDir(string) error { return nil }

func diskFree(name string) (free, total uint64, err error) {
	p, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return 0, 0, err
	}
	if err := windows.GetDiskFreeSpaceEx(p, &free, &total, nil); err != nil {
		return 0, 0, &os.PathError{Op: "GetDiskFreeSpaceEx", Path: name, Err: err}
	}
	return free, total, nil
}
