package transport

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func pipelined(t *testing.T, it *inboxTest) raft.AppendPipeline {
	t.Helper()
	p, err := it.leader.AppendEntriesPipeline("", it.to)
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func appendReq(prev, term uint64, data ...string) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: header3(), Term: term, PrevLogEntry: prev, PrevLogTerm: term, Entries: entries(prev+1, term, data...),
	}
}

// Requests and answers keep their order, also when some are split.
func TestPipelineOrder(t *testing.T) {
	it := newInboxTest(t, func(o *Options) { o.MaxPartBytes = 100 })
	p := pipelined(t, it)
	go func() {
		for i := range uint64(1000) {
			q := appendReq(10*i+1, 1, strings.Split(strings.Repeat("x", int(i%10)), "")...)
			if i%10 == 0 {
				q.Entries = nil
			}
			if _, err := p.AppendEntries(q, &raft.AppendEntriesResponse{}); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range uint64(1000) {
		f := <-p.Consumer()
		must(t, f.Error())
		if f.Request().PrevLogEntry != 10*i+1 || !f.Response().Success || f.Response().LastLog != 10*i+1+uint64(len(f.Request().Entries)) {
			t.Fatalf("answer %d is for the request behind %d: %+v", i, f.Request().PrevLogEntry, f.Response())
		}
	}
	var at uint64
	for _, s := range it.take() {
		q := s.(*raft.AppendEntriesRequest)
		if q.PrevLogEntry < at {
			t.Fatalf("entry %d after %d", q.PrevLogEntry, at)
		}
		at = q.PrevLogEntry + uint64(len(q.Entries))
	}
}

// The window is bounded, and an error never reaches Raft, which would take it for a sign of life.
func TestPipelineWindowAndErrors(t *testing.T) {
	it := newInboxTest(t, func(o *Options) { o.Window = 4 })
	hold := make(chan struct{})
	it.mu.Lock()
	it.answer = func(any) (any, error) { <-hold; return nil, errors.New("broken") }
	it.mu.Unlock()
	p := pipelined(t, it)
	var futures []raft.AppendFuture
	for i := range uint64(4) {
		f, err := p.AppendEntries(appendReq(i+1, 1, "x"), &raft.AppendEntriesResponse{})
		must(t, err)
		futures = append(futures, f)
	}
	fifth := make(chan error, 1)
	go func() {
		_, err := p.AppendEntries(appendReq(5, 1, "x"), &raft.AppendEntriesResponse{})
		fifth <- err
	}()
	select {
	case err := <-fifth:
		t.Fatalf("the window is open: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(hold)
	for _, f := range futures {
		if err := f.Error(); err == nil || !strings.Contains(err.Error(), "broken") {
			t.Fatal(err)
		}
	}
	<-fifth
	if _, err := p.AppendEntries(appendReq(6, 1, "x"), &raft.AppendEntriesResponse{}); !errors.Is(err, errPipeline) {
		t.Fatalf("a broken pipeline goes on: %v", err)
	}
	if len(p.Consumer()) != 0 {
		t.Fatal("an error reached Raft")
	}
}

// A lost connection fails all that is in flight, at once, and gives every byte back.
func TestPipelineConnectionLost(t *testing.T) {
	it := newInboxTest(t, nil)
	hold := make(chan struct{})
	it.mu.Lock()
	it.answer = func(any) (any, error) { <-hold; return nil, errors.New("too late") }
	it.mu.Unlock()
	defer close(hold)
	p := pipelined(t, it)
	var futures []raft.AppendFuture
	for i := range uint64(100) {
		f, err := p.AppendEntries(appendReq(i+1, 1, strings.Repeat("x", 10<<10)), &raft.AppendEntriesResponse{})
		must(t, err)
		futures = append(futures, f)
	}
	pr, err := it.leader.m.peer(2)
	must(t, err)
	pr.connected().fail(errors.New("cable cut"))
	for _, f := range futures {
		// The other side may end the data connection before this side does: the reason is either's.
		if err := f.Error(); !errors.Is(err, ErrDisconnected) {
			t.Fatal(err)
		}
	}
	if _, err := p.AppendEntries(appendReq(101, 1, "x"), &raft.AppendEntriesResponse{}); err == nil {
		t.Fatal("a lost pipeline goes on")
	}
	f := it.leader.follower(2)
	if !f.inFlight.TryAcquire(it.leader.m.o.MaxFollowerBytes) {
		t.Fatal("bytes are still in flight")
	}
	f.inFlight.Release(it.leader.m.o.MaxFollowerBytes)
}

// badGroup cannot encode its entries from some index on.
type badGroup struct {
	*modelLog
	from uint64
}

func (g badGroup) EncodeEntries(buf []byte, e []*raft.Log, maxBytes int) ([]byte, int, error) {
	if e[0].Index >= g.from {
		return buf, 0, fmt.Errorf("entry %d was truncated", e[0].Index)
	}
	return g.modelLog.EncodeEntries(buf, e, maxBytes)
}

// When a later part cannot be encoded the request fails, and the receiver is not left with half of it.
func TestEncodeFailsMidway(t *testing.T) {
	it := newInboxTest(t, func(o *Options) { o.MaxPartBytes = 60 })
	it.leader.group = badGroup{it.leaderLog, 13}
	_, err := it.append(10, 1, 1, 0, "a", "b", "c", "d")
	if err == nil || !strings.Contains(err.Error(), "entry 13 was truncated") {
		t.Fatal(err)
	}
	p := pipelined(t, it)
	if _, err := p.AppendEntries(appendReq(10, 1, "a", "b", "c"), &raft.AppendEntriesResponse{}); err == nil {
		t.Fatal("no error")
	}
	it.leader.group = it.leaderLog
	_, err = it.append(10, 1, 1, 0, "a")
	must(t, err)
	if len(p.Consumer()) != 0 {
		t.Fatal("half a request succeeded")
	}
	if match, _, _ := it.leader.Progress(2); match != 11 {
		t.Fatalf("half a request counted: %d", match)
	}
	it.follower.m.mu.RLock()
	defer it.follower.m.mu.RUnlock()
	for c := range it.follower.m.inbound {
		if c.class == classData && len(c.parts) != 0 {
			t.Fatalf("%d unfinished requests", len(c.parts))
		}
	}
}

func TestProgress(t *testing.T) {
	f := &follower{}
	at := time.Unix(100, 0)
	f.sent(1, 10, at)
	f.matched(1, 7)
	if f.match != 7 || !f.caughtUp.IsZero() {
		t.Fatal("caught up too early")
	}
	// While the log grows the follower is judged by what the log was.
	f.sent(1, 20, at.Add(time.Second))
	f.matched(1, 12)
	if f.match != 12 || !f.caughtUp.Equal(at) {
		t.Fatalf("%d %v", f.match, f.caughtUp)
	}
	f.sent(1, 30, at.Add(2*time.Second))
	f.matched(1, 30)
	f.matched(1, 25) // late
	if f.match != 30 || !f.caughtUp.Equal(at.Add(2*time.Second)) {
		t.Fatalf("%d %v", f.match, f.caughtUp)
	}
	// Another leadership begins anew, and answers of the old one do not count.
	f.sent(3, 31, at.Add(3*time.Second))
	f.matched(1, 40)
	if f.match != 0 || !f.caughtUp.IsZero() {
		t.Fatalf("%d %v", f.match, f.caughtUp)
	}
}

// An empty AppendEntries that tells a follower what it has already answered is not sent, and nobody answers for it. What
// is new goes out: entries, a commit index, the same once more after Repeat, and anything on another pipeline.
func TestPipelineTellsOnce(t *testing.T) {
	it := newInboxTest(t, func(o *Options) { o.Repeat = time.Hour })
	var p raft.AppendPipeline
	send := func(q *raft.AppendEntriesRequest, goesOut bool) {
		t.Helper()
		_, err := p.AppendEntries(q, &raft.AppendEntriesResponse{})
		must(t, err)
		if !goesOut {
			if n := len(p.Consumer()) + len(it.take()); n != 0 {
				t.Fatalf("%d signs of a request that tells nothing new", n)
			}
			return
		}
		if f := <-p.Consumer(); f.Request() != q || !f.Response().Success {
			t.Fatalf("answer to %+v: %+v", f.Request(), f.Response())
		}
		if n := len(it.take()); n != 1 {
			t.Fatalf("%d requests instead of one", n)
		}
	}
	empty := func(prev, commit uint64) *raft.AppendEntriesRequest {
		q := appendReq(prev, 1)
		q.LeaderCommitIndex = commit
		return q
	}
	p = pipelined(t, it)
	send(empty(5, 4), true) // first of its pipeline
	send(empty(5, 4), false)
	send(empty(5, 3), false)
	send(empty(5, 5), true) // commits more
	send(empty(5, 5), false)
	q := appendReq(5, 1, "x")
	q.LeaderCommitIndex = 6 // more than it can commit before it is stored: clamped to 6 at most
	send(q, true)
	send(empty(6, 6), false)
	send(empty(7, 6), true) // behind entries that the follower is not known to have
	p = pipelined(t, it)
	send(empty(7, 6), true)
	send(empty(7, 6), false)

	// A refusal tells nothing.
	it.mu.Lock()
	it.answer = func(any) (any, error) { return &raft.AppendEntriesResponse{Term: 1}, nil }
	it.mu.Unlock()
	p = pipelined(t, it)
	for range 2 {
		_, err := p.AppendEntries(empty(7, 6), &raft.AppendEntriesResponse{})
		must(t, err)
		if f := <-p.Consumer(); f.Response().Success {
			t.Fatal("success")
		}
	}
	it.take()
	it.mu.Lock()
	it.answer = nil
	it.mu.Unlock()

	// Repeated in time.
	it.leader.m.o.Repeat = time.Nanosecond
	p = pipelined(t, it)
	send(empty(7, 6), true)
	send(empty(7, 6), true)

	// A lost connection is found out by the next request, whatever it says.
	it.leader.m.o.Repeat = time.Hour
	p = pipelined(t, it)
	send(empty(7, 6), true)
	pr, err := it.leader.m.peer(2)
	must(t, err)
	pr.connected().fail(errors.New("cable cut"))
	if _, err := p.AppendEntries(empty(7, 6), &raft.AppendEntriesResponse{}); err == nil {
		t.Fatal("a lost pipeline goes on")
	}
}
