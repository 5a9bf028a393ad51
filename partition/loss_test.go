package partition

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// Rule 1: the matrix of log, votes and creation record, each there or lost.
func TestRule1LogsAndVotesThatAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		c.converge()
		m := c.members[0]
		c.stop(m)
		reopen := func(dir string, votes raft.StableStore, boot bool) error {
			o := c.options(&member{r: m.r, dir: dir, votes: raft.NewInmemStore(), boot: boot})
			o.Votes = votes
			p, err := Open(o)
			if err != nil {
				return err
			}
			return p.Close()
		}
		empty := func() string { return filepath.Join(t.TempDir(), "x", "topic-0") }
		for _, boot := range []bool{true, false} {
			if err := reopen(empty(), m.votes, boot); !errors.Is(err, ErrLost) {
				t.Errorf("votes without a log, creation record %v: %v", boot, err)
			}
			if err := reopen(m.dir, raft.NewInmemStore(), boot); !errors.Is(err, ErrLost) {
				t.Errorf("a log without votes, creation record %v: %v", boot, err)
			}
		}
		// The segments alone are gone: the kept high watermark tells.
		dir := empty()
		if err := os.CopyFS(dir, os.DirFS(m.dir)); err != nil {
			t.Fatal(err)
		}
		files, _ := os.ReadDir(dir)
		for _, f := range files {
			if f.Name() != identityName && f.Name() != markName {
				os.Remove(filepath.Join(dir, f.Name()))
			}
		}
		if err := reopen(dir, m.votes, true); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrLost) {
			t.Errorf("segments lost: %v", err)
		}
		os.Remove(filepath.Join(dir, markName))
		if err := reopen(dir, m.votes, true); !errors.Is(err, ErrLost) {
			t.Errorf("segments and high watermark lost: %v", err)
		}
		// Another's folder.
		o := c.options(&member{r: Replica{Node: 1, ID: 999}, dir: m.dir, votes: m.votes})
		if _, err := Open(o); !errors.Is(err, ErrLost) {
			t.Errorf("another replica's folder: %v", err)
		}
		// A creation that crashed half-way is repeated.
		half := raft.NewInmemStore()
		if err := half.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
			t.Fatal(err)
		}
		if err := reopen(empty(), half, true); err != nil {
			t.Errorf("half a creation: %v", err)
		}
		// A learner that has heard a leader and holds nothing yet is no loss.
		dir, votes := empty(), raft.NewInmemStore()
		if err := reopen(dir, votes, false); err != nil {
			t.Fatal(err)
		}
		if err := votes.SetUint64([]byte(keyCurrentTerm), 7); err != nil {
			t.Fatal(err)
		}
		if err := reopen(dir, votes, false); err != nil {
			t.Errorf("an empty learner: %v", err)
		}
		c.start(m)
		c.converge()
		c.stopAll()
	})
}

// Rule 12: a log that ends below the kept high watermark, or has another term there, is damaged; it is not clamped away.
func TestRule12LossIsNotClampedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		c.stop(l)
		mf, err := openMark(vfs.OS(), l.dir)
		if err != nil {
			t.Fatal(err)
		}
		good := mf.last
		for _, bad := range []mark{
			{index: good.index + 1, term: good.term, durable: true},
			{index: good.index, term: good.term + 1, durable: true},
		} {
			if err := mf.write(bad, true); err != nil {
				t.Fatal(err)
			}
			if p, err := Open(c.options(l)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("mark %+v with a log to %d of term %d: %v", bad, good.index, good.term, err)
				if err == nil {
					p.Close()
				}
			}
		}
		if err := mf.write(good, true); err != nil {
			t.Fatal(err)
		}
		c.start(l)
		c.stop(l)
	})
}

// Rule 12: what Raft is told at the start lies neither above what was committed nor above the last entry, and the high
// watermark comes back.
func TestRule12StartFromTheKeptHighWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		c.converge()
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, true)
		}
		for i := range 5 { // in the leader's log, committed by nobody
			l.p.Append(batch(1, 2, 0, int32(i), "x"), -1, time.Millisecond)
		}
		c.until("the appends to be stored", func() bool { return l.p.log.NextOffset() == 10 })
		applied := l.p.applied.Load()
		c.stop(l)
		c.start(l)
		if hw := l.p.HighWatermark(); hw != 5 {
			t.Errorf("high watermark %d after the restart", hw)
		}
		if a := l.p.Raft().AppliedIndex(); a != applied || l.p.LastIndex() <= a {
			t.Errorf("applied %d of %d, was %d", a, l.p.LastIndex(), applied)
		}
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, false)
		}
		c.converge()
		c.sameState()
		c.stopAll()
	})
}

// Rule 7: a failed store stops this group, and nothing else; its appends are answered.
func TestRule7StoreFailureStopsTheGroup(t *testing.T) {
	for _, what := range []error{syscall.EIO, syscall.ENOSPC} {
		t.Run(what.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCluster(t, 3)
				disks := map[*member]*crashfs.FS{}
				for i, m := range c.members {
					disks[m] = crashfs.New(uint64(i))
					m.dir = "/data/topic-0"
				}
				c.fs = func(m *member) vfs.FS { return disks[m] }
				c.startAll()
				l := c.leader()
				c.fill(l, 1, 0, 3)
				c.converge()
				disks[l].SetHook(func(op crashfs.Op, name string) error {
					full := op == crashfs.OpWrite || op == crashfs.OpAllocate
					if strings.HasSuffix(name, ".log") && (full || op == crashfs.OpSync && errors.Is(what, syscall.EIO)) {
						return what
					}
					return nil
				})
				r := l.p.Append(batch(1, 1, 0, 3, "x"), -1, time.Minute).Result()
				if !errors.Is(r.Err, ErrStorage) && !errors.Is(r.Err, ErrDiskFull) && !errors.Is(r.Err, ErrNotLeader) {
					t.Errorf("the append: %+v", r)
				}
				l.dead = true
				others := slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m == l })
				n := c.leader(others...)
				if got := c.append(n, batch(1, 1, 0, 3, "x")); got != 3 {
					t.Errorf("at the new leader: %d", got)
				}
				disks[l].SetHook(nil)
				if s := l.p.Status(); (s.State == "damaged") != errors.Is(what, syscall.EIO) {
					t.Errorf("state %s: %s", s.State, s.Err)
				}
				if errors.Is(what, syscall.EIO) {
					c.stop(l)
					c.start(l)
				}
				l.dead = false
				c.converge()
				c.sameState()
				c.stopAll()
			})
		})
	}
}

// Rule 7: Raft's heartbeat path can set a term back that its main path has just raised. The newer term stays, and the group
// starts again on it; the replica is not lost for that.
func TestRule7TermDoesNotGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		before := l.p.group.Load()
		term := before.raft.CurrentTerm()
		if err := (&votes{StableStore: l.p.o.Votes, p: l.p}).SetUint64([]byte(keyCurrentTerm), term-1); err != nil {
			t.Errorf("Raft panics on %v", err)
		}
		if v, err := l.p.o.Votes.GetUint64([]byte(keyCurrentTerm)); err != nil || v != term {
			t.Errorf("term %d was set back to %d, %v", term, v, err)
		}
		c.until("the restart", func() bool { return l.p.group.Load() != before })
		c.leader()
		c.fill(l, 1, 3, 3)
		c.stopAll()
	})
}

// Rule 8: what a failed fsync covered is not acknowledged, here for want of a majority that has it on disk. The replicas
// stop; after a loss of power, which shows what the page cache hid, everything acknowledged is there and they go on.
func TestRule8FailedSyncOfAMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		disks := map[*member]*crashfs.FS{}
		for i, m := range c.members {
			disks[m] = crashfs.New(uint64(i))
			m.dir = "/data/topic-0"
		}
		c.fs = func(m *member) vfs.FS { return disks[m] }
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		c.converge()
		var followers []*member
		for _, m := range c.members {
			if m == l {
				continue
			}
			followers = append(followers, m)
			m.dead = true
			disks[m].SetHook(func(op crashfs.Op, name string) error {
				if op == crashfs.OpSync && strings.HasSuffix(name, ".log") {
					return syscall.EIO
				}
				return nil
			})
		}
		if r := l.p.Append(batch(1, 1, 0, 3, "x"), -1, 3*time.Second).Result(); r.Err == nil {
			t.Errorf("acknowledged: %+v", r)
		}
		c.until("the followers to stop", func() bool {
			return followers[0].p.Status().State == "damaged" && followers[1].p.Status().State == "damaged"
		})
		boots := 0
		c.mod = func(o *Options) { // the machine was off
			boots++
			o.BootID = fmt.Sprint("boot ", boots)
		}
		for _, m := range followers {
			next := disks[m].Crash()
			c.stop(m)
			disks[m], m.dead = next, false
		}
		for _, m := range followers {
			c.start(m)
		}
		n := c.leader()
		if got := c.append(n, batch(1, 1, 0, 3, "x")); got != 3 {
			t.Errorf("the same batch again: %d", got)
		}
		c.converge()
		c.sameState()
		c.stopAll()
	})
}

// failingVotes cannot save anything any more.
type failingVotes struct {
	raft.StableStore
	fail bool
}

func (f *failingVotes) SetUint64(k []byte, v uint64) error {
	if f.fail {
		return syscall.EIO
	}
	return f.StableStore.SetUint64(k, v)
}

func (f *failingVotes) Set(k, v []byte) error {
	if f.fail {
		return syscall.EIO
	}
	return f.StableStore.Set(k, v)
}

// Rule 7: Raft panics when it cannot save a term. The partition stops instead.
func TestRule7VotesFailureDoesNotPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		stores := map[Replica]*failingVotes{}
		c.mod = func(o *Options) {
			f := &failingVotes{StableStore: o.Votes}
			stores[o.Self] = f
			o.Votes = f
		}
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		c.converge()
		var f *member
		for _, m := range c.members {
			if m != l {
				f = m
			}
		}
		stores[f.r].fail = true
		f.dead = true
		c.elect(slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m == l || m == f })[0])
		c.until("the replica to stop", func() bool { return f.p.Status().State == "damaged" })
		n := c.leader()
		c.fill(n, 1, 3, 3)
		if f.p.Append(batch(1, 1, 0, 9, "x"), -1, time.Second).Result().Err == nil {
			t.Error("a stopped replica takes appends")
		}
		<-f.p.Changed()
		c.stopAll()
	})
}

// Power is lost at random sync points, of one replica at a time and then of all: nothing acknowledged is missing, nothing
// is there twice, and no replica comes up damaged.
func TestPowerLoss(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				retention := seed >= 4 // segments go meanwhile, and replicas that lag get checkpoints
				rnd := rand.New(rand.NewPCG(seed, 2))
				c := newTestCluster(t, 3)
				c.topic.SegmentBytes = 4000
				c.machine = true
				if retention {
					c.topic.RetentionBytes = 10000
				}
				c.net.delay = func() time.Duration { return time.Duration(rand.IntN(2000)) * time.Microsecond }
				var mu sync.Mutex
				disks := map[*member]*crashfs.FS{}
				for i, m := range c.members {
					disks[m] = crashfs.New(seed*10 + uint64(i))
					m.dir = "/data/topic-0"
				}
				c.fs = func(m *member) vfs.FS {
					mu.Lock()
					defer mu.Unlock()
					return disks[m]
				}
				c.startAll()
				c.leader()
				clients := make([]*client, 3)
				var wg sync.WaitGroup
				t.Cleanup(wg.Wait)
				for i := range clients {
					clients[i] = &client{c: c, id: int64(i + 1), total: 700, acked: map[int]int64{}}
					wg.Go(func() {
						if err := clients[i].run(); err != nil {
							t.Error(err)
						}
					})
				}
				boots := 0
				c.mod = func(o *Options) {
					boots++
					o.BootID = fmt.Sprint("boot ", boots)
				}
				crash := func(ms ...*member) {
					for _, m := range ms {
						m.dead = true
						next := disks[m].Crash()
						mu.Lock()
						disks[m] = next
						mu.Unlock()
					}
					for _, m := range ms {
						c.stop(m)
						m.dead = false
					}
					for _, m := range ms {
						c.start(m)
					}
				}
				for round := range 16 {
					m := c.members[rnd.IntN(3)]
					if retention {
						if p := c.leading(); p != nil {
							_ = p.Retain(t.Context())
						}
					}
					if round%4 == 3 {
						time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
						crash(c.members...)
						c.leader()
						continue
					}
					disks[m].CrashAt(1 + rnd.IntN(60))
					for i := 0; i < 200 && !disks[m].Crashed(); i++ {
						time.Sleep(time.Millisecond)
					}
					crash(m)
					c.leader()
				}
				wg.Wait()
				c.converge()
				c.sameState()
				for _, m := range c.members {
					if retention {
						t.Logf("%s: entries %d..%d", m.r, m.p.FirstIndex(), m.p.LastIndex())
						continue
					}
					checkProducers(t, m.p, clients)
				}
				c.stopAll()
			})
		})
	}
}

// A minority without its disk's last writes cannot undo what a consumer has seen.
func TestHighWatermarkNeverFalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		seen := int64(0)
		next := int32(0)
		for range 6 {
			for range 5 {
				c.append(l, batch(1, 1, 0, next, "x"))
				next++
			}
			for _, m := range c.members {
				if m.p.HighWatermark() > l.p.HighWatermark() {
					t.Errorf("%s is ahead of the leader", m.r)
				}
			}
			seen = max(seen, l.p.HighWatermark())
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if err := l.p.TransferLeadership(ctx, Replica{}); err != nil {
				t.Log(err)
			}
			cancel()
			l = c.leader()
			if hw := l.p.HighWatermark(); hw < seen {
				t.Fatalf("high watermark %d after %d", hw, seen)
			}
		}
		c.stopAll()
	})
}

// Rules 1, 8 and 12: the process is killed at each operation of the file system in turn, from the making of the replica
// to its clean end; the next one goes on, and then power goes. The replica is never taken for a lost one, and has all that
// it acknowledged.
func TestRule8KillAtEveryOperation(t *testing.T) {
	for n := 1; ; n++ {
		done := false
		synctest.Test(t, func(t *testing.T) {
			c := newTestCluster(t, 1)
			c.topic.SegmentBytes = 700
			m := c.members[0]
			m.dir = "/data/topic-0"
			disk := crashfs.New(uint64(n))
			if err := errors.Join(disk.MkdirAll("/data", 0o755), disk.SyncDir("/")); err != nil { // the broker's part
				t.Fatal(err)
			}
			c.fs = func(*member) vfs.FS { return disk }
			boot := "boot 1"
			c.mod = func(o *Options) { o.BootID = boot }
			defer func() {
				if t.Failed() {
					t.Logf("killed at operation %d", n)
				}
			}()
			var left atomic.Int64
			left.Store(int64(n))
			killed := disk
			disk.SetHook(func(crashfs.Op, string) error {
				if left.Add(-1) == 0 {
					killed.Kill()
				}
				return nil
			})
			acked := 0
			if p, err := Open(c.options(m)); err == nil {
				m.p = p
				m.live.Store(p)
				c.until("a leader, or the end", func() bool { _, ok := p.Leading(); return ok || left.Load() <= 0 })
				for acked < 6 && p.Append(batch(1, 1, 0, int32(acked), strings.Repeat("x", 200)), -1, time.Second).Result().Err == nil {
					acked++
				}
				m.dead = true
				c.stop(m)
				m.dead = false
			}
			done = left.Load() > 0
			disk.SetHook(nil)
			disk = disk.Kill()
			c.start(m)
			c.leader()
			if hw := int(m.p.HighWatermark()); hw < acked || hw > acked+1 {
				t.Errorf("operation %d: %d records were acknowledged, %d are there", n, acked, hw)
			}
			hw := int(m.p.HighWatermark())
			c.append(m, batch(1, 1, 0, int32(hw), "y"))
			next := disk.Crash()
			m.dead = true
			c.stop(m)
			m.dead = false
			disk, boot = next, "boot 2"
			c.start(m)
			c.leader()
			if got := int(m.p.HighWatermark()); got != hw+1 {
				t.Errorf("operation %d: %d records after the loss of power, want %d", n, got, hw+1)
			}
			c.stopAll()
		})
		if done || t.Failed() {
			t.Logf("%d operations", n)
			return
		}
	}
}
