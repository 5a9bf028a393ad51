package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// SmallDisk mounts a disk of its own on dir: a tmpfs, or an ext4 in a file beside it. It needs root. unmount removes it.
func SmallDisk(dir, kind string, sizeMiB int) (unmount func() error, err error) {
	img := dir + ".img"
	switch kind {
	case "ext4":
		for _, line := range []string{
			fmt.Sprintf("truncate -s %dM %s", sizeMiB, img), "mkfs.ext4 -q -m 0 " + img, fmt.Sprintf("mount -o loop %s %s", img, dir),
		} {
			if err := run(line); err != nil {
				return nil, err
			}
		}
	case "tmpfs":
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", sizeMiB)); err != nil {
			return nil, fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	default:
		return nil, fmt.Errorf("no disk of kind %q: tmpfs or ext4", kind)
	}
	return func() error {
		err := syscall.Unmount(dir, 0)
		if err != nil {
			err = errors.Join(fmt.Errorf("unmount %s: %w", dir, err), syscall.Unmount(dir, syscall.MNT_DETACH))
		}
		if kind == "ext4" {
			err = errors.Join(err, os.Remove(img))
		}
		return err
	}, nil
}

// Fill writes a file into the broker's data folder until its disk is full, or has leave bytes left, and returns the
// file's path.
func (n *Node) Fill(leave int64) (string, error) {
	path := filepath.Join(n.Dir, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		var st syscall.Statfs_t
		if err := syscall.Statfs(n.Dir, &st); err != nil {
			return path, err
		}
		if leave > 0 && int64(st.Bavail)*st.Bsize <= leave+int64(size) {
			break
		}
		if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			return path, err
		}
	}
	_ = f.Sync() // ext4 takes the blocks late
	return path, nil
}
