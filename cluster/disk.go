package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

// diskGuard watches the room on the data disk: produce is refused below a mark, and taken again when there is clearly
// more (safety rule 14). Reads and leadership go on meanwhile.
type diskGuard struct {
	fs      vfs.FS
	dir     string
	minFree func(total int64) int64
	full    atomic.Bool
}

const diskCheck = time.Second

func (d *diskGuard) isFull() bool { return d.full.Load() }

// check looks once. Hysteresis: a quarter above the mark ends it.
func (d *diskGuard) check() (changed bool, free uint64, err error) {
	free, total, err := d.fs.Free(d.dir)
	if err != nil {
		return false, 0, err
	}
	mark := d.minFree(int64(total))
	if mark <= 0 {
		return d.full.Swap(false), free, nil
	}
	was := d.full.Load()
	now := was
	switch {
	case int64(free) < mark:
		now = true
	case int64(free) >= mark+mark/4:
		now = false
	}
	d.full.Store(now)
	return was != now, free, nil
}

func (n *Node) diskLoop(ctx context.Context) {
	failed := false
	for {
		changed, free, err := n.disk.check()
		switch {
		case err != nil && !failed:
			failed = true
			n.log.Warn("Free space is unknown", "folder", n.opt.DataDir, "err", err)
		case err == nil && changed && n.disk.isFull():
			n.log.Error("The data disk is nearly full: produce is refused", "folder", n.opt.DataDir, "free_bytes", free)
		case err == nil && changed:
			n.log.Info("The data disk has room again: produce is taken", "folder", n.opt.DataDir, "free_bytes", free)
		}
		if !sleep(ctx, diskCheck) {
			return
		}
	}
}
