package raftlog

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		log  func(l hclog.Logger)
		want string // level, or "" for nothing at the level info
	}{
		{func(l hclog.Logger) { l.Info("entering follower state") }, ""},
		{func(l hclog.Logger) { l.Warn("failed to contact", "server-id", "2/4") }, ""},
		{func(l hclog.Logger) { l.Error("failed to heartbeat to", "peer", "2/4") }, ""},
		{func(l hclog.Logger) { l.Warn("failed to contact quorum of nodes, stepping down") }, "WARN"},
		{func(l hclog.Logger) { l.Error("failed to commit logs", "error", "disk") }, "ERROR"},
		{func(l hclog.Logger) { l.With("group", 1).Error("failed to commit logs") }, "ERROR"},
		{func(l hclog.Logger) {
			l.StandardLogger(nil).Print("2026/01/02 15:04:05 [WARN] memberlist: refuting")
		}, "WARN"},
	} {
		var b bytes.Buffer
		c.log(New(slog.New(slog.NewTextHandler(&b, nil))))
		if c.want == "" && b.Len() > 0 || c.want != "" && !strings.Contains(b.String(), "level="+c.want) {
			t.Errorf("want %q, got %q", c.want, b.String())
		}
	}
}
