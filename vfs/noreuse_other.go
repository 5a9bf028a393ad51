//go:build !linux

package vfs

// NoReuse is a hint that this system does not take.
func NoReuse(File) {}
