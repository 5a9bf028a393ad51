//go:build unix

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockDir takes the data folder for this process; the operating system gives it back when the process ends.
func lockDir(dir string) (release func(), err error) {
	name := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644) //nolint:forbidigo // a lock is no data: it never goes through the seam
	if err != nil {
		return nil, fmt.Errorf("cluster: locking %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cluster: locking %s: %w", dir, err)
		}
		var pid [16]byte
		n, _ := f.ReadAt(pid[:], 0)
		if p, perr := strconv.Atoi(strings.TrimSpace(string(pid[:n]))); perr == nil {
			return nil, fmt.Errorf("%w: %s is locked by process %d", ErrLocked, dir, p)
		}
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // for the message above only
	return func() { _ = f.Close() }, nil
}
