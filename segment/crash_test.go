package segment

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// step is one operation of a workload that is drawn once and run many times.
type step struct {
	kind    string
	entries []NewEntry
	first   uint64
	offset  int64
	term    uint64
	after   *model // what the log is when the step has succeeded
}

// genSteps draws a workload together with the models between its steps.
func genSteps(t *rapid.T, kinds []string, n int) []step {
	m := &model{}
	var steps []step
	for range n {
		s := step{kind: rapid.SampledFrom(kinds).Draw(t, "step")}
		m = m.clone()
		switch s.kind {
		case "append":
			s.entries = genEntries(t, m, 8)
			m.add(s.entries)
		case "truncate":
			if m.first == 0 {
				continue
			}
			lo := m.next() - uint64(min(len(m.entries), 12))
			for lo < m.next() && m.start > m.base &&
				(m.entries[lo-m.first].NextOffset <= m.start || m.entries[lo-m.first].BaseOffset < m.start) {
				lo++ // what lies below the log start is committed, and perhaps deleted
			}
			s.first = rapid.Uint64Range(lo, m.next()).Draw(t, "first")
			m.truncate(s.first)
		case "advance":
			s.offset = rapid.Int64Range(m.start, m.nextOffset()).Draw(t, "offset")
			m.start = s.offset
		case "reset":
			s.first, s.offset, s.term = m.next()+3, m.nextOffset()+2, m.lastTerm()+1
			*m = model{first: s.first, base: s.offset, prevTerm: s.term, start: s.offset}
		}
		s.after = m
		steps = append(steps, s)
	}
	return steps
}

// run does the steps until one fails; it returns the number of those done.
func runSteps(l *Log, o Options, steps []step) (*Log, int, error) {
	for i, s := range steps {
		var err error
		switch s.kind {
		case "append":
			err = l.Append(s.entries)
		case "truncate":
			err = l.TruncateSuffix(s.first)
		case "advance":
			err = l.AdvanceStart(s.offset)
		case "roll":
			err = l.Roll()
		case "sync":
			err = l.Sync()
		case "reset":
			err = l.Reset(s.first, s.offset, s.term)
		case "close":
			if err = l.Close(); err == nil {
				var n *Log
				if n, err = Open(o); err == nil {
					l = n
				}
			}
		}
		if err != nil {
			return l, i, err
		}
	}
	return l, len(steps), nil
}

// outcome returns the model of what l may hold after a crash in the step between before and after: it fails when l is
// neither.
func outcome(t rapid.TB, l *Log, before, after *model, fsync bool) *model {
	t.Helper()
	if before.first != 0 && after.first != before.first { // a reset
		if l.FirstIndex() >= after.first {
			return after.clone()
		}
		after = before
	}
	long, short := before, after
	if after.next() > before.next() {
		long, short = after, before
	}
	last := l.LastIndex()
	lo := max(short.next(), 1) - 1
	if !fsync {
		lo = 0
	}
	if last > 0 && last+1 > long.next() || last < lo {
		t.Fatalf("the log ends at entry %d, not within %d..%d", last, lo, long.next()-1)
	}
	m := long.clone()
	if l.FirstIndex() == 0 {
		m = &model{}
	} else {
		m.entries = m.entries[:last+1-m.first]
	}
	got := l.StartOffset()
	if got != before.start && got != after.start && got != min(before.start, m.nextOffset()) && got != m.nextOffset() {
		t.Fatalf("log start %d, want %d or %d", got, before.start, after.start)
	}
	m.start = got
	return m
}

// TestCrashAtEverySync: power goes at every sync point of a workload in turn. Nothing acknowledged is missing,
// nothing that was truncated is back, the log opens without complaint, and it takes and keeps new entries.
func TestCrashAtEverySync(t *testing.T) {
	kinds := []string{"append", "append", "append", "append", "truncate", "advance", "roll", "close", "reset"}
	rapid.Check(t, func(rt *rapid.T) { crashEverywhere(rt, kinds, true) })
}

// TestCrashUnsynced: the same with Config.Fsync off: what is left is a prefix.
func TestCrashUnsynced(t *testing.T) {
	kinds := []string{"append", "append", "append", "append", "truncate", "advance", "roll", "close", "sync"}
	rapid.Check(t, func(rt *rapid.T) { crashEverywhere(rt, kinds, false) })
}

func crashEverywhere(rt *rapid.T, kinds []string, fsync bool) {
	steps := genSteps(rt, kinds, rapid.IntRange(1, 12).Draw(rt, "steps"))
	cfg := rapid.SampledFrom([]Config{
		{SegmentBytes: 4000, IndexIntervalBytes: 150}, {SegmentBytes: 1 << 20, IndexIntervalBytes: 1},
	}).Draw(rt, "config")
	cfg.Fsync = fsync
	seed := rapid.Uint64().Draw(rt, "seed")
	for n := 1; ; n++ {
		fs := crashfs.New(seed + uint64(n))
		o := Options{
			FS: fs, Dir: "/log", Logger: quiet(), BootID: "boot-1", Config: func() Config { return cfg }, Sync: NewSyncer(1),
		}
		fs.CrashAt(n)
		before := &model{}
		after := before
		l, err := Open(o)
		if err == nil {
			var done int
			l, done, err = runSteps(l, o, steps)
			if done > 0 {
				before = steps[done-1].after
				after = before
			}
			if done < len(steps) {
				after = steps[done].after
			}
			o.Sync.forget(l)
		}
		if !fs.Crashed() {
			must(rt, err)
			return
		}
		if err == nil {
			after = before // it crashed after the last step
		}
		for outcomes := range 3 {
			again(rt, o, fs.Crash(), before, after, fsync, fmt.Sprintf("sync %d, outcome %d", n, outcomes))
		}
	}
}

// again starts on what a crash left, twice: the second time after a crash that follows at once, so that all that the
// first start showed must have been made durable by it (safety rule 8).
func again(rt *rapid.T, o Options, disk *crashfs.FS, before, after *model, fsync bool, where string) {
	o.FS, o.BootID = disk, "boot-2"
	l, err := Open(o)
	if err != nil {
		rt.Fatalf("%s: %v", where, err)
	}
	m := outcome(rt, l, before, after, fsync)
	verify(rt, l, m)
	disk = disk.Crash()
	o.FS, o.BootID = disk, "boot-3"
	if l, err = Open(o); err != nil {
		rt.Fatalf("%s, second start: %v", where, err)
	}
	verify(rt, l, m)
	term := m.lastTerm() + 1
	index := max(m.next(), 1)
	for i := range uint64(3) {
		es := []NewEntry{{Index: index + 2*i, Term: term + i, Type: Noop}, {Index: index + 2*i + 1, Term: term + i, Type: Batch, Data: makeBatch(2, 1005, make([]byte, 900))}}
		m.add(es)
		if err := l.Append(es); err != nil {
			rt.Fatalf("%s: append: %v", where, err)
		}
	}
	verify(rt, l, m)
	o.Sync.forget(l)
	if !fsync {
		return
	}
	o.FS, o.DurableIndex = disk.Crash(), m.next()-1
	o.BootID = "boot-4"
	if l, err = Open(o); err != nil {
		rt.Fatalf("%s, third start: %v", where, err)
	}
	verify(rt, l, m)
	must(rt, l.Close())
	if l, err = Open(o); err != nil || !l.Recovery().Clean {
		rt.Fatalf("%s, clean start: %v", where, err)
	}
	verify(rt, l, m)
}

// TestKillThenPowerLoss is the schedule of safety rule 8: entries that a kill left in the page cache are counted by
// the next start, so they must survive the loss of power right after it.
func TestKillThenPowerLoss(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := crashfs.New(rapid.Uint64().Draw(rt, "seed"))
		o := Options{FS: fs, Dir: "/log", Logger: quiet(), BootID: "boot-1", Config: func() Config {
			c := smallConfig()
			c.Fsync = false
			return c
		}, Sync: NewSyncer(1)}
		l, err := Open(o)
		must(rt, err)
		steps := genSteps(rt, []string{"append", "append", "truncate", "roll"}, 8)
		l, _, err = runSteps(l, o, steps)
		must(rt, err)
		o.Sync.forget(l)
		o.FS = fs.Kill()
		l, err = Open(o)
		must(rt, err)
		m := &model{}
		if len(steps) > 0 {
			m = steps[len(steps)-1].after
		}
		verify(rt, l, m)
		o.FS, o.BootID = o.FS.(*crashfs.FS).Crash(), "boot-2"
		l, err = Open(o)
		must(rt, err)
		verify(rt, l, m)
	})
}

// TestRule8KillAtEveryOperation: the process is killed at each operation of the file system in turn, starts again, and
// goes on; then power goes. Names count like bytes: what the second process acknowledged is there.
func TestRule8KillAtEveryOperation(t *testing.T) {
	for n := 1; ; n++ {
		fs := crashfs.New(uint64(n))
		o := Options{FS: fs, Dir: "/log", Logger: quiet(), BootID: "boot-1", Sync: NewSyncer(1), Config: func() Config {
			return Config{Fsync: true, SegmentBytes: 3000, IndexIntervalBytes: 1}
		}}
		left := n
		fs.SetHook(func(crashfs.Op, string) error {
			if left--; left == 0 {
				fs.Kill()
			}
			return nil
		})
		m := &model{}
		l, err := Open(o)
		for i := 0; i < 6 && err == nil; i++ {
			es := []NewEntry{{Index: max(m.next(), 1), Term: 1, Type: Noop}}
			if i > 0 {
				es = batches(m, 3, 400)
			}
			if err = l.Append(es); err == nil {
				m.add(es)
			}
		}
		done := left > 0
		fs.SetHook(nil)
		fs = fs.Kill()
		for outcome := range 4 {
			o.FS, o.BootID = fs, "boot-1"
			if outcome == 0 {
				l, err = Open(o)
				must(t, err)
				last := l.LastIndex()
				if last+1 < m.next() {
					t.Fatalf("operation %d: the log ends at %d of %d", n, last, m.next()-1)
				}
				must(t, l.Append([]NewEntry{{Index: last + 1, Term: 2, Type: Noop}}))
				o.DurableIndex = last + 1
			}
			o.FS, o.BootID = fs.Crash(), "boot-2"
			if _, err := Open(o); err != nil {
				t.Fatalf("operation %d, outcome %d: %v", n, outcome, err)
			}
		}
		if done {
			return
		}
	}
}
