package transport

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// inboxTest is a leader's endpoint (replica 1 on broker 1) and a follower's (replica 2 on broker 2) whose Raft is the
// test: it records what comes through the inbox.
type inboxTest struct {
	leader, follower *Endpoint
	leaderLog, log   *modelLog
	to               raft.ServerAddress

	mu     sync.Mutex
	seen   []any
	answer func(cmd any) (any, error)
}

func newInboxTest(t *testing.T, change func(*Options)) *inboxTest {
	t.Helper()
	n := newNetwork(t)
	it := &inboxTest{leaderLog: &modelLog{}, log: &modelLog{}, to: Address(2, 2)}
	var err error
	it.leader, err = n.mux(1, change).Register(1, 1, it.leaderLog)
	must(t, err)
	it.follower, err = n.mux(2, change).Register(2, 2, it.log)
	must(t, err)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-it.follower.Consumer():
				if rpc.Reader != nil {
					_, _ = io.Copy(io.Discard, rpc.Reader)
				}
				rpc.Respond(it.respond(rpc.Command))
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return it
}

func (it *inboxTest) respond(cmd any) (any, error) {
	it.mu.Lock()
	it.seen = append(it.seen, cmd)
	f := it.answer
	it.mu.Unlock()
	if f != nil {
		return f(cmd)
	}
	switch c := cmd.(type) {
	case *raft.AppendEntriesRequest:
		return &raft.AppendEntriesResponse{Term: c.Term, LastLog: c.PrevLogEntry + uint64(len(c.Entries)), Success: true}, nil
	case *raft.RequestVoteRequest:
		return &raft.RequestVoteResponse{Term: c.Term, Granted: true}, nil
	case *raft.RequestPreVoteRequest:
		return &raft.RequestPreVoteResponse{Term: c.Term, Granted: true}, nil
	case *raft.InstallSnapshotRequest:
		return &raft.InstallSnapshotResponse{Term: c.Term, Success: true}, nil
	default:
		return &raft.TimeoutNowResponse{}, nil
	}
}

// take returns what Raft saw since the last call.
func (it *inboxTest) take() []any {
	it.mu.Lock()
	defer it.mu.Unlock()
	s := it.seen
	it.seen = nil
	return s
}

func header3() raft.RPCHeader { return raft.RPCHeader{ProtocolVersion: 3} }

func entries(first, term uint64, data ...string) (out []*raft.Log) {
	for i, d := range data {
		out = append(out, &raft.Log{Index: first + uint64(i), Term: term, Data: []byte(d)})
	}
	return out
}

func (it *inboxTest) append(prev, prevTerm, term, commit uint64, data ...string) (raft.AppendEntriesResponse, error) {
	var resp raft.AppendEntriesResponse
	err := it.leader.AppendEntries("", it.to, &raft.AppendEntriesRequest{
		RPCHeader: header3(), Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, LeaderCommitIndex: commit,
		Entries: entries(prev+1, term, data...),
	}, &resp)
	return resp, err
}

func TestRule1VotesNeedAConfiguration(t *testing.T) {
	it := newInboxTest(t, nil)
	it.log.noConfig = true
	var vote raft.RequestVoteResponse
	err := it.leader.RequestVote("", it.to, &raft.RequestVoteRequest{RPCHeader: header3(), Term: 3}, &vote)
	if !errors.Is(err, ErrNoConfiguration) || vote.Granted {
		t.Fatalf("vote of an empty replica: %v, %+v", err, vote)
	}
	var pre raft.RequestPreVoteResponse
	err = it.leader.RequestPreVote("", it.to, &raft.RequestPreVoteRequest{RPCHeader: header3(), Term: 3}, &pre)
	if !errors.Is(err, ErrNoConfiguration) || pre.Granted {
		t.Fatalf("pre-vote of an empty replica: %v, %+v", err, pre)
	}
	// Raft takes this text for a granted pre-vote.
	if strings.Contains(err.Error(), "unexpected command") {
		t.Fatal(err)
	}
	if seen := it.take(); len(seen) != 0 {
		t.Fatalf("Raft saw %v", seen)
	}
	it.log.mu.Lock()
	it.log.noConfig = false
	it.log.mu.Unlock()
	must(t, it.leader.RequestVote("", it.to, &raft.RequestVoteRequest{
		RPCHeader: header3(), Term: 3, LastLogIndex: 7, LastLogTerm: 2, LeadershipTransfer: true,
	}, &vote))
	must(t, it.leader.RequestPreVote("", it.to, &raft.RequestPreVoteRequest{RPCHeader: header3(), Term: 4, LastLogIndex: 8, LastLogTerm: 3}, &pre))
	if !vote.Granted || vote.Term != 3 || !pre.Granted || pre.Term != 4 {
		t.Fatalf("%+v %+v", vote, pre)
	}
	seen := it.take()
	v, p := seen[0].(*raft.RequestVoteRequest), seen[1].(*raft.RequestPreVoteRequest)
	if v.LastLogIndex != 7 || v.LastLogTerm != 2 || !v.LeadershipTransfer || string(v.ID) != "1/1" || string(v.Addr) != "1/1" ||
		p.LastLogIndex != 8 || p.LastLogTerm != 3 || string(p.ID) != "1/1" {
		t.Fatalf("%+v %+v", v, p)
	}
}

// Rule 17: TimeoutNow goes past every check of Raft's own; a replica that may not vote does not stand.
func TestRule17EmptyReplicaDoesNotStand(t *testing.T) {
	it := newInboxTest(t, nil)
	it.log.noConfig = true
	if err := it.follower.m.TimeoutNow(2); !errors.Is(err, ErrNoConfiguration) {
		t.Errorf("an empty replica stands: %v", err)
	}
	if seen := it.take(); len(seen) != 0 {
		t.Fatalf("Raft saw %v", seen)
	}
	it.log.mu.Lock()
	it.log.noConfig = false
	it.log.mu.Unlock()
	must(t, it.follower.m.TimeoutNow(2))
	if seen := it.take(); len(seen) != 1 {
		t.Fatalf("Raft saw %v", seen)
	}
}

func TestRule1Identity(t *testing.T) {
	it := newInboxTest(t, nil)
	var vote raft.RequestVoteResponse
	q := &raft.RequestVoteRequest{RPCHeader: header3(), Term: 3}
	err := it.leader.RequestVote("", "2/3", q, &vote)
	if !errors.Is(err, ErrUnknownReplica) || !strings.Contains(err.Error(), "broker 2 has no replica 3") || !strings.Contains(err.Error(), "1/1") {
		t.Fatalf("a replica that is not there: %v", err)
	}
	var resp raft.AppendEntriesResponse
	err = it.leader.AppendEntries("", "2/3", &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 3}, &resp)
	if !errors.Is(err, ErrUnknownReplica) {
		t.Fatalf("a heartbeat for a replica that is not there: %v", err)
	}
	err = it.leader.AppendEntries("", "2/3", &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 3, Entries: entries(1, 1, "x")}, &resp)
	if !errors.Is(err, ErrUnknownReplica) {
		t.Fatalf("entries for a replica that is not there: %v", err)
	}
	if err := it.leader.RequestVote("", "1/9", q, &vote); err == nil {
		t.Fatal("a broker dialled itself")
	}
	if err := it.leader.RequestVote("", "nonsense", q, &vote); err == nil {
		t.Fatal("an address without meaning")
	}
	if _, err := it.follower.m.Register(2, 2, it.log); err == nil {
		t.Fatal("a replica registered twice")
	}
	if _, err := it.follower.m.Register(3, 7, it.log); err == nil {
		t.Fatal("a replica of another broker registered")
	}
	if seen := it.take(); len(seen) != 0 {
		t.Fatalf("Raft saw %v", seen)
	}
}

func TestRule4CommitIndexIsClamped(t *testing.T) {
	it := newInboxTest(t, func(o *Options) { o.MaxPartBytes = 60 }) // two entries each
	_, err := it.append(10, 2, 2, 100, "a", "b", "c", "d", "e")
	must(t, err)
	var got [][3]uint64
	for _, s := range it.take() {
		q := s.(*raft.AppendEntriesRequest)
		got = append(got, [3]uint64{q.PrevLogEntry, uint64(len(q.Entries)), q.LeaderCommitIndex})
	}
	want := [][3]uint64{{10, 2, 12}, {12, 2, 14}, {14, 1, 15}}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Fatalf("(previous, entries, commit) = %v, want %v", got, want)
	}
	_, err = it.append(10, 2, 2, 100) // stepped back, no entries
	must(t, err)
	if q := it.take()[0].(*raft.AppendEntriesRequest); q.LeaderCommitIndex != 10 {
		t.Fatalf("commit %d behind entry 10", q.LeaderCommitIndex)
	}
	_, err = it.append(10, 2, 2, 7, "a")
	must(t, err)
	if q := it.take()[0].(*raft.AppendEntriesRequest); q.LeaderCommitIndex != 7 {
		t.Fatalf("commit 7 became %d", q.LeaderCommitIndex)
	}
}

func TestRule5BelowTheLogStart(t *testing.T) {
	it := newInboxTest(t, nil)
	it.log.logs = []raft.Log{{Index: 21, Term: 5}, {Index: 22, Term: 5}}
	it.log.floor, it.log.floorTerm, it.log.committed = 20, 4, 21

	// Partly below: what is committed and local is dropped.
	resp, err := it.append(18, 3, 5, 22, "19", "20", "21", "22")
	must(t, err)
	q := it.take()[0].(*raft.AppendEntriesRequest)
	if !resp.Success || q.PrevLogEntry != 20 || q.PrevLogTerm != 4 || len(q.Entries) != 2 || q.Entries[0].Index != 21 || q.LeaderCommitIndex != 22 {
		t.Fatalf("%+v", q)
	}
	// All below: success, and Raft only checks the term.
	resp, err = it.append(10, 3, 5, 22, "11", "12")
	must(t, err)
	q = it.take()[0].(*raft.AppendEntriesRequest)
	if !resp.Success || q.PrevLogEntry != 0 || len(q.Entries) != 0 || q.LeaderCommitIndex != 0 {
		t.Fatalf("%+v", q)
	}
	// A deposed leader gets no success for its own entries down there.
	it.mu.Lock()
	it.answer = func(any) (any, error) { return &raft.AppendEntriesResponse{Term: 9, LastLog: 22}, nil }
	it.mu.Unlock()
	if resp, err = it.append(10, 3, 5, 22, "11"); err != nil || resp.Success || resp.Term != 9 {
		t.Fatalf("%+v %v", resp, err)
	}
	it.mu.Lock()
	it.answer = nil
	it.mu.Unlock()
	it.take()
	// At the log start and above: untouched.
	_, err = it.append(20, 4, 5, 22, "21")
	must(t, err)
	if q := it.take()[0].(*raft.AppendEntriesRequest); q.PrevLogEntry != 20 || len(q.Entries) != 1 {
		t.Fatalf("%+v", q)
	}
	// An empty log behind a checkpoint has its start there.
	it.log.mu.Lock()
	it.log.logs, it.log.committed = nil, 20
	it.log.mu.Unlock()
	_, err = it.append(19, 4, 5, 22, "20", "21")
	must(t, err)
	if q := it.take()[0].(*raft.AppendEntriesRequest); q.PrevLogEntry != 20 || q.PrevLogTerm != 4 || len(q.Entries) != 1 {
		t.Fatalf("%+v", q)
	}
}

func TestRule6Snapshot(t *testing.T) {
	const installed, success, wiped, refused = "installed", "success", "wiped", "refused"
	for _, c := range []struct {
		name        string
		first, last uint64 // of the local log, entries of term 5
		floorTerm   uint64
		committed   uint64
		index, term uint64 // of the snapshot
		staleTerm   bool
		want        string
	}{
		{name: "empty", index: 30, term: 5, want: installed},
		{name: "log does not reach it", first: 1, last: 20, committed: 10, index: 30, term: 5, want: installed},
		{name: "same entry", first: 1, last: 40, committed: 10, index: 30, term: 5, want: success},
		{name: "same entry is the last", first: 1, last: 30, index: 30, term: 5, want: success},
		{name: "below the log start", first: 31, last: 40, floorTerm: 4, committed: 30, index: 25, term: 3, want: success},
		{name: "at the log start", first: 31, last: 40, floorTerm: 4, committed: 30, index: 30, term: 4, want: success},
		{name: "committed here", first: 1, last: 40, committed: 35, index: 30, term: 3, want: success},
		{name: "other term", first: 1, last: 40, committed: 10, index: 30, term: 6, want: wiped},
		{name: "other term, deposed leader", first: 1, last: 40, committed: 10, index: 30, term: 6, staleTerm: true, want: refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			it := newInboxTest(t, nil)
			for i := c.first; i <= c.last && i > 0; i++ {
				it.log.logs = append(it.log.logs, raft.Log{Index: i, Term: 5})
			}
			it.log.committed = c.committed
			if c.first > 1 {
				it.log.floor, it.log.floorTerm = c.first-1, c.floorTerm
			}
			if c.staleTerm {
				it.answer = func(any) (any, error) { return &raft.AppendEntriesResponse{Term: 9}, nil }
			}
			data := bytes.Repeat([]byte("snapshot"), 100<<10)
			conf := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1/1", Address: "1/1"}}})
			var resp raft.InstallSnapshotResponse
			err := it.leader.InstallSnapshot("", it.to, &raft.InstallSnapshotRequest{
				RPCHeader: header3(), SnapshotVersion: 1, Term: 7, LastLogIndex: c.index, LastLogTerm: c.term,
				Configuration: conf, ConfigurationIndex: 3, Size: int64(len(data)),
			}, &resp, bytes.NewReader(data))
			handed := 0
			for _, s := range it.take() {
				if q, ok := s.(*raft.InstallSnapshotRequest); ok {
					handed++
					if !bytes.Equal(q.Configuration, conf) || q.ConfigurationIndex != 3 || q.Size != int64(len(data)) ||
						q.SnapshotVersion != 1 || q.LastLogIndex != c.index || q.LastLogTerm != c.term || string(q.ID) != "1/1" {
						t.Errorf("%+v", q)
					}
				}
			}
			got := refused
			switch {
			case it.log.wiped > 0 && handed == 0 && errors.Is(err, ErrWiped):
				got = wiped
			case err != nil:
				t.Fatal(err)
			case resp.Success && handed == 1 && it.log.wiped == 0:
				got = installed
			case resp.Success && handed == 0 && it.log.wiped == 0:
				got = success
			}
			if got != c.want {
				t.Fatalf("%s, want %s (%+v, wiped %d)", got, c.want, resp, it.log.wiped)
			}
			if match, _, ok := it.leader.Progress(2); resp.Success != ok || ok && match != c.index {
				t.Fatalf("progress %d %v", match, ok)
			}
		})
	}
}

// The leader's snapshot waits for all that came before, and a failing reader harms nobody.
func TestSnapshotBrokenOff(t *testing.T) {
	it := newInboxTest(t, nil)
	var resp raft.InstallSnapshotResponse
	err := it.leader.InstallSnapshot("", it.to, &raft.InstallSnapshotRequest{
		RPCHeader: header3(), SnapshotVersion: 1, Term: 7, LastLogIndex: 30, LastLogTerm: 5, Size: 1 << 20,
	}, &resp, strings.NewReader("too short"))
	if err == nil || resp.Success {
		t.Fatal("a snapshot that broke off succeeded")
	}
	_, err = it.append(0, 0, 7, 0, "a")
	must(t, err)
}

func TestPartsOfARequestFailAsOne(t *testing.T) {
	it := newInboxTest(t, func(o *Options) { o.MaxPartBytes = 60 })
	for fail, want := range []bool{false, false, false, true} { // index of the failing part
		n := 0
		it.mu.Lock()
		it.answer = func(cmd any) (any, error) {
			q := cmd.(*raft.AppendEntriesRequest)
			n++
			return &raft.AppendEntriesResponse{Term: q.Term, LastLog: uint64(n), Success: n-1 != fail}, nil
		}
		it.mu.Unlock()
		resp, err := it.append(10, 2, 2, 0, "a", "b", "c", "d", "e")
		must(t, err)
		if resp.Success != want || (!want && resp.LastLog != uint64(fail+1)) {
			t.Fatalf("part %d failed: %+v", fail, resp)
		}
	}
	it.mu.Lock()
	it.answer = func(any) (any, error) { return nil, errors.New("disk on fire") }
	it.mu.Unlock()
	if _, err := it.append(10, 2, 2, 0, "a", "b", "c"); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Fatal(err)
	}
}

func TestBadEntriesAreRefused(t *testing.T) {
	it := newInboxTest(t, nil)
	it.log.decodeErr = errors.New("bad CRC")
	if _, err := it.append(10, 2, 2, 0, "a"); err == nil || !strings.Contains(err.Error(), "bad CRC") {
		t.Fatal(err)
	}
	it.log.mu.Lock()
	it.log.decodeErr = nil
	it.log.mu.Unlock()
	for name, logs := range map[string][]*raft.Log{
		"hole":               {{Index: 11, Term: 2}, {Index: 13, Term: 2}},
		"term falls":         {{Index: 11, Term: 2}, {Index: 12, Term: 1}},
		"term of the future": {{Index: 11, Term: 3}},
		"wrong start":        {{Index: 12, Term: 2}},
		"no configuration":   {{Index: 11, Term: 2, Type: raft.LogConfiguration, Data: []byte("x")}}, // Raft would panic
	} {
		var resp raft.AppendEntriesResponse
		err := it.leader.AppendEntries("", it.to, &raft.AppendEntriesRequest{
			RPCHeader: header3(), Term: 2, PrevLogEntry: 10, PrevLogTerm: 2, Entries: logs,
		}, &resp)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var resp raft.InstallSnapshotResponse
	q := &raft.InstallSnapshotRequest{
		RPCHeader: header3(), SnapshotVersion: 1, Term: 7, LastLogIndex: 30, LastLogTerm: 2, Configuration: []byte("x"), ConfigurationIndex: 3,
	}
	if err := it.leader.InstallSnapshot("", it.to, q, &resp, strings.NewReader("")); err == nil {
		t.Error("a snapshot whose configuration cannot be read: accepted")
	}
	if seen := it.take(); len(seen) != 0 {
		t.Fatalf("Raft saw %v", seen)
	}
}

// Heartbeats pass a busy Raft, but only in a term that Raft itself has met.
func TestHeartbeatsPassABusyRaft(t *testing.T) {
	it := newInboxTest(t, nil)
	fast := make(chan *raft.AppendEntriesRequest, 10)
	it.follower.SetHeartbeatHandler(func(rpc raft.RPC) {
		q := rpc.Command.(*raft.AppendEntriesRequest)
		fast <- q
		rpc.Respond(&raft.AppendEntriesResponse{Term: q.Term, LastLog: 42, Success: true}, nil)
	})
	beat := func(term uint64) (resp raft.AppendEntriesResponse) {
		t.Helper()
		must(t, it.leader.AppendEntries("", it.to, &raft.AppendEntriesRequest{RPCHeader: header3(), Term: term}, &resp))
		return resp
	}
	beat(3)
	if len(it.take()) != 1 || len(fast) != 0 {
		t.Fatal("the first heartbeat of a term must go through Raft's channel")
	}
	busy := make(chan struct{})
	it.mu.Lock()
	it.answer = func(any) (any, error) {
		<-busy
		return &raft.AppendEntriesResponse{Term: 3, Success: true}, nil
	}
	it.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := it.append(10, 2, 3, 0, "slow disk")
		done <- err
	}()
	eventually(t, "Raft is busy", func() bool { it.mu.Lock(); defer it.mu.Unlock(); return len(it.seen) == 1 })
	for range 3 {
		if resp := beat(3); !resp.Success || resp.Term != 3 || resp.LastLog != 42 {
			t.Fatalf("%+v", resp)
		}
	}
	if q := <-fast; q.Term != 3 || string(q.ID) != "1/1" || string(q.Addr) != "1/1" || q.ProtocolVersion != 3 {
		t.Fatalf("%+v", q)
	}
	close(busy)
	must(t, <-done)

	// One group's stuck handler holds up no other's heartbeats.
	stuck := make(chan struct{})
	it.follower.SetHeartbeatHandler(func(rpc raft.RPC) {
		<-stuck
		rpc.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
	})
	late := make(chan error, 1)
	go func() {
		late <- it.leader.AppendEntries("", it.to, &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 3}, &raft.AppendEntriesResponse{})
	}()
	other, err := it.follower.m.Register(2, 3, &modelLog{})
	must(t, err)
	other.term.Store(3)
	other.SetHeartbeatHandler(func(rpc raft.RPC) { rpc.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil) })
	eventually(t, "the worker is held up", func() bool {
		since := it.follower.m.beats.since.Load()
		return since != 0 && time.Now().UnixNano()-since > int64(heldUp)
	})
	must(t, it.leader.AppendEntries("", "2/3", &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 3}, &raft.AppendEntriesResponse{}))
	close(stuck)
	must(t, <-late)

	// A handler that panics (the store refused a lower term) or does not answer (shut down) costs that heartbeat.
	for _, f := range []func(raft.RPC){func(raft.RPC) { panic("failed to save current term") }, func(raft.RPC) {}} {
		it.follower.SetHeartbeatHandler(f)
		var resp raft.AppendEntriesResponse
		if err := it.leader.AppendEntries("", it.to, &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 3}, &resp); err == nil {
			t.Fatal("a heartbeat that nobody answered succeeded")
		}
	}
}

// A full inbox refuses; it does not hold up the others.
func TestFullInboxRefuses(t *testing.T) {
	n := newNetwork(t)
	a, b := n.mux(1, nil), n.mux(2, nil)
	l, err := a.Register(1, 1, &modelLog{})
	must(t, err)
	_, err = b.Register(2, 2, &modelLog{}) // whose Raft never reads
	must(t, err)
	other, err := b.Register(2, 3, &modelLog{})
	must(t, err)
	const requests = 2000 // above the channel, the queue and what was just taken from it
	refused := make(chan error, requests)
	for range requests {
		go func() {
			var resp raft.AppendEntriesResponse
			refused <- l.AppendEntries("", "2/2", &raft.AppendEntriesRequest{
				RPCHeader: header3(), Term: 2, PrevLogEntry: 1, PrevLogTerm: 1, Entries: entries(2, 2, "x"),
			}, &resp)
		}()
	}
	if err := <-refused; !errors.Is(err, ErrOverloaded) {
		t.Fatalf("the inbox took everything: %v", err)
	}
	go func() {
		rpc := <-other.Consumer()
		rpc.Respond(&raft.AppendEntriesResponse{Term: 2, Success: true}, nil)
	}()
	var resp raft.AppendEntriesResponse
	begin := time.Now()
	must(t, l.AppendEntries("", "2/3", &raft.AppendEntriesRequest{
		RPCHeader: header3(), Term: 2, PrevLogEntry: 1, PrevLogTerm: 1, Entries: entries(2, 2, "x"),
	}, &resp))
	if d := time.Since(begin); d > 5*time.Second {
		t.Fatalf("another group waited %v", d)
	}
	_ = l.Close() // fails the rest
	for range requests - 1 {
		<-refused
	}
}
