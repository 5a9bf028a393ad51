//go:build !windows

package transport

// isRefusedByOS: the portable names say it all.
func isRefusedByOS(error) bool { return false }
