package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

// diskGuard watches the room on the data disk: produce is refused below a mark, and taken again when there is clearly
// more (safety rule 14). Reads and leadership go on meanwhile. Near the mark it looks again as appends come: a fast
// producer fills what is left between two looks.
type diskGuard struct {
	fs      vfs.FS
	dir     string
	minFree func(total int64) int64
	full    atomic.Bool
	tight   atomic.Bool // within tightRoom of the mark
	looked  atomic.Int64

	mu sync.Mutex // held by a look
}

const (
	diskCheck      = time.Second
	diskCheckTight = 10 * time.Millisecond
	tightRoom      = 1 << 30
)

// isFull says whether produce is to be refused.
func (d *diskGuard) isFull() bool {
	if d.tight.Load() && time.Now().UnixNano()-d.looked.Load() >= int64(diskCheckTight) && d.mu.TryLock() {
		_, _, _ = d.lookLocked() // the loop reports errors
		d.mu.Unlock()
	}
	return d.full.Load()
}

// isTight says that space is not to be taken ahead of its use.
func (d *diskGuard) isTight() bool { return d.tight.Load() }

// check looks once.
func (d *diskGuard) check() (full bool, free uint64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lookLocked()
}

// lookLocked has hysteresis: a quarter above the mark ends a full disk.
func (d *diskGuard) lookLocked() (full bool, free uint64, err error) {
	d.looked.Store(time.Now().UnixNano())
	free, total, err := d.fs.Free(d.dir)
	if err != nil {
		return d.full.Load(), 0, err
	}
	mark := d.minFree(int64(total))
	d.tight.Store(int64(free) < mark+tightRoom)
	switch {
	case mark <= 0:
		d.full.Store(false)
	case int64(free) < mark:
		d.full.Store(true)
	case int64(free) >= mark+mark/4:
		d.full.Store(false)
	}
	return d.full.Load(), free, nil
}

func (n *Node) diskLoop(ctx context.Context) {
	failed, was := false, false
	for {
		full, free, err := n.disk.check()
		switch {
		case err != nil && !failed:
			failed = true
			n.log.Warn("Free space is unknown", "folder", n.opt.DataDir, "err", err)
		case full && !was:
			n.log.Error("The data disk is nearly full: produce is refused", "folder", n.opt.DataDir, "free_bytes", free)
		case !full && was:
			n.log.Info("The data disk has room again: produce is taken", "folder", n.opt.DataDir, "free_bytes", free)
		}
		was = full
		if !sleep(ctx, diskCheck) {
			return
		}
	}
}
