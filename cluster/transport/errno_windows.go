package transport

import (
	"errors"
	"syscall"
)

// isRefusedByOS knows Winsock's numbers for reset (10054), aborted (10053) and refused (10061).
func isRefusedByOS(err error) bool {
	for _, n := range []syscall.Errno{10053, 10054, 10061} {
		if errors.Is(err, n) {
			return true
		}
	}
	return false
}
