//go:build !linux

package broker

import (
	"errors"
	"os"
	"syscall"
)

const canSendfile = false

func sendfile(syscall.RawConn, *os.File, int64, int) (int, error) { return 0, errors.ErrUnsupported }
