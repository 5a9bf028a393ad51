//go:build !unix

package harness

import (
	"errors"
	"os/exec"
)

func ownGroup(*exec.Cmd) {}

// Pause and Resume need signals that this system does not have.
func (n *Node) Pause() error  { return errors.ErrUnsupported }
func (n *Node) Resume() error { return errors.ErrUnsupported }
