package partition

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// Rule 12: a topic becomes `fsync` and power goes before its next append. What was appended before was never promised
// to be on disk: its loss is no damage.
func TestRule12SwitchToFsyncIsNoDamage(t *testing.T) {
	lost := 0
	for seed := range uint64(12) {
		synctest.Test(t, func(t *testing.T) {
			c := newTestCluster(t, 1)
			m := c.members[0]
			m.dir = "/data/topic-0"
			disk := crashfs.New(seed)
			boot := "boot 1"
			c.fs = func(*member) vfs.FS { return disk }
			c.mod = func(o *Options) { o.BootID = boot }
			c.topic.Fsync = false
			c.startAll()
			c.leader()
			time.Sleep(1500 * time.Millisecond) // between two flushes
			for i := range 20 {
				c.append(m, batch(1, 1, 0, int32(i), "x"))
			}
			index := m.p.applied.Load()
			kept := func() mark {
				mf, err := openMark(disk, m.dir)
				if err != nil {
					t.Fatal(err)
				}
				return mf.last
			}
			c.until("the mark to be written", func() bool { return kept().index == index })
			f, err := disk.OpenFile(filepath.Join(m.dir, markName), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil { // the mark survives, as the kernel may choose
				t.Fatal(err)
			}
			f.Close()
			if err := disk.SyncDir(m.dir); err != nil {
				t.Fatal(err)
			}
			c.mu.Lock()
			c.topic.Fsync = true
			c.mu.Unlock()
			next := disk.Crash()
			m.dead = true
			c.stop(m)
			m.dead = false
			disk, boot = next, "boot 2"
			p, err := Open(c.options(m))
			if err != nil {
				t.Errorf("seed %d: %v", seed, err)
				return
			}
			if p.LastIndex() < index {
				lost++
			}
			p.Close()
		})
	}
	if lost == 0 {
		t.Error("nothing was ever lost")
	}
}
