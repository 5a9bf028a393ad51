package partition

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/balsa-broker/balsa/vfs"
)

func TestCheckpointRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &checkpoint{
			index: rapid.Uint64().Draw(t, "index"), term: rapid.Uint64().Draw(t, "term"),
			next: rapid.Int64().Draw(t, "next"), logStart: rapid.Int64().Draw(t, "start"),
			conf: testConfiguration(), machine: rapid.SliceOf(rapid.Byte()).Draw(t, "machine"),
			producers: map[int64]*producer{},
		}
		for range rapid.IntRange(0, 5).Draw(t, "producers") {
			p := &producer{}
			for i := range rapid.IntRange(1, 7).Draw(t, "batches") {
				p.apply(int16(i/6), seqBatch{first: int32(i), last: int32(i), offset: int64(i), appendTime: -1})
			}
			c.producers[rapid.Int64().Draw(t, "id")] = p
		}
		body := c.encode()
		d, err := decodeCheckpoint(body)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.encode(), body) {
			t.Fatal("another state came back")
		}
		bad := slices.Clone(body)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
		if _, err := decodeCheckpoint(bad); err == nil {
			t.Fatal("a flipped bit was not noticed")
		}
		if _, err := decodeCheckpoint(body[:rapid.IntRange(0, len(body)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("a cut was not noticed")
		}
	})
}

func TestMarkSurvivesTornWrites(t *testing.T) {
	dir := t.TempDir()
	m, err := openMark(vfs.OS(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(5) {
		if err := m.write(mark{index: i + 1, term: 2, durable: true}, i == 4); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openMark(vfs.OS(), dir)
	if err != nil || again.last != m.last || again.last.index != 5 {
		t.Fatalf("%+v, %v", again.last, err)
	}
	name := filepath.Join(dir, markName)
	b, _ := os.ReadFile(name)
	b[(m.seq%2)*markStride+9] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err = openMark(vfs.OS(), dir); err != nil || again.last.index != 4 {
		t.Fatalf("after a torn write: %+v, %v", again.last, err)
	}
}

// fill writes n batches of a producer, each in a write of its own, so that small segments roll.
func (c *testCluster) fill(m *member, producer int64, from, n int) {
	c.t.Helper()
	for i := from; i < from+n; i++ {
		c.append(m, batch(1, producer, 0, int32(i), strings.Repeat("x", 100)))
	}
}

func checkpointFiles(t *testing.T, dir string) []uint64 {
	t.Helper()
	out, err := listCheckpoints(vfs.OS(), dir, checkpointSuffix)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A checkpoint stands just below each segment, holds exactly the state of that entry, and the state after any restart is
// what the whole log builds.
func TestCheckpointsAtSegmentBoundaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.machine = true
		c.topic.SegmentBytes = 1000
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 20)
		c.fill(l, 2, 0, 7)
		c.fill(l, 1, 20, 20)
		c.converge()
		c.sameState()
		states := map[uint64][]byte{}
		for _, m := range c.members {
			m.p.bg.Wait()
			files := checkpointFiles(t, m.dir)
			segs := m.p.log.Segments()
			if len(segs) < 5 {
				t.Fatalf("%d segments", len(segs))
			}
			for _, s := range segs[1:] {
				if !slices.Contains(files, s.FirstIndex-1) {
					t.Errorf("%s: no checkpoint at %d (has %v)", m.r, s.FirstIndex-1, files)
					continue
				}
				_, body, err := readCheckpoint(vfs.OS(), m.dir, s.FirstIndex-1, checkpointSuffix)
				if err != nil {
					t.Fatal(err)
				}
				if other, ok := states[s.FirstIndex-1]; ok && !bytes.Equal(other, body) {
					t.Errorf("checkpoints at %d differ", s.FirstIndex-1)
				}
				states[s.FirstIndex-1] = body
			}
		}
		_, want, err := l.p.capture(l.p.applied.Load())
		if err != nil {
			t.Fatal(err)
		}
		at := l.p.applied.Load()
		c.stopAll()
		// From each checkpoint alone the same state comes about. Not from none: the marker of a clean stop is one.
		for _, keep := range append(checkpointFiles(t, l.dir), 0) {
			dir := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(dir, os.DirFS(l.dir)); err != nil {
				t.Fatal(err)
			}
			for _, i := range checkpointFiles(t, dir) {
				if i != keep {
					os.Remove(checkpointPath(dir, i, checkpointSuffix))
				}
			}
			o := c.options(&member{r: l.r, dir: dir, votes: l.votes, boot: true})
			mach := &counter{}
			o.Machine = mach
			p, err := Open(o)
			if err != nil {
				t.Fatalf("with checkpoint %d: %v", keep, err)
			}
			if p.applied.Load() != at {
				t.Errorf("with checkpoint %d: applied %d of %d", keep, p.applied.Load(), at)
			}
			if _, got, err := p.capture(at); err != nil || !bytes.Equal(got, want) {
				t.Errorf("with checkpoint %d: another state (%v)", keep, err)
			}
			p.Close()
		}
	})
}

// Rule 19: the log start moves by a command, on every replica, after the checkpoint below it is durable; and a follower
// that is empty, or lags behind it, gets the checkpoint and then every retained entry.
func TestRule19LogStartAndCatchUpFromEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.machine = true
		c.topic.SegmentBytes = 1000
		c.startAll()
		l := c.leader()
		var away *member
		for _, m := range c.members {
			if m != l {
				away = m
			}
		}
		c.fill(l, 1, 0, 10)
		c.converge()
		c.stop(away)
		c.fill(l, 1, 10, 30)
		if start, err := l.p.DeleteRecords(t.Context(), 25); err != nil || start != 25 {
			t.Fatalf("delete records: %d, %v", start, err)
		}
		c.until("segments to go", func() bool {
			ok := true
			for _, m := range c.members {
				ok = ok && (m.p == nil || m.p.FirstIndex() > 1 && m.p.LogStart() == 25)
			}
			return ok
		})
		for _, m := range c.members {
			if m.p == nil {
				continue
			}
			if s := m.p.log.StartOffset(); s > 25 {
				t.Errorf("%s lost retained records: files begin at %d", m.r, s)
			}
			if !slices.Contains(checkpointFiles(t, m.dir), m.p.FirstIndex()-1) {
				t.Errorf("%s has no checkpoint below entry %d", m.r, m.p.FirstIndex())
			}
		}
		if _, err := l.p.DeleteRecords(t.Context(), 1000); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("beyond the end: %v", err)
		}
		if start, err := l.p.DeleteRecords(t.Context(), 3); err != nil || start != 25 {
			t.Errorf("below the start: %d, %v", start, err)
		}
		c.start(away) // lags behind the log start
		c.converge()
		c.sameState()
		// A learner from nothing.
		learner := &member{r: Replica{Node: 4, ID: 200}, dir: filepath.Join(t.TempDir(), "node-4", "topic-0"), votes: raft.NewInmemStore()}
		c.members = append(c.members, learner)
		c.start(learner)
		l = c.leader()
		if learner.p.HasConfiguration() {
			t.Error("an empty learner would vote")
		}
		if err := l.p.Raft().AddNonvoter(learner.r.ServerID(), raft.ServerAddress(learner.r.String()), 0, 0).Error(); err != nil {
			t.Fatal(err)
		}
		c.converge()
		c.sameState()
		if learner.p.FirstIndex() != l.p.FirstIndex() || learner.p.LogStart() != 25 {
			t.Errorf("the learner begins at entry %d, offset %d", learner.p.FirstIndex(), learner.p.LogStart())
		}
		for _, m := range c.members {
			if got := values(t, m.p); len(got) != 15 {
				t.Errorf("%s has %d records", m.r, len(got))
			}
			if n, _ := m.mach.values(); n != 40 {
				t.Errorf("%s counted %d records", m.r, n)
			}
		}
		// The start does not jump back at a failover, nor at a restart.
		c.stopAll()
		c.startAll()
		l = c.leader()
		c.converge()
		for _, m := range c.members {
			if m.p.LogStart() != 25 {
				t.Errorf("%s: log start %d after the restart", m.r, m.p.LogStart())
			}
		}
		c.sameState()
		c.fill(l, 1, 40, 5)
		c.converge()
		c.sameState()
		c.stopAll()
	})
}

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.topic.SegmentBytes = 1000
		c.topic.RetentionBytes = 3000
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 60)
		for _, m := range c.members {
			if err := m.p.Retain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		c.until("retention by size", func() bool {
			return !slices.ContainsFunc(c.members, func(m *member) bool { return m.p.Status().Size > 5000 })
		})
		if l.p.Status().Size < 3000 {
			t.Errorf("too much went: %d bytes left", l.p.Status().Size)
		}
		start := l.p.LogStart()
		c.mu.Lock()
		c.topic.RetentionBytes, c.topic.RetentionTime = -1, time.Hour
		c.mu.Unlock()
		if err := l.p.Retain(t.Context()); err != nil { // the records are from 1970
			t.Fatal(err)
		}
		c.until("retention by time", func() bool { return l.p.LogStart() > start && len(l.p.log.Segments()) == 1 })
		if off, ts, epoch, err := l.p.OffsetForTime(t.Context(), 0); err != nil || off != l.p.LogStart() || ts != 1000 || epoch < 0 {
			t.Errorf("offset for time 0: %d, %d, %d, %v", off, ts, epoch, err)
		}
		if off, _, _, err := l.p.OffsetForTime(t.Context(), 5000); err != nil || off != -1 {
			t.Errorf("offset for a time after all: %d, %v", off, err)
		}
		c.append(l, batch(3, -1, 0, 0, "z"))
		if off, ts, _, err := l.p.OffsetForMaxTime(t.Context()); err != nil || ts != 1002 || off != 62 {
			t.Errorf("offset of the largest timestamp: %d, %d, %v", off, ts, err)
		}
		c.stopAll()
	})
}

// Rule 6: a log that differs from the leader's snapshot is wiped and rebuilt, and does not vote before it reaches as far
// as it once did.
func TestRule6DivergentLogIsWiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.topic.SegmentBytes = 1000
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		c.converge()
		// The leader alone goes on, in vain.
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, true)
		}
		for i := range 100 {
			l.p.Append(batch(1, 2, 0, int32(i), strings.Repeat("y", 50)), -1, time.Second)
		}
		others := slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m == l })
		n := c.leader(others...)
		c.until("the old leader to step down", func() bool { _, ok := l.p.Leading(); return !ok })
		c.fill(n, 1, 5, 60)
		if _, err := n.p.DeleteRecords(t.Context(), 50); err != nil {
			t.Fatal(err)
		}
		c.until("segments to go", func() bool {
			return !slices.ContainsFunc(others, func(m *member) bool { return m.p.FirstIndex() <= 20 })
		})
		if l.p.LastIndex() <= n.p.FirstIndex() {
			t.Fatalf("the old leader's log ends at %d, the other begins at %d", l.p.LastIndex(), n.p.FirstIndex())
		}
		before := l.p.LastIndex()
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, false)
		}
		c.converge()
		c.sameState()
		if l.p.identity.voteFloor == 0 || l.p.identity.voteFloor > before {
			t.Errorf("vote floor %d", l.p.identity.voteFloor)
		}
		if !l.p.HasConfiguration() {
			t.Error("still without a vote")
		}
		if hw := l.p.HighWatermark(); hw != 65 {
			t.Errorf("high watermark %d", hw)
		}
		c.stop(l)
		c.start(l)
		c.converge()
		c.stopAll()
	})
}

// Rule 6: between the request to wipe and the wipe itself another leader may have put the log right. What was then
// acknowledged is not thrown away.
func TestRule6WipeOfALogPutRightMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		last := l.p.LastIndex()
		term, _ := l.p.Term(last)
		before := l.p.group.Load()
		l.p.requestRestart(restartRequest{floor: last, term: term, why: "a snapshot that the log matches by now"})
		c.until("the restart", func() bool { return l.p.group.Load() != before })
		c.leader()
		if got := l.p.LastIndex(); got < last || l.p.HighWatermark() != 5 {
			t.Errorf("the log ends at %d, had %d; high watermark %d", got, last, l.p.HighWatermark())
		}
		if got := c.append(l, batch(1, 1, 0, 5, "x")); got != 5 {
			t.Errorf("offset %d", got)
		}
		c.stopAll()
	})
}

// Rule 6: a crash in the midst of a wipe or an install is finished by the next start.
func TestRule6CrashDuringWipeAndInstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.topic.SegmentBytes = 1000
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 30)
		ck, _, err := l.p.capture(l.p.applied.Load())
		if err != nil {
			t.Fatal(err)
		}
		c.stop(l)
		// An install whose log reset did not happen: a checkpoint beyond the end.
		far := *ck
		far.index, far.next = ck.index+100, ck.next+500
		body := far.encode()
		if err := writeCheckpoint(vfs.OS(), l.dir, far.index, installSuffix, body); err != nil {
			t.Fatal(err)
		}
		c.start(l)
		if l.p.LastIndex() < far.index || l.p.HighWatermark() != far.next || l.p.FirstIndex() != far.index+1 {
			t.Fatalf("after the install: %+v", l.p.Status())
		}
		c.leader()
		if got := c.append(l, batch(1, 1, 0, 30, "x")); got != far.next {
			t.Errorf("offset %d", got)
		}
		c.stop(l)
		// A wipe that got no further than its mark.
		if err := os.WriteFile(filepath.Join(l.dir, wipeName), []byte{0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4}, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(c.options(l)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("a damaged mark: %v", err)
		}
		p := &Partition{o: c.options(l)}
		p.o.setDefaults()
		p.identity, _, _ = readIdentity(vfs.OS(), l.dir)
		func() {
			defer func() { _ = recover() }() // there is no log to reset: the crash
			_ = p.startWipe(9)
		}()
		c.start(l)
		if l.p.LastIndex() != 0 || l.p.HasConfiguration() || l.p.identity.voteFloor != 9 {
			t.Errorf("after the wipe: %+v", l.p.Status())
		}
		if _, err := os.Stat(filepath.Join(l.dir, wipeName)); !os.IsNotExist(err) {
			t.Errorf("the mark is still there: %v", err)
		}
		c.stop(l)
		c.start(l) // an empty log beside votes is legitimate after a wipe
		c.stop(l)
	})
}

func TestProducersExpireByLoggedDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.mod = func(o *Options) { o.MaxProducers, o.ProducerExpiry = 20, time.Hour }
		c.startAll()
		l := c.leader()
		count := func(m *member) int {
			m.p.mu.Lock()
			defer m.p.mu.Unlock()
			return len(m.p.producers)
		}
		for id := range int64(35) {
			c.append(l, batch(1, id, 0, 0, "a"))
		}
		c.until("the least recent to be forgotten", func() bool { return count(l) <= 20 })
		c.converge()
		c.sameState()
		if r := l.p.Append(batch(1, 34, 0, 1, "b"), -1, time.Second).Result(); r.Err != nil {
			t.Errorf("the most recent one: %v", r.Err)
		}
		if r := l.p.Append(batch(1, 0, 0, 1, "b"), -1, time.Second).Result(); !errors.Is(r.Err, ErrOutOfOrderSequence) {
			t.Errorf("a forgotten one: %v", r.Err)
		}
		if r := l.p.Append(batch(1, 0, 1, 0, "b"), -1, time.Second).Result(); r.Err != nil {
			t.Errorf("it begins anew: %v", r.Err)
		}
		time.Sleep(2 * time.Hour)
		c.until("all to expire", func() bool { return count(c.leader()) == 0 })
		c.converge()
		c.sameState()
		c.stopAll()
	})
}

func TestSequenceChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		try := func(epoch int16, seq int32, n int) AppendResult {
			return l.p.Append(batch(n, 9, epoch, seq, "v"), -1, time.Second).Result()
		}
		for i, x := range []struct {
			epoch  int16
			seq    int32
			n      int
			offset int64
			err    error
		}{
			{0, 1, 1, -1, ErrOutOfOrderSequence}, // unknown: must begin at 0
			{0, 0, 2, 0, nil},
			{0, 2, 1, 2, nil},
			{0, 0, 2, 0, nil}, // again
			{0, 2, 1, 2, nil},
			{0, 4, 1, -1, ErrOutOfOrderSequence},
			{0, 2, 2, -1, ErrOutOfOrderSequence}, // half of it is known
			{0, 3, 1, 3, nil},
			{0, 4, 1, 4, nil},
			{0, 5, 1, 5, nil},
			{0, 6, 1, 6, nil},
			{0, 0, 2, -1, ErrDuplicateSequence}, // older than those remembered
			{1, 3, 1, -1, ErrOutOfOrderSequence},
			{1, 0, 1, 7, nil},
			{0, 7, 1, -1, ErrProducerFenced},
			{1, 1, 1, 8, nil},
		} {
			r := try(x.epoch, x.seq, x.n)
			if !errors.Is(r.Err, x.err) || (x.err == nil && (r.Err != nil || r.BaseOffset != x.offset)) {
				t.Errorf("%d %+v: %+v", i, x, r)
			}
		}
		c.stopAll()
	})
}

func TestSequenceWraps(t *testing.T) {
	p := &producer{}
	p.apply(3, seqBatch{first: seqMask - 5, last: seqMask - 1})
	if v := p.check(3, seqMask, 1); v.err != nil || v.applied != nil {
		t.Fatalf("%+v", v)
	}
	p.apply(3, seqBatch{first: seqMask, last: 1})
	for _, x := range []struct {
		first, last int32
		err         error
	}{{2, 4, nil}, {3, 4, ErrOutOfOrderSequence}, {seqMask - 9, seqMask - 6, ErrDuplicateSequence}} {
		if v := p.check(3, x.first, x.last); !errors.Is(v.err, x.err) {
			t.Errorf("%+v: %v", x, v.err)
		}
	}
	if v := p.check(3, seqMask, 1); v.applied == nil {
		t.Error("the batch over the wrap is not known")
	}
}

// A duplicate of a batch in flight waits for that batch.
func TestDuplicateInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.net.delay = func() time.Duration { return 50 * time.Millisecond }
		c.startAll()
		l := c.leader()
		a := l.p.Append(batch(1, 5, 0, 0, "a"), -1, time.Minute)
		b := l.p.Append(batch(1, 5, 0, 0, "a"), -1, time.Minute)
		select {
		case <-b.Done():
			t.Fatalf("the duplicate was answered first: %+v", b.Result())
		default:
		}
		if x, y := a.Result(), b.Result(); x.Err != nil || y.Err != nil || x.BaseOffset != y.BaseOffset {
			t.Errorf("%+v, %+v", x, y)
		}
		if hw := l.p.HighWatermark(); hw != 1 {
			t.Errorf("high watermark %d", hw)
		}
		c.stopAll()
	})
}

func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.append(l, batch(1, -1, 0, 0, "a"))
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, true)
		}
		var under []*Pending
		for range maxInflight {
			under = append(under, l.p.Append(batch(1, -1, 0, 0, "b"), -1, time.Minute))
		}
		start := time.Now()
		if r := l.p.Append(batch(1, -1, 0, 0, "c"), -1, time.Second).Result(); !errors.Is(r.Err, ErrOverloaded) {
			t.Errorf("%+v", r)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("it took %v", d)
		}
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, false)
		}
		for i, w := range under {
			if r := w.Result(); r.Err != nil || r.BaseOffset != int64(i+1) {
				t.Fatalf("%d: %+v", i, r)
			}
		}
		c.stopAll()
	})
}
