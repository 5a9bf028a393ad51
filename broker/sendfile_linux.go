package broker

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const canSendfile = true

// sendfile sends up to n bytes of f from pos on; it waits, within the write deadline, until the socket takes some. The
// file's own offset is not used: many answers read one file at once.
func sendfile(to syscall.RawConn, f *os.File, pos int64, n int) (sent int, err error) {
	from, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var sendErr error
	cerr := from.Control(func(src uintptr) {
		sendErr = to.Write(func(dst uintptr) bool {
			for {
				off := pos
				sent, err = unix.Sendfile(int(dst), int(src), &off, n)
				switch err {
				case unix.EINTR: //nolint:errorlint // a bare errno
					continue
				case unix.EAGAIN:
					return false
				}
				return true
			}
		})
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case sendErr != nil:
		return 0, sendErr
	case err != nil:
		return 0, os.NewSyscallError("sendfile", err)
	}
	return sent, nil
}
