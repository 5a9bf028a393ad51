//go:build !linux

package segment

// bootID is unknown: after an unclean stop the log assumes that the machine restarted.
func bootID() string { return "" }
