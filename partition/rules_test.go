package partition

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// others are the members but m.
func (c *testCluster) others(m *member) []*member {
	return slices.DeleteFunc(slices.Clone(c.members), func(x *member) bool { return x == m })
}

// isolate cuts m off, or connects it again.
func (c *testCluster) isolate(m *member, cut bool) {
	for _, x := range c.others(m) {
		c.net.setCut(m.r, x.r, cut)
	}
}

// disks gives every member a crash double.
func (c *testCluster) disks() map[*member]*crashfs.FS {
	disks := map[*member]*crashfs.FS{}
	for i, m := range c.members {
		disks[m] = crashfs.New(uint64(i))
		m.dir = "/data/topic-0"
	}
	c.fs = func(m *member) vfs.FS { return disks[m] } // a test may give it another
	return disks
}

// Rule 7: Raft takes the entries that it had cut for entries that are still there when the store after the cut fails.
// The group starts again on what the log holds, and catches up.
func TestRule7StoreFailureAfterTruncation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		disks := c.disks()
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		c.converge()
		c.isolate(l, true)
		for i := range 5 { // in its log, committed by nobody
			l.p.Append(batch(1, 2, 0, int32(i), "y"), -1, time.Second)
		}
		n := c.leader(c.others(l)...)
		c.fill(n, 1, 3, 3)
		c.until("the old leader to step down", func() bool { _, ok := l.p.Leading(); return !ok })
		cut, failed := false, 0
		disks[l].SetHook(func(op crashfs.Op, name string) error {
			switch {
			case !strings.HasSuffix(name, ".log"):
			case op == crashfs.OpTruncate && failed == 0:
				cut = true
			case cut && failed == 0 && (op == crashfs.OpWrite || op == crashfs.OpAllocate):
				if op == crashfs.OpWrite {
					failed++
				}
				return syscall.ENOSPC
			}
			return nil
		})
		before := l.p.group.Load()
		c.isolate(l, false)
		c.until("the store to fail", func() bool { return failed > 0 || l.p.group.Load() != before })
		disks[l].SetHook(nil)
		c.converge()
		c.sameState()
		if l.p.group.Load() == before {
			t.Error("the group went on with Raft's idea of the last entry")
		}
		c.stopAll()
	})
}

// Rule 14: on a full disk appends are refused before they reach Raft; reads, leadership and the leader's own commands go
// on.
func TestRule14FullDiskRefusesProduce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		full := false
		c.mod = func(o *Options) { o.DiskFull = func() bool { return full } }
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		full = true
		last := l.p.LastIndex()
		if r := l.p.Append(batch(1, 1, 0, 3, "x"), -1, time.Second).Result(); !errors.Is(r.Err, ErrDiskFull) {
			t.Errorf("%+v", r)
		}
		if l.p.LastIndex() != last {
			t.Error("something was stored")
		}
		if got := values(t, l.p); len(got) != 3 {
			t.Errorf("%v", got)
		}
		if start, err := l.p.DeleteRecords(t.Context(), 2); err != nil || start != 2 {
			t.Errorf("room cannot be made: %d, %v", start, err)
		}
		full = false
		c.append(l, batch(1, 1, 0, 3, "x"))
		c.stopAll()
	})
}

// Rule 16: who has won an election does not serve before an entry of its own is applied: it may not know yet what is
// committed.
func TestRule16NotServingBeforeTheBarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		var slow atomic.Int64
		c.net.delay = func() time.Duration { return time.Duration(slow.Load()) }
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		c.converge()
		n := c.others(l)[0]
		slow.Store(int64(time.Second))
		c.net.mu.Lock()
		e := c.net.nodes[raft.ServerAddress(n.r.String())]
		c.net.mu.Unlock()
		e.ch <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: 3}}, RespChan: make(chan raft.RPCResponse, 1)}
		c.until("the election", func() bool { return n.p.Raft().State() == raft.Leader })
		time.Sleep(100 * time.Millisecond)
		if _, ok := n.p.Leading(); ok {
			t.Error("it serves, and nothing of its term is committed")
		}
		if _, err := n.p.Read(ReadRequest{CurrentEpoch: -1, LastFetchedEpoch: -1, MaxBytes: 1}); !errors.Is(err, ErrLeaderNotReady) {
			t.Errorf("a read: %v", err)
		}
		if r := n.p.Append(batch(1, 1, 0, 3, "x"), -1, time.Second).Result(); !errors.Is(r.Err, ErrLeaderNotReady) {
			t.Errorf("an append: %+v", r)
		}
		n.mu.Lock()
		events := len(n.events)
		n.mu.Unlock()
		if events > 0 {
			t.Errorf("it announced itself: %v", n.events)
		}
		slow.Store(0)
		if c.leader() != n {
			t.Error("it never served")
		}
		c.append(n, batch(1, 1, 0, 3, "x"))
		c.stopAll()
	})
}

// Rule 16: a round of VerifyLeader that was under way when the call came proves nothing to it.
func TestRule16RoundsBeginAfterTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		p := c.leader().p
		old := &verifyRound{done: make(chan struct{})}
		p.verify.mu.Lock()
		p.verify.running = old
		p.verify.mu.Unlock()
		answer := make(chan error, 1)
		go func() { answer <- p.VerifyLeader(t.Context()) }()
		synctest.Wait()
		close(old.done)
		synctest.Wait()
		select {
		case err := <-answer:
			t.Fatalf("answered by a round that began before the call: %v", err)
		default:
		}
		p.verify.mu.Lock()
		next := p.verify.next
		p.verify.running, p.verify.next = next, nil
		p.verify.mu.Unlock()
		go p.verifyRounds(next)
		if err := <-answer; err != nil {
			t.Error(err)
		}
		c.stopAll()
	})
}

// Rule 17: a replica that is cut off asks for pre-votes and gets none, so that its return deposes nobody.
func TestRule17PreVoteIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		c.converge()
		term := l.p.Raft().CurrentTerm()
		away := c.others(l)[0]
		c.isolate(away, true)
		time.Sleep(5 * time.Minute)
		if got := away.p.Raft().CurrentTerm(); got != term {
			t.Errorf("it has raised the term from %d to %d all by itself", term, got)
		}
		c.isolate(away, false)
		time.Sleep(time.Minute)
		if _, ok := l.p.Leading(); !ok {
			t.Error("the leader was deposed")
		}
		c.stopAll()
	})
}

// Rule 19: files below the log start stay until the checkpoint that stands for them is durable.
func TestRule19LogStartWaitsForTheCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.topic.SegmentBytes = 1000
		disks := c.disks()
		c.startAll()
		l := c.leader()
		disks[l].SetHook(func(op crashfs.Op, name string) error {
			if strings.Contains(name, checkpointSuffix) && op == crashfs.OpSync {
				return syscall.EIO
			}
			return nil
		})
		c.fill(l, 1, 0, 30)
		if start, err := l.p.DeleteRecords(t.Context(), 20); err != nil || start != 20 {
			t.Fatalf("%d, %v", start, err)
		}
		time.Sleep(time.Minute)
		if first := l.p.FirstIndex(); first != 1 {
			t.Errorf("the log begins at entry %d, and no checkpoint could be kept", first)
		}
		disks[l].SetHook(nil)
		c.fill(l, 1, 30, 10) // the next segment gets its checkpoint
		if _, err := l.p.DeleteRecords(t.Context(), -1); err != nil {
			t.Fatal(err)
		}
		c.until("segments to go", func() bool { return l.p.FirstIndex() > 1 })
		c.stop(l)
		c.start(l)
		c.stopAll()
	})
}

// Rule 19: what Raft would compact stays: the log start is retention's business.
func TestRule19CompactionIsRetentionsBusiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		first, last := l.p.FirstIndex(), l.p.LastIndex()
		if err := (*logStore)(l.p).DeleteRange(first, last-2); err != nil || l.p.failed() != nil {
			t.Errorf("%v, %v", err, l.p.failed())
		}
		if l.p.FirstIndex() != first || l.p.LastIndex() != last {
			t.Errorf("%d..%d became %d..%d", first, last, l.p.FirstIndex(), l.p.LastIndex())
		}
		c.stopAll()
	})
}

// Rule 19: an older command that is applied later does not set the log start back.
func TestRule19LogStartDoesNotGoBack(t *testing.T) {
	p := &Partition{next: 10}
	for _, c := range []struct{ to, want int64 }{{5, 5}, {3, 5}, {7, 7}, {20, 10}} {
		if err := p.applyCommand(encodeLogStart(c.to)); err != nil || p.logStart.Load() != c.want {
			t.Errorf("log start %d, want %d (%v)", p.logStart.Load(), c.want, err)
		}
	}
}

// Rule 19: one step of retention lets go a bounded number of segments, whatever the clock says.
func TestRule19RetentionStepIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.topic.SegmentBytes, c.topic.RetentionTime = 300, time.Hour
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 2*retainStep) // of 1970
		segments := l.p.log.Segments()
		if len(segments) < retainStep+10 {
			t.Fatalf("%d segments", len(segments))
		}
		if err := l.p.Retain(t.Context()); err != nil {
			t.Fatal(err)
		}
		if start, most := l.p.LogStart(), segments[retainStep].BaseOffset; start == 0 || start > most {
			t.Errorf("the log start moved to %d in one step, at most %d", start, most)
		}
		c.stopAll()
	})
}

// Rule 6: a log is not wiped for a snapshot that differs from it below what is committed here, nor for one that is the
// same.
func TestRule6CommittedEntriesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		last := l.p.LastIndex()
		term, _ := l.p.Term(last)
		for _, s := range []struct{ index, term uint64 }{{last - 2, term + 1}, {last, term + 1}, {last, term}, {last + 1, term + 1}} {
			if err := l.p.WipeForSnapshot(s.index, s.term); err == nil || errors.Is(err, ErrRestarting) {
				t.Errorf("a log committed to entry %d of term %d is wiped for a snapshot at %d of %d: %v", last, term, s.index, s.term, err)
			}
		}
		c.append(l, batch(1, 1, 0, 5, "x"))
		c.stopAll()
	})
}

// Rule 6: a replica whose log was wiped neither gives votes nor asks for any before it holds again what it had
// acknowledged.
func TestRule6NoVoteBelowTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		c.converge()
		m := c.others(l)[0]
		m.p.mu.Lock()
		m.p.identity.voteFloor = m.p.LastIndex() + 3
		m.p.mu.Unlock()
		ask := func() error {
			return guardTransport(m.p, c.net.join(l.p)).RequestVote("", "", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
		}
		if m.p.HasConfiguration() || !errors.Is(ask(), errMayNotVote) {
			t.Error("it votes, and lacks what it acknowledged")
		}
		c.fill(l, 1, 5, 5)
		c.converge()
		if !m.p.HasConfiguration() || errors.Is(ask(), errMayNotVote) {
			t.Error("it has caught up and does not vote")
		}
		c.stopAll()
	})
}

// Rule 15: a leader whose store fails has let tickets in that are in no log. What follows of their epoch would stand
// behind a hole: it is void, and appends go on in a new epoch.
func TestRule15FailedStoreVoidsTheEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		disks := c.disks()
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		p := l.p
		p.storeMu.Lock()
		epoch, next := p.gate.epoch, p.gate.next
		stored := func(n uint64, b []byte) *raft.Log {
			ticket := ticket{kindBatch, p.Raft().CurrentTerm(), epoch, n}
			return &raft.Log{Index: p.LastIndex() + 1, Term: p.Raft().CurrentTerm(), Data: b, Extensions: ticket.put(new([ticketSize]byte))}
		}
		lost := stored(next, batch(1, 1, 0, 3, "lost"))
		p.storeMu.Unlock()
		disks[l].SetHook(func(op crashfs.Op, name string) error {
			if op == crashfs.OpWrite && strings.HasSuffix(name, ".log") {
				return syscall.ENOSPC
			}
			return nil
		})
		if err := (*logStore)(p).StoreLogs([]*raft.Log{lost}); !errors.Is(err, ErrDiskFull) {
			t.Fatal(err)
		}
		disks[l].SetHook(nil)
		p.storeMu.Lock()
		admitted := p.gate.admit(ticket{kindBatch, p.Raft().CurrentTerm(), epoch, next + 1}, p.Raft().CurrentTerm())
		p.storeMu.Unlock()
		if admitted {
			t.Error("an append behind the one that was not stored is let in")
		}
		c.stopAll()
	})
}

// Rule 15: what comes out of turn, or in another term than its ticket's, takes an index and no offset.
func TestRule15OutOfTurnIsVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		p := l.p
		term := p.Raft().CurrentTerm()
		p.storeMu.Lock()
		epoch, next := p.gate.epoch, p.gate.next
		p.storeMu.Unlock()
		for i, k := range []struct {
			t    ticket
			want segment.Type
		}{
			{ticket{kindBatch, term - 1, epoch, next}, segment.Void}, // stored in a later term
			{ticket{kindBatch, term, epoch, next}, segment.Batch},
			{ticket{kindBatch, term, epoch, next + 2}, segment.Void}, // one was dropped
			{ticket{kindBatch, term, epoch, next + 1}, segment.Void},
			{ticket{kindBatch, term, epoch, next + 3}, segment.Void},
			{ticket{kindBatch, term, epoch + 1, 0}, segment.Batch},
			{ticket{kindBatch, term, epoch, next + 4}, segment.Void},
		} {
			index, end := p.LastIndex()+1, p.log.NextOffset()
			e := &raft.Log{Index: index, Term: term, Data: batch(1, -1, 0, 0, "x"), Extensions: k.t.put(new([ticketSize]byte))}
			if err := (*logStore)(p).StoreLogs([]*raft.Log{e}); err != nil {
				t.Fatal(err)
			}
			typ, _, _ := p.log.Type(index)
			if typ != k.want || (p.log.NextOffset() > end) != (k.want == segment.Batch) {
				t.Errorf("ticket %d: stored as %v, offset %d after %d", i, typ, p.log.NextOffset(), end)
			}
		}
		c.stopAll()
	})
}

// Rule 15: while appends are in flight leadership is not handed over, however long that takes.
func TestRule15TransferWaitsForAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 3)
		c.converge()
		to := c.others(l)[0]
		c.isolate(l, true)
		under := l.p.Append(batch(1, 1, 0, 3, "x"), -1, time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.p.TransferLeadership(ctx, to.r); err == nil || !strings.Contains(err.Error(), "1 appends in flight") {
			t.Errorf("handed over with an append in flight: %v", err)
		}
		c.isolate(l, false)
		if r := under.Result(); r.Err != nil {
			t.Errorf("the append: %v", r.Err)
		}
		c.stopAll()
	})
}
