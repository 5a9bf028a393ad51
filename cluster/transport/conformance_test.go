package transport

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// history is Raft as in the paper, seen from outside: a row of leaders, each with the log it had, and one sequence of
// committed entries that every later leader's log begins with. The other replicas, of which nothing else is known,
// form the majority.
type history struct {
	term    uint64
	log     []raft.Log // of the newest leader; entry i has index i+1
	commit  uint64
	leaders []leaderView // moments of leaders, for delayed requests
}

type leaderView struct {
	term, commit uint64
	log          []raft.Log
}

func (h *history) elect(t *rapid.T) {
	h.term += uint64(rapid.IntRange(1, 2).Draw(t, "terms"))
	keep := rapid.IntRange(int(h.commit), len(h.log)).Draw(t, "kept")
	h.log = append([]raft.Log(nil), h.log[:keep]...)
	h.write(raft.LogNoop)
}

func (h *history) write(typ raft.LogType) {
	i := uint64(len(h.log) + 1)
	h.log = append(slices.Clip(h.log), raft.Log{Index: i, Term: h.term, Type: typ, Data: fmt.Appendf(nil, "%d of %d", i, h.term)})
}

func (h *history) look() { h.leaders = append(h.leaders, leaderView{h.term, h.commit, h.log}) }

// TestInboxConformance sends a follower, a real Raft behind the inbox, requests of present and deposed leaders: split,
// stepped back, repeated, out of order, with its log compacted between. Invariants: what it applied is a prefix of what
// is committed; an answer of success means that its log is the leader's up to there.
func TestInboxConformance(t *testing.T) {
	n := newNetwork(t)
	quick := func(o *Options) { o.MaxPartBytes, o.Heartbeat = 100, time.Microsecond } // some three entries a part
	a := n.mux(1, quick)
	b := n.mux(2, quick)
	next := uint64(1)
	rapid.Check(t, func(rt *rapid.T) {
		from, to := next, next+1
		next += 2
		l, err := a.Register(1, from, &modelLog{})
		must(t, err)
		defer l.Close()
		// The follower is no voter of its configuration and never stands for election.
		servers := []raft.Server{{ID: raft.ServerID(Address(1, from)), Address: Address(1, from)}}
		h := &history{term: 1}
		h.log = []raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: servers})}}
		h.commit = 1
		h.elect(rt)
		h.look()
		f := join(t, b, to, &modelLog{}, nil, nil)
		defer f.stop()
		send := func(v leaderView, prev, count int) {
			q := &raft.AppendEntriesRequest{
				RPCHeader: header3(), Term: v.term, PrevLogEntry: uint64(prev), LeaderCommitIndex: v.commit,
			}
			if prev > 0 {
				q.PrevLogTerm = v.log[prev-1].Term
			}
			for i := range count {
				e := v.log[prev+i]
				q.Entries = append(q.Entries, &e)
			}
			var resp raft.AppendEntriesResponse
			if err := l.AppendEntries("", Address(2, to), q, &resp); err != nil {
				rt.Fatalf("request refused: %v", err)
			}
			if !resp.Success {
				return
			}
			f.log.mu.Lock()
			defer f.log.mu.Unlock()
			for i := f.log.floor + 1; i <= uint64(prev+count); i++ {
				if got := f.log.atLocked(i); got == nil || got.Term != v.log[i-1].Term {
					rt.Fatalf("success up to %d in term %d, but entry %d is %+v, the leader's %+v", prev+count, v.term, i, got, v.log[i-1])
				}
			}
		}
		check := func() {
			applied := f.raft.AppliedIndex()
			if applied > h.commit {
				rt.Fatalf("applied %d, committed %d", applied, h.commit)
			}
			f.log.mu.Lock()
			defer f.log.mu.Unlock()
			for i := f.log.floor + 1; i <= applied; i++ {
				if got := f.log.atLocked(i); got == nil || got.Term != h.log[i-1].Term || string(got.Data) != string(h.log[i-1].Data) {
					rt.Fatalf("entry %d is applied as %+v, committed as %+v", i, got, h.log[i-1])
				}
			}
			f.log.committed = max(f.log.committed, applied)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"elect": func(rt *rapid.T) { h.elect(rt); h.look() },
			"write": func(rt *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(rt, "entries") {
					h.write(raft.LogCommand)
				}
				h.look()
			},
			"commit": func(rt *rapid.T) {
				// Only entries of the leader's own term commit (and with them all before).
				first := len(h.log)
				for first > 0 && h.log[first-1].Term == h.term {
					first--
				}
				h.commit = max(h.commit, uint64(rapid.IntRange(first+1, len(h.log)).Draw(rt, "commit")))
				h.look()
			},
			"send": func(rt *rapid.T) {
				v := h.leaders[rapid.IntRange(max(0, len(h.leaders)-6), len(h.leaders)-1).Draw(rt, "leader")]
				prev := rapid.IntRange(0, len(v.log)).Draw(rt, "previous")
				send(v, prev, rapid.IntRange(0, len(v.log)-prev).Draw(rt, "count"))
			},
			"catch up": func(rt *rapid.T) {
				v := h.leaders[len(h.leaders)-1]
				send(v, int(min(f.log.LastIndex(), uint64(len(v.log)))), 0)
				send(v, 0, len(v.log))
			},
			"compact": func(rt *rapid.T) {
				first, upTo := f.log.FirstIndex(), min(f.log.Committed(), f.raft.AppliedIndex())
				if first == 0 || upTo <= first {
					return
				}
				must(t, store{f.log}.DeleteRange(first, rapid.Uint64Range(first, upTo-1).Draw(rt, "deleted")))
			},
			"": func(*rapid.T) { check() },
		})
	})
}
