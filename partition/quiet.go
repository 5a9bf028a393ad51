package partition

import (
	"context"
	"log/slog"
)

// quiet lowers what Raft logs by three levels, errors to debug. A broker that is lost makes every group that has a replica
// there complain several times a second; what matters of a group (damage, restarts) is logged by the partition itself.
type quiet struct{ slog.Handler }

const quieter = slog.LevelError - slog.LevelDebug

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, l-quieter)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level -= quieter
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(n string) slog.Handler      { return quiet{q.Handler.WithGroup(n)} }
