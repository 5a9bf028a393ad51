package cluster

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/partition"
)

// stand is how one replica answers when a partition that lost power is to be brought back (safety rule 13).
type stand struct {
	state standState
	partition.Standing
}

type standState uint8

const (
	standUnheard standState = iota // no answer, not open yet, or damaged: nothing is known of its log
	standRests                     // unclean: its log may lack what it confirmed
	standRuns                      // clean
	standLeads                     // clean, and its Raft leads
)

func (s stand) clean() bool { return s.state == standRuns || s.state == standLeads }

func (s stand) end() meta.LogEnd { return meta.LogEnd{Term: s.LastTerm, Index: s.LastIndex} }

func (s standState) String() string {
	return [...]string{"not heard", "unclean", "clean", "clean, leader"}[s]
}

// judgement says what becomes of a partition with unclean replicas. It is pure: the same answers give the same judgement on
// every broker.
type judgement struct {
	do      recoveryAction
	missing []meta.Replica // not heard, and may come back
	best    meta.Replica   // the highest (last term, last index) of those heard; zero: nobody has a log
	last    meta.LogEnd    // of best
	term    uint64         // above all that were seen
	loss    meta.Loss      // should it go on from best; without the time
}

type recoveryAction uint8

const (
	recoveryWait    recoveryAction = iota // somebody is missing whose log may be longer
	recoveryElect                         // clean voters can elect a leader: wait for that
	recoveryReplace                       // a leader and a majority of its voters are clean: unclean replicas are dispensable
	recoveryChoose                        // all were heard, and nobody can be elected: go on from best
)

// unheardTerms is added to the term when voters were not heard: one of them may have seen a higher one.
const unheardTerms = 1000

// present lists the replicas of a partition that may still answer: those on the disks that the metadata has. All others are
// gone for ever: their ids are never given again.
func present(img *meta.Image, p *meta.Partition) []meta.Replica {
	return slices.DeleteFunc(slices.Concat(p.Replicas, p.Removing), func(r meta.Replica) bool {
		b := img.Brokers[r.Node]
		return b == nil || r.Incarnation != b.Incarnation
	})
}

// judge a partition by the answers (by id) of the replicas that are present.
func judge(present []meta.Replica, heard map[uint64]stand) judgement {
	j := judgement{do: recoveryChoose, loss: meta.Loss{Known: -1}}
	elect, lead := false, false
	for _, r := range present {
		s := heard[r.ID]
		if s.state == standUnheard {
			j.missing = append(j.missing, r)
			continue
		}
		j.term = max(j.term, s.Term+1)
		j.loss.Known = max(j.loss.Known, s.Known)
		if b := heard[j.best.ID]; s.LastIndex > 0 && (j.best.ID == 0 || b.end().Before(s.end()) || b.end() == s.end() && s.clean() && !b.clean()) {
			j.best = r
		}
		if s.clean() && cleanMajority(s.Voters, heard) {
			elect = true
			lead = lead || s.state == standLeads
		}
	}
	b := heard[j.best.ID]
	j.last = b.end()
	j.loss.Node, j.loss.Replica, j.loss.LogEnd, j.loss.Unheard = j.best.Node, j.best.ID, b.LogEnd, int32(len(j.missing))
	j.loss.Since = provenSince(b.Voters, heard)
	if len(j.missing) > 0 {
		j.term += unheardTerms
	}
	switch {
	case lead:
		j.do = recoveryReplace
	case elect:
		j.do = recoveryElect
	case len(j.missing) > 0 || j.best.ID == 0:
		j.do = recoveryWait
	}
	return j
}

func cleanMajority(voters []partition.Replica, heard map[uint64]stand) bool {
	n := 0
	for _, v := range voters {
		if heard[v.ID].clean() {
			n++
		}
	}
	return n > len(voters)/2
}

// provenSince is a time (ms since 1970) before which everything acknowledged is in the best log: a majority had stored it,
// each of these had it on disk by the time that it can prove, and the best log is at least as long as theirs. 0: unknown.
func provenSince(voters []partition.Replica, heard map[uint64]stand) int64 {
	since, n := int64(0), 0
	for _, v := range voters {
		s, ok := heard[v.ID]
		if !ok || s.state == standUnheard {
			continue
		}
		if s.Flushed.IsZero() {
			return 0
		}
		if ms := s.Flushed.UnixMilli(); n == 0 || ms < since {
			since = ms
		}
		n++
	}
	if n+len(voters)/2+1 <= len(voters) {
		return 0 // a majority of others may have acknowledged something
	}
	return since
}

// Questions of kindRecovery are replica ids; answers, in their order:
//
//	state 1 | unless unheard: term, last term, last index, log end, known + 1, flushed (ms, 0: unknown), number of voters:
//	uvarints | voters: node, id: uvarints
func (s stand) encode(b []byte) []byte {
	b = append(b, byte(s.state))
	if s.state == standUnheard {
		return b
	}
	flushed := uint64(0)
	if !s.Flushed.IsZero() {
		flushed = uint64(s.Flushed.UnixMilli())
	}
	for _, v := range []uint64{
		s.Term, s.LastTerm, s.LastIndex, uint64(s.LogEnd), uint64(s.Known + 1), flushed, uint64(len(s.Voters)),
	} {
		b = binary.AppendUvarint(b, v)
	}
	for _, v := range s.Voters {
		b = binary.AppendUvarint(b, uint64(uint32(v.Node)))
		b = binary.AppendUvarint(b, v.ID)
	}
	return b
}

func decodeStands(b []byte) ([]stand, error) {
	var out []stand
	r := reader{b: b}
	for len(r.b) > 0 && !r.bad {
		s := stand{state: standState(r.byte())}
		if s.state > standLeads {
			return nil, errMalformed
		}
		if s.state != standUnheard {
			s.Term, s.LastTerm, s.LastIndex = r.uvarint(), r.uvarint(), r.uvarint()
			s.LogEnd, s.Known = int64(r.uvarint()), int64(r.uvarint())-1
			if ms := r.uvarint(); ms > 0 {
				s.Flushed = time.UnixMilli(int64(ms))
			}
			n := r.uvarint()
			if n > uint64(len(r.b)) {
				return nil, errMalformed
			}
			for range n {
				s.Voters = append(s.Voters, partition.Replica{Node: r.int32(), ID: r.uvarint()})
			}
		}
		if r.bad {
			return nil, errMalformed
		}
		out = append(out, s)
	}
	return out, nil
}
