package partition

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/protocol/record"
)

func TestSingleReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		m := c.leader()
		if got := c.append(m, batch(3, -1, 0, 0, "a")); got != 0 {
			t.Fatalf("the first record has offset %d", got)
		}
		if got := c.append(m, batch(2, -1, 0, 0, "b")); got != 3 {
			t.Fatalf("offset %d", got)
		}
		if hw := m.p.HighWatermark(); hw != 5 {
			t.Fatalf("high watermark %d", hw)
		}
		want := "0=a 1=a 2=a 3=b 4=b"
		if got := strings.Join(values(t, m.p), " "); got != want {
			t.Fatalf("read %s", got)
		}
		c.stop(m)
		c.start(m)
		if hw := m.p.HighWatermark(); hw != 5 {
			t.Fatalf("high watermark after a clean restart %d", hw)
		}
		c.leader()
		if got := c.append(m, batch(1, -1, 0, 0, "c")); got != 5 {
			t.Fatalf("offset %d", got)
		}
		c.stopAll()
	})
}

func TestThreeReplicasAndFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		for i := range 20 {
			c.append(l, batch(1, -1, 0, 0, fmt.Sprint(i)))
		}
		c.converge()
		c.sameState()
		want := values(t, l.p)
		c.stop(l)
		n := c.leader()
		if got := values(t, n.p); !slices.Equal(got, want) {
			t.Fatalf("after failover: %v, want %v", got, want)
		}
		c.append(n, batch(1, -1, 0, 0, "after"))
		c.start(l)
		c.converge()
		c.sameState()
		for _, m := range c.members {
			if got := values(t, m.p); len(got) != 21 || !slices.Equal(got, values(t, n.p)) {
				t.Fatalf("%s has %v", m.r, got)
			}
		}
		c.stopAll()
	})
}

func TestReadAndEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		epoch, _ := l.p.Leading()
		for i := range 10 {
			c.append(l, batch(1, -1, 0, 0, fmt.Sprint(i)))
			// Read your writes: who has the answer sees the record.
			r, err := l.p.Read(ReadRequest{Offset: int64(i), CurrentEpoch: epoch, LastFetchedEpoch: -1, MaxBytes: 1, MinOne: true})
			if err != nil || len(r.Ranges) != 1 || r.HighWatermark != int64(i+1) {
				t.Fatalf("read back %d: %+v, %v", i, r, err)
			}
			r.Release()
		}
		read := func(q ReadRequest) (ReadResult, error) {
			r, err := l.p.Read(q)
			r.Release()
			return r, err
		}
		if _, err := read(ReadRequest{Offset: 0, CurrentEpoch: epoch - 1, LastFetchedEpoch: -1, MaxBytes: 100}); !errors.Is(err, ErrFencedEpoch) {
			t.Errorf("old epoch: %v", err)
		}
		if _, err := read(ReadRequest{Offset: 0, CurrentEpoch: epoch + 1, LastFetchedEpoch: -1, MaxBytes: 100}); !errors.Is(err, ErrUnknownEpoch) {
			t.Errorf("new epoch: %v", err)
		}
		if _, err := read(ReadRequest{Offset: 11, CurrentEpoch: -1, LastFetchedEpoch: -1, MaxBytes: 100}); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("beyond the end: %v", err)
		}
		if r, err := read(ReadRequest{Offset: 10, CurrentEpoch: -1, LastFetchedEpoch: -1, MaxBytes: 100}); err != nil || r.Bytes != 0 {
			t.Errorf("at the end: %+v, %v", r, err)
		}
		f := c.members[0]
		if f == l {
			f = c.members[1]
		}
		if _, err := f.p.Read(ReadRequest{CurrentEpoch: -1, LastFetchedEpoch: -1, MaxBytes: 1}); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a follower serves: %v", err)
		}
		// A new epoch: a consumer that fetched in the old one beyond its end would have diverged.
		c.elect(f)
		now, _ := f.p.Leading()
		if now <= epoch {
			t.Fatalf("epoch %d after %d", now, epoch)
		}
		c.append(f, batch(5, -1, 0, 0, "x"))
		r, err := f.p.Read(ReadRequest{Offset: 12, CurrentEpoch: now, LastFetchedEpoch: epoch, MaxBytes: 100})
		if err != nil || !r.Diverging || r.DivergingEnd != 10 || r.DivergingEpoch != epoch {
			t.Errorf("divergence: %+v, %v", r, err)
		}
		r.Release()
		if e, end, _ := f.p.epochEnd(epoch); e != epoch || end != 10 {
			t.Errorf("end of epoch %d: %d, %d", epoch, e, end)
		}
		c.stopAll()
	})
}

func TestWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		ch := l.p.Changed()
		c.append(l, batch(1, -1, 0, 0, "a"))
		<-ch
		ch = l.p.Changed()
		select {
		case <-ch:
			t.Fatal("woken for nothing")
		default:
		}
		for _, m := range c.members {
			if m != l {
				c.net.setCut(l.r, m.r, true)
			}
		}
		<-ch // leadership is lost by the lease
		if _, ok := l.p.Leading(); ok {
			t.Error("still leading")
		}
		n := c.leader()
		if n == l {
			t.Fatal("the cut-off replica leads")
		}
		l.mu.Lock()
		ev := slices.Clone(l.events)
		l.mu.Unlock()
		if len(ev) < 2 || !strings.HasPrefix(ev[0], "true/") || !strings.HasPrefix(ev[1], "false/") {
			t.Errorf("events %v", ev)
		}
		ch = n.p.Changed()
		c.stopAll()
		<-ch
	})
}

func TestAppendWithoutMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.append(l, batch(1, 7, 0, 0, "a"))
		for _, m := range c.members {
			if m != l {
				c.net.setCut(l.r, m.r, true)
			}
		}
		w := l.p.Append(batch(1, 7, 0, 1, "b"), -1, time.Second)
		if r := w.Result(); !errors.Is(r.Err, ErrTimedOut) {
			t.Fatalf("append without a majority: %+v", r)
		}
		w = l.p.Append(batch(1, 7, 0, 1, "b"), -1, time.Minute) // waits for that batch
		if r := w.Result(); !errors.Is(r.Err, ErrNotLeader) {
			t.Fatalf("its repetition: %+v", r)
		}
		n := c.leader(slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m == l })...)
		if got := c.append(n, batch(1, 7, 0, 1, "b")); got != 1 {
			t.Fatalf("at the new leader: offset %d", got)
		}
		if got := c.append(n, batch(1, 7, 0, 0, "a")); got != 0 {
			t.Fatalf("the first one again: offset %d", got)
		}
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, false)
		}
		c.converge()
		c.sameState()
		for _, m := range c.members {
			if got := strings.Join(values(t, m.p), " "); got != "0=a 1=b" {
				t.Errorf("%s has %s", m.r, got)
			}
		}
		c.stopAll()
	})
}

func TestMinInsyncReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.topic.MinInsyncReplicas = 3
		c.startAll()
		l := c.leader()
		c.until("all in sync", func() bool { return len(l.p.Status().InSync) == 3 })
		c.append(l, batch(1, -1, 0, 0, "a"))
		var f *member
		for _, m := range c.members {
			if m != l {
				f = m
			}
		}
		c.net.setCut(l.r, f.r, true)
		c.until("one out of sync", func() bool { return len(l.p.Status().InSync) == 2 })
		time.Sleep(time.Second)
		if r := l.p.Append(batch(1, -1, 0, 0, "b"), -1, time.Second).Result(); !errors.Is(r.Err, ErrNotEnoughReplicas) {
			t.Errorf("two of three in sync: %+v", r)
		}
		if r := l.p.Append(batch(1, -1, 0, 0, "b"), 1, time.Second).Result(); r.Err != nil {
			t.Errorf("acks=1: %+v", r)
		}
		c.stopAll()
	})
}

func TestMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.machine = true
		c.startAll()
		l := c.leader()
		ctx := context.Background()
		if v, err := l.p.Propose(ctx, []byte{2, 3}); err != nil || v.(int64) != 5 {
			t.Fatalf("propose: %v, %v", v, err)
		}
		c.append(l, batch(4, -1, 0, 0, "a"))
		if v, err := l.p.Propose(ctx, []byte{1}); err != nil || v.(int64) != 6 {
			t.Fatalf("propose: %v, %v", v, err)
		}
		if hw := l.p.HighWatermark(); hw != 4 {
			t.Errorf("commands took offsets: high watermark %d", hw)
		}
		c.converge()
		c.sameState()
		c.stopAll()
		c.startAll()
		c.leader()
		c.converge()
		for _, m := range c.members {
			if n, sum := m.mach.values(); n != 4 || sum != 6 {
				t.Errorf("%s counts %d records and %d", m.r, n, sum)
			}
		}
		c.sameState()
		c.stopAll()
	})
}

// Rule 16: a leader that was cut off gives no answer that cannot be taken back.
func TestRule16StaleLeaderIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		c.fill(l, 1, 0, 5)
		c.converge()
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, true)
		}
		if _, ok := l.p.Leading(); !ok {
			t.Fatal("it knows already")
		}
		hw := l.p.HighWatermark()
		_, err := l.p.Read(ReadRequest{Offset: hw + 1, CurrentEpoch: -1, LastFetchedEpoch: -1, MaxBytes: 100})
		if err == nil || errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("read above its high watermark: %v", err)
		}
		if _, _, _, err := l.p.OffsetForTime(t.Context(), 1<<60); err == nil {
			t.Error("it says that no record is as late as that")
		}
		epoch, _ := l.p.Leading()
		for _, e := range []int32{0, epoch, epoch + 1} {
			if e, end, err := l.p.EpochEnd(t.Context(), e); err == nil {
				t.Errorf("it says that epoch %d ended at %d", e, end)
			}
		}
		r, err := l.p.Read(ReadRequest{Offset: hw + 1, CurrentEpoch: -1, LastFetchedEpoch: epoch, MaxBytes: 100})
		if err == nil {
			t.Errorf("it says that the reader's log diverges: %+v", r)
		}
		if _, err := l.p.DeleteRecords(t.Context(), hw+1); err == nil || errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("delete above its high watermark: %v", err)
		}
		for _, m := range c.members {
			c.net.setCut(l.r, m.r, false)
		}
		c.converge()
		c.stopAll()
	})
}

// An answer about a producer's sequence cannot be taken back either: the client takes it for loss, begins a new epoch
// and sends again what a newer leader has.
func TestRule16StaleLeaderJudgesNoProducer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.timing.Lease = c.timing.Heartbeat // so that it does not notice by itself
		c.startAll()
		old := c.leader()
		c.fill(old, 1, 0, 5)
		c.converge()
		var others []*member
		for _, m := range c.members {
			if m != old {
				c.net.setCut(old.r, m.r, true)
				others = append(others, m)
			}
		}
		c.net.nodes[raft.ServerAddress(others[0].r.String())].ch <- raft.RPC{
			Command:  &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}},
			RespChan: make(chan raft.RPCResponse, 1),
		}
		c.fill(c.leader(others...), 1, 5, 5)
		if _, ok := old.p.Leading(); !ok {
			t.Fatal("it knows already")
		}
		for _, x := range []struct {
			what string
			b    record.Batch
		}{
			{"the next of what the new leader has", batch(1, 1, 0, 10, "next")},
			{"an epoch older than its own", batch(1, 1, -1, 0, "fenced")},
			{"half of what it has", batch(2, 1, 0, 4, "half")},
		} {
			r := old.p.Append(x.b, -1, 10*time.Second).Result()
			if !errors.Is(r.Err, ErrNotLeader) && !errors.Is(r.Err, ErrTimedOut) {
				t.Errorf("%s: %v", x.what, r.Err)
			}
		}
		for _, m := range others {
			c.net.setCut(old.r, m.r, false)
		}
		c.converge()
		c.stopAll()
	})
}
