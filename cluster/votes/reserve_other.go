//go:build !linux

package votes

import (
	"errors"
	"os"
)

// Reserve makes the file own its first n bytes of disk, whatever is written there already.
func Reserve(path string, n int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) //nolint:forbidigo // bbolt's file, not one of the log's
	if err != nil {
		return err
	}
	err = fill(f, n)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
