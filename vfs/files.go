package vfs

import (
	"fmt"
	"os"
)

const (
	createFlags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	readFlags   = os.O_RDONLY
)

type tooLarge struct {
	name      string
	size, max int64
}

func (e *tooLarge) Error() string {
	return fmt.Sprintf("read %s: %d bytes, more than the limit of %d", e.name, e.size, e.max)
}
