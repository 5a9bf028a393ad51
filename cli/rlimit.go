//go:build linux || darwin

package cli

import "golang.org/x/sys/unix"

// raiseFileLimit raises the soft limit on open files to the hard one and returns what is in force.
func raiseFileLimit() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Cur < l.Max {
		raised := l
		raised.Cur = raised.Max
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			return raised.Cur, nil
		}
		// Some systems have a hard limit of "infinity" that the kernel's own bound contradicts.
		raised.Cur = 10240
		if raised.Cur > l.Cur && unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			return raised.Cur, nil
		}
	}
	return l.Cur, nil
}
