package cluster

import (
	"context"
	"log"
	"log/slog"
	"strings"
)

// bridgeLogger gives Serf and memberlist a standard logger whose lines go to slog, two steps quieter than they call
// themselves: what matters of them is logged by gossip itself.
func bridgeLogger(l *slog.Logger) *log.Logger { return log.New(&logBridge{l}, "", 0) }

type logBridge struct{ l *slog.Logger }

func (b *logBridge) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelDebug
	if strings.HasPrefix(line, "[") {
		if i := strings.IndexByte(line, ']'); i > 0 {
			if line[1:i] == "ERR" {
				level = slog.LevelInfo
			}
			line = strings.TrimSpace(line[i+1:])
		}
	}
	b.l.Log(context.Background(), level, "gossip", "line", line)
	return len(p), nil
}
