package transport

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func three(t testing.TB, change func(*Options)) (*network, []*Mux) {
	n := newNetwork(t)
	var ms []*Mux
	for i := range int32(3) {
		ms = append(ms, n.mux(i+1, change))
	}
	return n, ms
}

func sameData(ms []*member) bool {
	want := ms[0].fsm.applied()
	for _, m := range ms[1:] {
		if !slices.Equal(want, m.fsm.applied()) {
			return false
		}
	}
	return true
}

func TestRaftGroupReplicates(t *testing.T) {
	_, muxes := three(t, nil)
	ms := group(t, muxes, 10, nil)
	l := leader(t, ms)
	var fs []raft.ApplyFuture
	for i := range 500 {
		fs = append(fs, l.raft.Apply(fmt.Appendf(nil, "%d", i), 0))
	}
	for _, f := range fs {
		must(t, f.Error())
	}
	eventually(t, "all replicas equal", func() bool { return len(ms[0].fsm.applied()) == 500 && sameData(ms) })
	for i, d := range l.fsm.applied() {
		if d != fmt.Sprint(i) {
			t.Fatalf("entry %d is %q", i, d)
		}
	}
	for _, m := range ms {
		if m == l {
			continue
		}
		_, replica, err := ParseAddress(raft.ServerAddress(m.id))
		must(t, err)
		eventually(t, "progress", func() bool {
			match, last, ok := l.e.Progress(replica)
			return ok && match == l.log.LastIndex() && time.Since(last) < time.Second
		})
	}
	must(t, l.raft.LeadershipTransfer().Error())
	eventually(t, "another leader", func() bool { return leader(t, ms) != l })
}

// A request larger than a part is split; the follower sees every entry once and in order, with a bounded number of
// bytes in flight.
func TestLargeEntriesAreSplit(t *testing.T) {
	_, muxes := three(t, func(o *Options) {
		o.MaxPartBytes, o.MaxFollowerBytes, o.MaxInFlightBytes = 10<<10, 64<<10, 96<<10
	})
	ms := group(t, muxes, 10, nil)
	l := leader(t, ms)
	var fs []raft.ApplyFuture
	for i := range 200 {
		size := 3 << 10
		if i%50 == 7 {
			size = 150 << 10 // larger than everything
		}
		fs = append(fs, l.raft.Apply([]byte(strings.Repeat(fmt.Sprint(i%10), size)), 0))
	}
	for _, f := range fs {
		must(t, f.Error())
	}
	eventually(t, "all replicas equal", func() bool { return len(ms[0].fsm.applied()) == 200 && sameData(ms) })
}

// A replica that was away catches up, and one far behind gets a snapshot.
func TestCatchUpAndSnapshot(t *testing.T) {
	n, muxes := three(t, nil)
	ms := group(t, muxes[:2], 10, nil)
	l := leader(t, ms)
	for i := range 50 {
		must(t, l.raft.Apply(fmt.Appendf(nil, "%d", i), 0).Error())
	}
	must(t, l.raft.Snapshot().Error())
	if l.log.FirstIndex() < 10 {
		t.Fatalf("the log was not compacted: %d", l.log.FirstIndex())
	}
	late := join(t, muxes[2], 12, &modelLog{}, nil, nil)
	must(t, l.raft.AddNonvoter(late.id, raft.ServerAddress(late.id), 0, 0).Error())
	eventually(t, "the new replica is equal", func() bool { return sameData([]*member{l, late}) })
	must(t, l.raft.Apply([]byte("more"), 0).Error())
	eventually(t, "the new replica is equal", func() bool { return sameData([]*member{l, late}) })
	if match, _, ok := l.e.Progress(12); !ok || match == 0 {
		t.Fatal("no progress of the new replica")
	}
	_ = n
}

// TimeoutNow injected into a follower makes it the leader.
func TestInjectTimeoutNow(t *testing.T) {
	_, muxes := three(t, nil)
	ms := group(t, muxes, 10, nil)
	l := leader(t, ms)
	must(t, l.raft.Barrier(0).Error())
	i := (slices.Index(ms, l) + 1) % 3
	eventually(t, "the follower has everything", func() bool { return ms[i].log.LastIndex() == l.log.LastIndex() })
	must(t, muxes[i].TimeoutNow(10+uint64(i)))
	eventually(t, "it leads", func() bool { return ms[i].raft.State() == raft.Leader })
	if err := muxes[i].TimeoutNow(99); err == nil {
		t.Fatal("TimeoutNow for an unknown replica")
	}
}

// Connections break all the time: what was acknowledged is on every replica in the end, once.
func TestRaftOverBreakingConnections(t *testing.T) {
	_, muxes := three(t, func(o *Options) { o.MaxPartBytes, o.ConnectWait = 4<<10, time.Second })
	ms := group(t, muxes, 10, nil)
	leader(t, ms)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			m := muxes[i%3]
			m.mu.RLock()
			for _, p := range m.peers {
				if l := p.connected(); l != nil {
					go l.fail(errors.New("cable cut"))
				}
			}
			m.mu.RUnlock()
		}
	}()
	acked := map[string]bool{}
	for i := range 400 {
		data := fmt.Sprintf("%d %s", i, strings.Repeat("x", 1<<10))
		for _, m := range ms {
			if m.raft.State() == raft.Leader && m.raft.Apply([]byte(data), time.Second).Error() == nil {
				acked[data] = true
				break
			}
		}
	}
	close(stop)
	<-done
	must(t, leader(t, ms).raft.Barrier(0).Error())
	eventually(t, "all replicas equal", func() bool { return sameData(ms) })
	seen := map[string]int{}
	for _, d := range ms[0].fsm.applied() {
		seen[d]++
	}
	for d := range acked {
		if seen[d] != 1 {
			t.Fatalf("%.10q was acknowledged and is there %d times", d, seen[d])
		}
	}
	if len(acked) < 50 {
		t.Fatalf("only %d of 400 were acknowledged", len(acked))
	}
	t.Logf("%d acknowledged", len(acked))
	// Every byte in flight was given back.
	idle := func() bool {
		for _, r := range ms {
			r.e.mu.Lock()
			defer r.e.mu.Unlock()
			for _, f := range r.e.followers {
				if !f.inFlight.TryAcquire(r.m.o.MaxFollowerBytes) {
					return false
				}
				f.inFlight.Release(r.m.o.MaxFollowerBytes)
			}
			if r.m.received.Load() != 0 {
				return false
			}
		}
		return true
	}
	eventually(t, "nothing is in flight", idle)
}

// A pipeline refuses to serve a follower that is far behind: Raft would send it a few entries per CommitTimeout.
func TestPipelineLeavesLaggardsToSingleRequests(t *testing.T) {
	_, muxes := three(t, nil)
	ms := group(t, muxes, 10, nil)
	l := leader(t, ms)
	var fs []raft.ApplyFuture
	for i := range 2 * behindEntries {
		fs = append(fs, l.raft.Apply(fmt.Appendf(nil, "%d", i), 0))
	}
	for _, f := range fs {
		must(t, f.Error())
	}
	other := ms[(slices.Index(ms, l)+1)%3]
	p, err := l.e.AppendEntriesPipeline(other.id, raft.ServerAddress(other.id))
	must(t, err)
	defer p.Close()
	req := &raft.AppendEntriesRequest{Term: l.raft.CurrentTerm(), PrevLogEntry: 3}
	if _, err := p.AppendEntries(req, new(raft.AppendEntriesResponse)); !errors.Is(err, errBehind) {
		t.Fatalf("want errBehind, got %v", err)
	}
	req.PrevLogEntry = l.log.LastIndex() - behindEntries
	_, err = p.AppendEntries(req, new(raft.AppendEntriesResponse))
	must(t, err)
}
