package cluster

import (
	"encoding/binary"
	"time"

	"github.com/balsa-broker/balsa/partition"
)

// A round asks the voters of groups that lost their leader how they stand, and decides for each group whether this
// broker's replica stands for election now (safety rule 17). The decision is pure: the same answers give the same
// verdict on every broker, so that of two survivors one goes and the other waits.

// standing is how one replica of a group stands, as its broker sees it.
type standing struct {
	state     replicaState
	voter     bool
	term      uint64
	lastTerm  uint64
	lastIndex uint64
	leader    partition.Replica // as its Raft knows it; zero: none
	lost      bool              // its broker holds the leader for gone (also: knows none)
	deferred  bool              // it has promised another replica to wait, or stands for election itself
}

type replicaState uint8

const (
	stateUnknown replicaState = iota // no such replica here, or it is not open: no answer
	stateFollower
	stateCandidate
	stateLeader
)

// verdict of a round for one group.
type verdict uint8

const (
	verdictRetry     verdict = iota // not enough answers, or a candidate is at work: ask again
	verdictStand                    // stand for election now
	verdictDefer                    // another replica is better: let it go first, then ask again
	verdictLed                      // there is a leader: nothing to do
	verdictUnstick                  // this replica is a candidate that got stuck: make it a follower again
	verdictCandidate                // another is candidate at the moment: leave it its time
)

// decide on a group. voters is in the order in which ties are broken, self among them. An absent answer is one that
// did not come. grace says that a candidate still has time to win.
func decide(self partition.Replica, voters []partition.Replica, answers map[partition.Replica]standing, grace bool) verdict {
	me, ok := answers[self]
	if !ok || me.state == stateUnknown {
		return verdictRetry
	}
	if me.state == stateLeader {
		return verdictLed
	}
	if !me.voter {
		return verdictRetry // a learner waits for the voters
	}
	lost, candidate := 0, false
	for _, v := range voters {
		a, ok := answers[v]
		if !ok || a.state == stateUnknown {
			continue
		}
		if a.state == stateLeader && a.term >= me.term {
			return verdictLed
		}
		if a.state == stateCandidate && v != self {
			candidate = true
		}
		if a.state != stateLeader && (a.lost || isGone(a.leader, answers)) {
			lost++
		}
	}
	if lost < len(voters)/2+1 {
		return verdictRetry
	}
	if grace && (candidate || me.state == stateCandidate) {
		return verdictCandidate
	}
	best := self
	for _, v := range voters {
		a, ok := answers[v]
		if !ok || a.state == stateUnknown || !a.voter || v == best {
			continue
		}
		if b := answers[best]; better(a, b) || !better(b, a) && before(v, best, voters) {
			best = v
		}
	}
	switch {
	case best != self:
		return verdictDefer
	case me.state == stateCandidate:
		return verdictUnstick
	case me.deferred:
		return verdictDefer
	}
	return verdictStand
}

// isGone: the leader a replica believes in has answered this round, and does not lead.
func isGone(leader partition.Replica, answers map[partition.Replica]standing) bool {
	if leader == (partition.Replica{}) {
		return true
	}
	a, ok := answers[leader]
	return ok && a.state != stateLeader // a broker that answers without having the replica open does not lead either
}

// better: a's log is ahead of b's.
func better(a, b standing) bool {
	if a.lastTerm != b.lastTerm {
		return a.lastTerm > b.lastTerm
	}
	return a.lastIndex > b.lastIndex
}

func before(a, b partition.Replica, order []partition.Replica) bool {
	for _, v := range order {
		if v == a {
			return true
		}
		if v == b {
			return false
		}
	}
	return false
}

// A question of a round names the asked replica and how the asking one stands, so that the asked can promise to wait
// when the asking one is better.
type question struct {
	group  uint64 // the asked replica's id
	asker  partition.Replica
	term   uint64
	last   logPosition
	before bool // the asking replica wins a tie
}

type logPosition struct{ term, index uint64 }

// Questions: a row of
//
//	asked replica 8 | asking node 4 | asking replica 8 | term 8 | last term 8 | last index 8 | flags 1 (bit 0: wins ties)
const questionSize = 45

func (q question) encode(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, q.group)
	b = le.AppendUint32(b, uint32(q.asker.Node))
	b = le.AppendUint64(b, q.asker.ID)
	b = le.AppendUint64(b, q.term)
	b = le.AppendUint64(b, q.last.term)
	b = le.AppendUint64(b, q.last.index)
	var f byte
	if q.before {
		f = 1
	}
	return append(b, f)
}

func decodeQuestions(b []byte) ([]question, error) {
	if len(b)%questionSize != 0 {
		return nil, errMalformed
	}
	le := binary.LittleEndian
	out := make([]question, 0, len(b)/questionSize)
	for ; len(b) > 0; b = b[questionSize:] {
		out = append(out, question{
			group: le.Uint64(b), asker: partition.Replica{Node: int32(le.Uint32(b[8:])), ID: le.Uint64(b[12:])},
			term: le.Uint64(b[20:]), last: logPosition{term: le.Uint64(b[28:]), index: le.Uint64(b[36:])}, before: b[44]&1 != 0,
		})
	}
	return out, nil
}

// Answers, in the order of the questions: a row of
//
//	state 1 | flags 1 (voter, lost, deferred) | term 8 | last term 8 | last index 8 | leader node 4 | leader replica 8
const answerSize = 38

func (s standing) encode(b []byte) []byte {
	le := binary.LittleEndian
	var f byte
	for i, v := range []bool{s.voter, s.lost, s.deferred} {
		if v {
			f |= 1 << i
		}
	}
	b = append(b, byte(s.state), f)
	b = le.AppendUint64(b, s.term)
	b = le.AppendUint64(b, s.lastTerm)
	b = le.AppendUint64(b, s.lastIndex)
	b = le.AppendUint32(b, uint32(s.leader.Node))
	return le.AppendUint64(b, s.leader.ID)
}

func decodeStandings(b []byte) ([]standing, error) {
	if len(b)%answerSize != 0 {
		return nil, errMalformed
	}
	le := binary.LittleEndian
	out := make([]standing, 0, len(b)/answerSize)
	for ; len(b) > 0; b = b[answerSize:] {
		out = append(out, standing{
			state: replicaState(b[0]), voter: b[1]&1 != 0, lost: b[1]&2 != 0, deferred: b[1]&4 != 0,
			term: le.Uint64(b[2:]), lastTerm: le.Uint64(b[10:]), lastIndex: le.Uint64(b[18:]),
			leader: partition.Replica{Node: int32(le.Uint32(b[26:])), ID: le.Uint64(b[30:])},
		})
	}
	return out, nil
}

// promise is a replica's word to another that is better placed: it does not stand before until.
type promise struct {
	to    partition.Replica
	until time.Time
}
