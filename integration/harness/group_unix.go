//go:build unix

package harness

import (
	"os/exec"
	"syscall"
)

// ownGroup puts a broker into a process group of its own: Ctrl-C at the terminal reaches the test, which ends its brokers.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// Pause freezes the process (SIGSTOP); Resume lets it go on.
func (n *Node) Pause() error  { return n.signal(syscall.SIGSTOP) }
func (n *Node) Resume() error { return n.signal(syscall.SIGCONT) }
