package partition

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
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
			synctest.Wait() // nothing looks at the policy before the power goes
			c.mu.Lock()
			c.topic.Fsync = true
			c.mu.Unlock()
			next := disk.Crash()
			m.dead = true
			c.stop(m)
			m.dead = false
			disk, boot = next, "boot 2"
			p, err := Open(c.options(m))
			if err == nil {
				p.Close()
			}
			u, ok := errors.AsType[*Unclean](err)
			if !ok {
				t.Errorf("seed %d: %v", seed, err)
			} else if u.Standing.LastIndex < index {
				lost++
			}
		})
	}
	if lost == 0 {
		t.Error("nothing was ever lost")
	}
}

// powered is a test cluster whose machines lose power, each with a disk and a boot id of its own.
type powered struct {
	*testCluster
	mu    sync.Mutex
	disks map[*member]*crashfs.FS
	boots map[Replica]int
}

func newPowered(t *testing.T, n int, seed uint64, fsync bool) *powered {
	c := &powered{testCluster: newTestCluster(t, n), disks: map[*member]*crashfs.FS{}, boots: map[Replica]int{}}
	c.topic.Fsync = fsync
	for i, m := range c.members {
		c.equip(m, seed*10+uint64(i))
	}
	c.fs = func(m *member) vfs.FS {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.disks[m]
	}
	c.mod = func(o *Options) {
		c.mu.Lock()
		defer c.mu.Unlock()
		o.BootID = fmt.Sprintf("boot %d of %d", c.boots[o.Self], o.Self.Node)
	}
	return c
}

func (c *powered) equip(m *member, seed uint64) {
	m.dir = "/data/topic-0"
	disk := crashfs.New(seed)
	if err := errors.Join(disk.MkdirAll("/data", 0o755), disk.SyncDir("/")); err != nil { // the broker's part
		c.t.Fatal(err)
	}
	c.disks[m] = disk
}

// lose takes the power of machines at once (or, kill, only their processes). Their disks are what is left.
func (c *powered) lose(kill bool, ms ...*member) {
	c.t.Helper()
	next := map[*member]*crashfs.FS{}
	for _, m := range ms {
		m.dead = true
		if kill {
			next[m] = c.disks[m].Kill()
		} else {
			next[m] = c.disks[m].Crash()
		}
	}
	for _, m := range ms {
		c.stop(m)
		m.dead = false
		c.mu.Lock()
		c.disks[m] = next[m]
		if !kill {
			c.boots[m.r]++
		}
		c.mu.Unlock()
	}
}

// rests opens a replica that must turn out unclean.
func (c *powered) rests(m *member) Standing {
	c.t.Helper()
	p, err := Open(c.options(m))
	u, ok := errors.AsType[*Unclean](err)
	if !ok {
		if err == nil {
			p.Close()
		}
		c.t.Fatalf("%s opens after a loss of power: %v", m.r, err)
	}
	return u.Standing
}

// Rule 13: a replica that ran without sync through a loss of power does not start, also not when it is opened again and
// again; one whose process alone was killed, or that had stopped, starts as ever.
func TestRule13UncleanReplicaRests(t *testing.T) {
	for _, fsync := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newPowered(t, 3, 1, fsync)
			c.startAll()
			l := c.leader()
			c.fill(l, 1, 0, 20)
			c.converge()
			c.lose(true, c.members...)
			c.startAll()
			l = c.leader()
			if hw := l.p.HighWatermark(); hw != 20 {
				t.Errorf("fsync %v: high watermark %d after a kill of all", fsync, hw)
			}
			c.converge()
			m := c.members[0]
			c.stop(m)
			c.lose(false, m)
			c.start(m) // it had stopped cleanly
			c.fill(c.leader(), 1, 20, 20)
			c.converge()
			c.lose(false, m)
			if fsync {
				c.start(m)
				c.converge()
				c.stopAll()
				return
			}
			s := c.rests(m)
			if again := c.rests(m); fmt.Sprint(again) != fmt.Sprint(s) {
				t.Errorf("%+v, then %+v", s, again)
			}
			c.lose(true, m)
			c.lose(false, m)
			if again := c.rests(m); fmt.Sprint(again) != fmt.Sprint(s) {
				t.Errorf("%+v, then %+v", s, again)
			}
			if len(s.Voters) != 3 || s.LastIndex == 0 || s.Term < s.LastTerm {
				t.Errorf("%+v", s)
			}
			c.fill(c.leader(), 1, 40, 5) // the others go on
			c.stopAll()
		})
	}
}

// Rule 13: all lose power under load. The replica with the best log goes on alone, through a crash at any operation of its
// recovery; what it has is a prefix of what was written, and everything that was acknowledged before the time that the
// standings prove is there. The others join anew.
func TestRule13AllLosePower(t *testing.T) {
	lost := 0
	for seed := range uint64(24) {
		synctest.Test(t, func(t *testing.T) {
			c := newPowered(t, 3, seed, false)
			c.topic.SegmentBytes = 20000
			c.startAll()
			l := c.leader()
			var acked []time.Time // by offset
			for i := range 40 + int(seed)*37 {
				c.append(l, batch(1, 1, 0, int32(i), fmt.Sprint("value ", i)))
				acked = append(acked, time.Now())
				time.Sleep(time.Duration(i%7) * 15 * time.Millisecond)
			}
			c.lose(false, c.members...)
			var best *member
			var top Standing
			since := time.Now()
			known, term := int64(-1), uint64(0)
			for _, m := range c.members {
				s := c.rests(m)
				if s.Flushed.Before(since) {
					since = s.Flushed
				}
				known, term = max(known, s.Known), max(term, s.Term)
				if best == nil || s.LastTerm > top.LastTerm || s.LastTerm == top.LastTerm && s.LastIndex > top.LastIndex {
					best, top = m, s
				}
			}
			if int64(len(acked)) > top.LogEnd {
				lost++
				if at := acked[top.LogEnd]; at.Before(since) {
					t.Errorf("seed %d: offset %d is lost, acknowledged at %v, though all before %v is said to be there", seed, top.LogEnd, at, since)
				}
			}
			if known > int64(len(acked)) {
				t.Errorf("seed %d: %d records were acknowledged, known are %d", seed, len(acked), known)
			}
			for n := 1; ; n++ { // killed, then without power, at each operation in turn
				c.disks[best].SetHook(killAt(c.disks[best], n))
				err := Recover(c.options(best), term+1, top.LastTerm, top.LastIndex)
				if err == nil {
					t.Logf("seed %d: %d operations; offsets 0..%d of %d are left", seed, n, top.LogEnd, len(acked))
					break
				}
				c.lose(n%2 == 0, best)
			}
			c.disks[best].SetHook(nil)
			if err := Recover(c.options(best), term+1, top.LastTerm, top.LastIndex); err != nil {
				t.Errorf("seed %d: once more: %v", seed, err)
			}
			c.lose(false, best)
			c.start(best)
			c.leader(best)
			if hw := best.p.HighWatermark(); hw != top.LogEnd {
				t.Errorf("seed %d: high watermark %d of a log to %d", seed, hw, top.LogEnd)
			}
			for i, v := range values(t, best.p) {
				if want := fmt.Sprintf("%d=value %d", i, i); v != want {
					t.Fatalf("seed %d: %s instead of %s", seed, v, want)
				}
			}
			if err := Recover(Options{
				Self: best.r, TopicID: [16]byte{1}, Dir: best.dir, FS: c.disks[best], Votes: best.votes, Sync: c.sync,
				Config: c.options(best).Config,
			}, term+1, 0, 0); !errors.Is(err, ErrGoneOn) {
				t.Errorf("seed %d: it is led, and recovered once more: %v", seed, err)
			}
			c.stopAll()
		})
	}
	if lost == 0 {
		t.Error("nothing was ever lost")
	}
}

// killAt ends the process at the n-th operation of the file system.
func killAt(disk *crashfs.FS, n int) func(crashfs.Op, string) error {
	var left atomic.Int64
	left.Store(int64(n))
	return func(crashfs.Op, string) error {
		if left.Add(-1) == 0 {
			disk.Kill()
		}
		return nil
	}
}

// Rule 19: a clock that jumps by two days makes no leader forget its producers, whose next batches would be refused.
func TestRule19JumpedClockForgetsNoProducer(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := newTestCluster(t, 1)
			var jump atomic.Int64
			c.mod = func(o *Options) {
				o.Now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
				o.ClockTrusted = func(now time.Time) error {
					if guarded && time.Until(now) > time.Hour {
						return errors.New("far from the others")
					}
					return nil
				}
			}
			c.startAll()
			l := c.leader()
			c.fill(l, 1, 0, 5)
			jump.Store(int64(48 * time.Hour))
			time.Sleep(2 * expiryEvery)
			r := l.p.Append(batch(1, 1, 0, 5, "x"), -1, time.Second).Result()
			if (r.Err == nil) != guarded {
				t.Errorf("guarded %v: the producer's next batch: %v", guarded, r.Err)
			}
			c.stopAll()
		})
	}
}
