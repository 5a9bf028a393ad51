package transport

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/internal/raftconf"
)

// decodeAppend makes one part, or a heartbeat, the AppendEntries that Raft may see: its entries are checked and the
// rules for what enters Raft hold.
func (e *Endpoint) decodeAppend(it *inbound) (*raft.AppendEntriesRequest, error) {
	p := it.part
	q := &raft.AppendEntriesRequest{
		RPCHeader: it.rpcHeader(), Term: p.term, PrevLogEntry: p.prevIndex, PrevLogTerm: p.prevTerm, LeaderCommitIndex: p.commit,
	}
	//lint:ignore SA1019 handlers of raft still read it
	q.Leader = q.Addr
	if p.count > 0 {
		logs, err := e.group.DecodeEntries(p.prevIndex+1, it.entries)
		if err != nil {
			return nil, fmt.Errorf("decode entries from %d: %w", p.prevIndex+1, err)
		}
		if err := checkEntries(p, logs); err != nil {
			return nil, err
		}
		q.Entries = logs
	}
	if it.h.typ == frameAppend {
		belowLogStart(e.group, q)
		clampCommit(q)
	}
	return q, nil
}

// checkEntries asserts what every leader's request fulfils.
func checkEntries(p appendPart, logs []*raft.Log) error {
	if len(logs) != int(p.count) {
		return fmt.Errorf("%w: %d entries decoded, %d announced", errMalformed, len(logs), p.count)
	}
	term := p.prevTerm
	for i, l := range logs {
		if l.Index != p.prevIndex+1+uint64(i) {
			return fmt.Errorf("%w: entry %d where %d was due", errMalformed, l.Index, p.prevIndex+1+uint64(i))
		}
		if l.Term < term || l.Term > p.term {
			return fmt.Errorf("%w: entry %d has term %d after term %d in a request of term %d", errMalformed, l.Index, l.Term, term, p.term)
		}
		term = l.Term
		if l.Type == raft.LogConfiguration {
			if _, err := raftconf.Decode(l.Data); err != nil {
				return fmt.Errorf("%w: entry %d: %w", errMalformed, l.Index, err)
			}
		}
	}
	return nil
}

// clampCommit is safety rule 4: Raft would commit up to min(leader's commit, its LAST index), and so a divergent tail
// behind a short or stepped-back request. What the request vouches for ends with its entries.
func clampCommit(q *raft.AppendEntriesRequest) {
	q.LeaderCommitIndex = min(q.LeaderCommitIndex, q.PrevLogEntry+uint64(len(q.Entries)))
}

// belowLogStart is safety rule 5. Raft cannot check a previous entry below the local log start, and would refuse for
// ever. All up to there is committed and local, hence in the log of every leader whose term still counts: that part
// is dropped. When nothing is left, Raft gets the request bare, so that the term is checked (a deposed leader must not
// take the answer for a replica of its own divergent entries) and its success is a true one.
func belowLogStart(g Group, q *raft.AppendEntriesRequest) {
	floor := logFloor(g)
	if q.PrevLogEntry >= floor {
		return
	}
	end := q.PrevLogEntry + uint64(len(q.Entries))
	if end <= floor {
		if end == 0 {
			return // bare already
		}
		q.Entries, q.PrevLogEntry, q.PrevLogTerm, q.LeaderCommitIndex = nil, 0, 0, 0
		return
	}
	term, ok := g.Term(floor)
	if !ok {
		return // Raft refuses it, and the leader tries otherwise
	}
	q.Entries = q.Entries[floor-q.PrevLogEntry:]
	q.PrevLogEntry, q.PrevLogTerm = floor, term
}

// logFloor is the index below which the local log has no entries any more, all of which were committed here.
func logFloor(g Group) uint64 {
	if first := g.FirstIndex(); first > 0 {
		return first - 1
	}
	if g.LastIndex() == 0 {
		return g.Committed() // empty behind a checkpoint, or quite empty: 0
	}
	return 0
}

// snapshotVerdict is what to do with an InstallSnapshot.
type snapshotVerdict int

const (
	snapshotInstall  snapshotVerdict = iota // hand it to Raft
	snapshotHave                            // answer success, touch nothing
	snapshotWipe                            // the log diverged: empty it first
	snapshotUnproven                        // the log reaches there, but what it holds is not known: refuse
)

// judgeSnapshot is safety rule 6. One failed append can step a leader's nextIndex below its first index, so healthy
// logs are sent snapshots too; and Raft, given one, would discard them or loop.
func judgeSnapshot(g Group, index, term uint64) snapshotVerdict {
	have, known := g.Term(index)
	switch first, last := g.FirstIndex(), g.LastIndex(); {
	case known && have == term:
		return snapshotHave
	case index <= g.Committed() || (first > 0 && index <= first-1):
		return snapshotHave
	case last < index:
		return snapshotInstall
	case known:
		return snapshotWipe
	default:
		return snapshotUnproven
	}
}
