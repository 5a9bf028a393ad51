package controller

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/balsa-broker/balsa/cluster/meta"
)

func openTestStore(t *testing.T, dir string) *store {
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.first = func() error { return nil }
	return s
}

// Rule 2: raft writes a vote in two calls; a crash between them must not make an old candidate's vote one of the new
// term.
func TestVoteIsWrittenWhole(t *testing.T) {
	dir := t.TempDir()
	s := openTestStore(t, dir)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(term uint64, cand string) {
		t.Helper()
		gotTerm, err := s.GetUint64([]byte(keyVoteTerm))
		gotCand, err2 := s.Get([]byte(keyVoteCand))
		if cand == "" {
			if err == nil || err.Error() != "not found" || err2 == nil || err2.Error() != "not found" {
				t.Errorf("%d %v, %s %v", gotTerm, err, gotCand, err2)
			}
			return
		}
		if err != nil || err2 != nil || gotTerm != term || string(gotCand) != cand {
			t.Errorf("%d %s, want %d %s (%v %v)", gotTerm, gotCand, term, cand, err, err2)
		}
	}
	crash := func() {
		t.Helper()
		check(s.close())
		s = openTestStore(t, dir)
	}
	want(0, "")
	check(s.SetUint64([]byte(keyTerm), 5))
	check(s.SetUint64([]byte(keyVoteTerm), 5))
	crash()
	want(0, "")
	check(s.SetUint64([]byte(keyVoteTerm), 5))
	check(s.Set([]byte(keyVoteCand), []byte("1/7")))
	want(5, "1/7")
	check(s.SetUint64([]byte(keyVoteTerm), 6))
	want(5, "1/7") // what raft reads is what is on disk
	crash()
	want(5, "1/7")
	check(s.SetUint64([]byte(keyVoteTerm), 6))
	check(s.Set([]byte(keyVoteCand), []byte("2/8")))
	crash()
	want(6, "2/8")
	if term, err := s.GetUint64([]byte(keyTerm)); err != nil || term != 5 {
		t.Errorf("%d %v", term, err)
	}
	check(s.close())
}

// Rule 7: what raft cannot live with stops this member, and no more: a store that fails after a truncation, and a term
// that cannot be saved, on which raft would panic.
func TestRule7StoreFailuresStopTheMember(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	var stopped error
	s.stop = func(err error) { stopped = err }
	logs := func(term uint64, from, to uint64) (out []*raft.Log) {
		for i := from; i <= to; i++ {
			out = append(out, &raft.Log{Index: i, Term: term})
		}
		return out
	}
	if err := errors.Join(s.StoreLogs(logs(1, 1, 9)), s.DeleteRange(5, 9)); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreLogs(logs(2, 5, 6)); err != nil || stopped != nil {
		t.Fatal(err, stopped)
	}
	if err := s.DeleteRange(6, 6); err != nil {
		t.Fatal(err)
	}
	if err := s.close(); err != nil { // from here on every write fails
		t.Fatal(err)
	}
	if err := s.StoreLogs(logs(3, 6, 6)); err == nil || stopped == nil {
		t.Errorf("a store failed after a truncation: %v, stopped by %v", err, stopped)
	}
	stopped = nil
	if err := s.SetUint64([]byte(keyTerm), 9); err != nil || stopped == nil {
		t.Errorf("a term could not be saved: raft panics on %v, stopped by %v", err, stopped)
	}
	if err := s.Set([]byte(keyVoteCand), []byte("1/7")); err == nil {
		t.Error("a vote after that")
	}
}

// Rule 14: the log's file owns its reserve of the disk, also after it was written to and opened again.
func TestReserve(t *testing.T) {
	dir := t.TempDir()
	for round := range uint64(3) {
		s := openTestStore(t, dir)
		if err := s.SetUint64([]byte(keyTerm), 1); err != nil {
			t.Fatal(err)
		}
		for i := range uint64(50) {
			if err := s.StoreLog(&raft.Log{Index: round*50 + i + 1, Term: 1, Data: make([]byte, 3000)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "raft.db"))
		if err != nil || info.Size() != reserveBytes {
			t.Fatalf("%v, %v", info.Size(), err)
		}
	}
}

func TestLogBounds(t *testing.T) {
	s := openTestStore(t, t.TempDir())
	marked := 0
	s.first = func() error { marked++; return nil }
	var logs []*raft.Log
	for i := uint64(1); i <= 10; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 1 + i/6, Data: []byte{byte(i)}})
	}
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	bounds := func(first, last uint64) {
		t.Helper()
		f, _ := s.FirstIndex()
		l, _ := s.LastIndex()
		if f != first || l != last {
			t.Errorf("%d to %d, want %d to %d", f, l, first, last)
		}
	}
	bounds(1, 10)
	if err := s.DeleteRange(8, 10); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(1, 3); err != nil {
		t.Fatal(err)
	}
	bounds(4, 7)
	if term, ok := s.termAt(6); !ok || term != 2 {
		t.Errorf("%d %v", term, ok)
	}
	if _, ok := s.termAt(8); ok {
		t.Error("a deleted entry has a term")
	}
	if err := s.DeleteRange(4, 7); err != nil {
		t.Fatal(err)
	}
	bounds(0, 0)
	if marked != 1 {
		t.Errorf("marked %d times", marked)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is encoded comes back, split at any limit; any flipped bit is noticed.
func TestEntriesOnTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint64Range(1, 1<<40).Draw(t, "first")
		n := rapid.IntRange(1, 10).Draw(t, "entries")
		var logs []*raft.Log
		for i := range n {
			logs = append(logs, &raft.Log{
				Index: first + uint64(i), Term: rapid.Uint64().Draw(t, "term"),
				Type: rapid.SampledFrom([]raft.LogType{raft.LogCommand, raft.LogNoop, raft.LogConfiguration, raft.LogBarrier}).Draw(t, "type"),
				Data: rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "data"),
			})
		}
		limit := rapid.IntRange(1, 300).Draw(t, "limit")
		var g group
		for at := 0; at < n; {
			buf, k, err := g.EncodeEntries([]byte("prefix"), logs[at:], limit)
			payload := buf[len("prefix"):]
			if err != nil || k < 1 || k > 1 && len(payload) > limit {
				t.Fatalf("%d entries in %d bytes, limit %d: %v", k, len(payload), limit, err)
			}
			got, err := g.DecodeEntries(logs[at].Index, payload)
			if err != nil || len(got) != k {
				t.Fatalf("%d of %d: %v", len(got), k, err)
			}
			for i, l := range got {
				w := logs[at+i]
				if l.Index != w.Index || l.Term != w.Term || l.Type != w.Type || !bytes.Equal(l.Data, w.Data) {
					t.Fatalf("%+v, want %+v", l, w)
				}
			}
			bad := bytes.Clone(payload)
			bad[rapid.IntRange(0, len(bad)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			if _, err := g.DecodeEntries(logs[at].Index, bad); err == nil {
				t.Fatal("a flipped bit was not noticed")
			}
			if _, err := g.DecodeEntries(logs[at].Index+1, payload); !errors.Is(err, errEntry) {
				t.Fatalf("another index: %v", err)
			}
			at += k
		}
	})
}

func TestAnswersOnTheWire(t *testing.T) {
	for _, c := range []struct {
		a   answer
		err error
	}{
		{answer{version: 7, result: meta.ProducerIDs{First: 5, Count: 6}, leader: -1}, nil},
		{answer{version: 8, refused: meta.ErrTopicExists, leader: -1}, nil},
		{answer{leader: 3}, ErrNotLeader},
		{answer{leader: -1}, ErrNotLeader},
	} {
		got, err := decodeAnswer(encodeAnswer(c.a, c.err))
		if !errors.Is(err, c.err) || got.version != c.a.version || got.result != c.a.result || got.leader != c.a.leader || !errors.Is(got.refused, c.a.refused) {
			t.Errorf("%+v %v came back as %+v %v", c.a, c.err, got, err)
		}
	}
	if _, err := decodeAnswer(encodeAnswer(answer{}, errors.New("boom"))); err == nil || errors.Is(err, ErrNotLeader) {
		t.Errorf("%v", err)
	}
	for _, b := range [][]byte{nil, {9}, {0}, {1, 2}, {2}} {
		if _, err := decodeAnswer(b); err == nil {
			t.Errorf("%x is taken", b)
		}
	}
}

// Rule 6: a log that differs from the leader's snapshot is emptied by way of a restart, and the member does not vote
// before it holds again what it had.
func TestWipe(t *testing.T) {
	n, m := newNet(t), members(1)[0]
	b := n.start(m, t.TempDir(), hidden, nil)
	if err := b.Bootstrap(t.Context(), []Member{m}, ""); err != nil {
		t.Fatal(err)
	}
	b.register()
	last := b.store.lastIndex.Load()
	term, _ := b.store.termAt(last)
	g := group{b.Controller}
	if err := g.WipeForSnapshot(last, term); err == nil || b.Err() != nil {
		t.Fatalf("an equal log was wiped: %v", err)
	}
	if err := g.WipeForSnapshot(last+1, term+1); err == nil || b.Err() != nil {
		t.Fatalf("a log that does not reach there was wiped: %v", err)
	}
	if err := g.WipeForSnapshot(last, term+1); !errors.Is(err, errWiped) {
		t.Fatal(err)
	}
	<-b.Failed()
	if !errors.Is(b.Err(), errWiped) || g.HasConfiguration() {
		t.Errorf("%v", b.Err())
	}
	if _, err := b.Propose(testContext(t), topic("x", 1)); !errors.Is(err, errWiped) {
		t.Errorf("%v", err)
	}
	for range 2 { // the wipe is done once, the promise not to vote stays
		b = b.restart(hidden)
		if b.store.lastIndex.Load() > 0 || !b.HasState() || b.mayVote() || b.voteFloor.Load() != last {
			t.Fatal("not wiped")
		}
	}
}
