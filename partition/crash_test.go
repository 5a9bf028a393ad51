package partition

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// exhaustive says that `make crash` runs: every point, not a sample.
func exhaustive() bool { return os.Getenv("BALSA_CRASH") != "" }

// A mishap is what happens to one of three replicas at one sync of its disk.
type mishap string

const (
	powerCut  mishap = "power cut"    // what was not synced is lost, in torn sectors
	killed    mishap = "kill"         // the page cache lives on, unsynced
	syncError mishap = "failed sync"  // and a start of the process on what the page cache shows
	lyingDisk mishap = "lying syncs"  // from there on no sync of this disk does anything
	tornWrite mishap = "failed write" // an error of the disk in the middle of an append
)

// crashRun is one run of the workload, in which one replica meets a mishap at its n-th sync.
type crashRun struct {
	*testCluster
	t      *testing.T
	disk   map[*member]*crashfs.FS
	boot   map[*member]int
	victim *member
	what   mishap
	met    atomic.Bool // the point was reached
	down   atomic.Bool // the victim is to be started again
	acked  map[int]int64
	sent   []string
}

// arm sets the mishap of the victim at its n-th sync from now.
func (r *crashRun) arm(n int) {
	fs := r.disk[r.victim]
	left := atomic.Int64{}
	left.Store(int64(n))
	fs.SetHook(func(op crashfs.Op, name string) error {
		sync := op == crashfs.OpSync || op == crashfs.OpSyncDir
		switch {
		case r.what == lyingDisk && left.Load() <= 0 && sync:
			return crashfs.ErrLie
		case r.what == tornWrite && op == crashfs.OpWrite && left.Load() <= 0 && !r.met.Swap(true):
			r.down.Store(true)
			return syscall.EIO
		case !sync || left.Add(-1) != 0:
			return nil
		}
		switch r.what {
		case powerCut, killed:
			r.met.Store(true)
			r.down.Store(true)
			if r.what == killed {
				fs.Kill()
				return nil // finds the file system dead
			}
			fs.CrashAt(1)
		case syncError:
			r.met.Store(true)
			r.down.Store(true)
			return syscall.EIO
		case lyingDisk:
			r.met.Store(true)
			return crashfs.ErrLie
		}
		return nil
	})
}

// revive starts the victim again if it has met its mishap.
func (r *crashRun) revive() {
	if !r.down.Load() {
		return
	}
	m := r.victim
	m.dead = true
	fs := r.disk[m]
	fs.SetHook(nil)
	switch r.what {
	case powerCut:
		r.disk[m] = fs.Crash()
		r.boot[m]++
		r.stop(m)
	case killed, syncError, tornWrite:
		r.stop(m)
		r.disk[m] = fs.Kill()
	}
	r.down.Store(false)
	m.dead = false
	r.start(m)
}

// put appends the next record at whoever leads among those that are asked for, until it is acknowledged.
func (r *crashRun) put(size int, among ...*member) {
	i := len(r.sent)
	value := fmt.Sprintf("%d %s", i, strings.Repeat("x", size))
	r.sent = append(r.sent, value)
	deadline := time.Now().Add(5 * time.Minute)
	for time.Now().Before(deadline) {
		r.revive()
		p := r.anyLeader(among)
		if p == nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if res := p.Append(batch(1, 1, 0, int32(i), value), -1, 2*time.Second).Result(); res.Err == nil {
			r.acked[i] = res.BaseOffset
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Fatalf("record %d was never taken", i)
}

func (r *crashRun) anyLeader(among []*member) *Partition {
	if len(among) == 0 {
		among = r.members
	}
	for _, m := range among {
		if p := m.live.Load(); p != nil {
			if _, ok := p.Leading(); ok {
				return p
			}
		}
	}
	return nil
}

// work is small and large appends over several segments, a truncation at a deposed leader, and a log start that moves.
func (r *crashRun) work() {
	for _, size := range []int{10, 300, 40_000, 10} {
		r.put(size)
	}
	if old := r.anyLeader(nil); old != nil {
		deposed := slices.IndexFunc(r.members, func(m *member) bool { return m.live.Load() == old })
		m := r.members[deposed]
		r.isolate(m, true)
		for i := range 3 {
			old.Append(batch(1, 2, 0, int32(i), "in vain"), -1, time.Second)
		}
		if r.victim == m || !r.down.Load() {
			r.put(20, r.others(m)...)
			r.put(1000, r.others(m)...)
		}
		r.isolate(m, false)
	}
	r.put(10)
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		r.revive()
		if p := r.anyLeader(nil); p != nil {
			if _, err := p.DeleteRecords(r.t.Context(), 2); err == nil {
				break
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.put(300)
}

// everybodyLosesPower starts all three on what their disks hold.
func (r *crashRun) everybodyLosesPower() {
	for _, m := range r.members {
		m.dead = true
		r.disk[m].SetHook(nil)
		next := r.disk[m].Crash()
		r.stop(m)
		r.disk[m] = next
		r.boot[m]++
	}
	for _, m := range r.members {
		m.dead = false
		p, err := Open(r.options(m))
		if err != nil && r.what == lyingDisk && m == r.victim {
			r.t.Logf("the disk that lied: %v", err)
			continue
		}
		if err != nil {
			r.t.Fatalf("%s after the loss of power: %v", m.r, err)
		}
		m.p = p
		m.live.Store(p)
	}
}

// check: every record that was acknowledged is on every replica where it was said to be, and nothing is there twice.
func (r *crashRun) check() {
	r.t.Helper()
	if m := r.victim; r.what == lyingDisk && m.p != nil {
		// It may notice only when it reads what is missing, and stops then.
		r.until("the disk that lied to be noticed, or sound", func() bool {
			l := r.leader()
			return m.p.failed() != nil || m.p.applied.Load() >= l.p.LastIndex()
		})
		if m.p.failed() != nil {
			m.dead = true
			r.stop(m)
		}
	}
	r.converge()
	r.sameState()
	for _, m := range r.members {
		if m.p == nil {
			continue
		}
		seen := map[string]int64{}
		for _, line := range values(r.t, m.p) {
			var offset int64
			at, value, _ := strings.Cut(line, "=")
			if _, err := fmt.Sscan(at, &offset); err != nil {
				r.t.Fatal(err)
			}
			if first, twice := seen[value]; twice && value != "in vain" {
				r.t.Errorf("%s: a record at offsets %d and %d", m.r, first, offset)
			}
			seen[value] = offset
		}
		for i, offset := range r.acked {
			if got, ok := seen[r.sent[i]]; offset >= m.p.LogStart() && (!ok || got != offset) {
				r.t.Errorf("%s: record %d was acknowledged at offset %d, there: %v at %d", m.r, i, offset, ok, got)
			}
		}
	}
}

// Rules 6, 8, 9, 12 and 19: power is cut, the process killed, a sync or a write fails at every sync point of the leader's
// and of a follower's disk in turn, the replica is started again and acknowledges what it finds; then all three lose power. Of
// what was acknowledged nothing is missing, and no replica comes up damaged.
//
// A disk that lies about its syncs counts for none: what the other two hold survives it, and the test has them hold
// everything. That an entry survives which only a liar and one other held is not promised.
func TestCrashAtEverySyncOfThree(t *testing.T) {
	step, rounds := 11, 1
	if exhaustive() {
		step, rounds = 1, 10 // of which each loses other sectors
	} else if testing.Short() {
		step = 37
	}
	for _, what := range []mishap{powerCut, killed, syncError, tornWrite, lyingDisk} {
		for victim := range 2 {
			t.Run(fmt.Sprintf("%s of %d", what, victim), func(t *testing.T) {
				points := 0
				for n := 1; n < 2000; n += step {
					reached := false
					for round := range rounds {
						synctest.Test(t, func(t *testing.T) { reached = crashOnce(t, what, victim, n, round) || reached })
						if t.Failed() {
							t.Fatalf("%s at sync %d, round %d", what, n, round)
						}
					}
					if !reached {
						break
					}
					points++
				}
				t.Logf("%d points", points)
				if points == 0 {
					t.Error("nothing happened")
				}
			})
		}
	}
}

func crashOnce(t *testing.T, what mishap, victim, n, round int) (reached bool) {
	c := newTestCluster(t, 3)
	c.topic.SegmentBytes = 2000
	c.machine = true
	r := &crashRun{testCluster: c, t: t, what: what, boot: map[*member]int{}, acked: map[int]int64{}}
	r.disk = c.disks()
	for i, m := range c.members {
		r.disk[m] = crashfs.New(uint64(round*10_000 + n*10 + i))
	}
	c.mod = func(o *Options) {
		for m, k := range r.boot {
			if m.r == o.Self {
				o.BootID = fmt.Sprint("boot ", k)
			}
		}
	}
	for _, m := range c.members {
		r.boot[m] = 1
	}
	c.startAll()
	c.elect(c.members[0])
	r.victim = c.members[victim]
	r.arm(n)
	r.work()
	r.revive()
	if what == lyingDisk {
		c.converge() // the two honest disks have it all
	}
	r.everybodyLosesPower()
	r.put(10)
	r.check()
	c.stopAll()
	return r.met.Load()
}
