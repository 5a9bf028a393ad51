package harness

import (
	"os/exec"
	"syscall"
)

// setParentDeath ends a broker with the test process that started it, however that ends.
func setParentDeath(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
