//go:build !unix

package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// lockDir takes the data folder for this process. Where an open file cannot be removed (Windows) a lock file that
// a crash left behind is removed first; one that is in use is not removable.
func lockDir(dir string) (release func(), err error) {
	name := filepath.Join(dir, lockFile)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, dir)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644) //nolint:forbidigo // a lock is no data: it never goes through the seam
	if err != nil {
		return nil, fmt.Errorf("cluster: locking %s: %w", dir, err)
	}
	return func() { _ = f.Close(); _ = os.Remove(name) }, nil
}
