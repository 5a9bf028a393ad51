// Package raftlog lets libraries that log with hclog (Raft, Serf) write to slog.
package raftlog

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// New makes an hclog.Logger that writes to l. What the library calls info is its inner life (elections, probes), which
// is not news to an operator: it becomes debug. Warnings and errors stay what they are.
func New(l *slog.Logger) hclog.Logger {
	if l == nil {
		l = slog.Default()
	}
	return &logger{slog: l}
}

type logger struct {
	slog    *slog.Logger
	name    string
	implied []any
}

func levelOf(level hclog.Level) slog.Level {
	switch level {
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	default:
		return slog.LevelDebug
	}
}

// perPeer are Raft's messages about one peer of one group. A broker that goes away would be told by each of thousands of
// groups, again and again; transport and cluster tell it once. They are for debugging.
var perPeer = []string{
	"failed to contact", // but not "failed to contact quorum of nodes, stepping down"
	"failed to heartbeat to", "failed to appendEntries to", "failed to pipeline appendEntries", "failed to make requestVote RPC",
	"appendEntries rejected, sending older logs", "failed to get previous log", "previous log term mis-match",
	"heartbeat timeout reached, starting election", "Election timeout reached, restarting election",
	"rejecting vote request since", "rejecting pre-vote request since", "failed to send snapshot to", "lost leadership because received",
}

func isPerPeer(msg string) bool {
	for _, prefix := range perPeer {
		if strings.HasPrefix(msg, prefix) && !strings.Contains(msg, "quorum") {
			return true
		}
	}
	return false
}

func (l *logger) Log(level hclog.Level, msg string, args ...any) {
	lv := levelOf(level)
	if isPerPeer(msg) {
		lv = slog.LevelDebug
	}
	if !l.slog.Enabled(context.Background(), lv) {
		return
	}
	// hclog has lazily formatted values, which slog knows nothing of.
	attrs := make([]any, len(args))
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		attrs[i] = a
	}
	l.slog.Log(context.Background(), lv, msg, attrs...)
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) enabled(level hclog.Level) bool {
	return l.slog.Enabled(context.Background(), levelOf(level))
}

func (l *logger) IsTrace() bool        { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool        { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool         { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool         { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool        { return l.enabled(hclog.Error) }
func (l *logger) ImpliedArgs() []any   { return l.implied }
func (l *logger) Name() string         { return l.name }
func (l *logger) SetLevel(hclog.Level) {}

func (l *logger) GetLevel() hclog.Level {
	switch {
	case l.IsDebug():
		return hclog.Debug
	case l.IsWarn():
		return hclog.Warn
	default:
		return hclog.Error
	}
}

func (l *logger) With(args ...any) hclog.Logger {
	return &logger{slog: l.slog.With(args...), name: l.name, implied: append(append([]any{}, l.implied...), args...)}
}

func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	return &logger{slog: l.slog, name: name, implied: l.implied}
}

func (l *logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(nil), "", 0)
}

func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return writer{l} }

// writer takes lines of the standard logger, as Serf and memberlist write them: "2026/01/02 15:04:05 [WARN] memberlist: ...".
type writer struct{ l *logger }

func (w writer) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := hclog.Info
	for tag, lv := range map[string]hclog.Level{"[ERR] ": hclog.Error, "[ERROR] ": hclog.Error, "[WARN] ": hclog.Warn, "[DEBUG] ": hclog.Debug, "[INFO] ": hclog.Info} {
		if _, after, ok := strings.Cut(line, tag); ok {
			level, line = lv, after
			break
		}
	}
	w.l.Log(level, line)
	return len(p), nil
}
