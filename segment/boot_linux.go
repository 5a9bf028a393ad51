package segment

import (
	"os"
	"strings"
	"sync"
)

// bootID tells one run of the machine from the next. Empty: unknown, then nothing is taken for the same run.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})
