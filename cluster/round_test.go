package cluster

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/balsa-broker/balsa/partition"
)

var (
	r1 = partition.Replica{Node: 1, ID: 11}
	r2 = partition.Replica{Node: 2, ID: 12}
	r3 = partition.Replica{Node: 3, ID: 13}
)

func follower(term, index uint64, lost bool, leader partition.Replica) standing {
	return standing{state: stateFollower, voter: true, term: term, lastTerm: term, lastIndex: index, lost: lost, leader: leader}
}

func TestDecide(t *testing.T) {
	voters := []partition.Replica{r1, r2, r3}
	lost := func(term, index uint64) standing { return follower(term, index, true, r1) }
	candidate := lost(3, 10)
	candidate.state, candidate.leader = stateCandidate, partition.Replica{}
	learner := lost(3, 10)
	learner.voter = false
	deferring := lost(3, 10)
	deferring.deferred = true
	type ans = map[partition.Replica]standing
	for _, c := range []struct {
		name    string
		self    partition.Replica
		answers ans
		grace   bool
		want    verdict
	}{
		{"the leader's broker died, both survivors equal: the first goes", r2, ans{r2: lost(3, 10), r3: lost(3, 10)}, true, verdictStand},
		{"... and the second waits", r3, ans{r2: lost(3, 10), r3: lost(3, 10)}, true, verdictDefer},
		{"the longer log wins", r3, ans{r2: lost(3, 10), r3: lost(3, 11)}, true, verdictStand},
		{"the newer term beats the longer log", r2, ans{r2: lost(3, 99), r3: lost(4, 11)}, true, verdictDefer},
		{"alone is no majority", r2, ans{r2: lost(3, 10)}, true, verdictRetry},
		{"the other still hears the leader", r2, ans{r2: lost(3, 10), r3: follower(3, 10, false, r1)}, true, verdictRetry},
		{"the believed leader answers and does not lead", r2, ans{r1: follower(3, 10, true, partition.Replica{}), r2: follower(3, 10, false, r1), r3: follower(3, 10, false, r1)}, true, verdictDefer},
		{"... then the first in order goes", r1, ans{r1: follower(3, 10, true, partition.Replica{}), r2: follower(3, 10, false, r1), r3: follower(3, 10, false, r1)}, true, verdictStand},
		{"its broker answers without the replica: it does not lead", r2, ans{r1: {}, r2: follower(3, 10, false, r1), r3: follower(3, 10, false, r1)}, true, verdictStand},
		{"someone leads", r2, ans{r2: lost(3, 10), r3: {state: stateLeader, voter: true, term: 4, lastTerm: 4, lastIndex: 11}}, true, verdictLed},
		{"a leader of an older term does not count", r2, ans{r2: lost(4, 10), r3: {state: stateLeader, voter: true, term: 3, lastTerm: 3, lastIndex: 11}}, true, verdictRetry},
		{"a candidate is given its time", r2, ans{r2: lost(3, 10), r3: candidate}, true, verdictCandidate},
		{"... but not for ever", r2, ans{r2: lost(3, 10), r3: candidate}, false, verdictStand},
		{"this one is candidate and stuck", r2, ans{r2: candidate, r3: lost(3, 10)}, false, verdictUnstick},
		{"this one is candidate and worse: the other goes", r2, ans{r2: candidate, r3: lost(3, 12)}, false, verdictDefer},
		{"a learner never stands", r2, ans{r2: learner, r3: lost(3, 1)}, true, verdictRetry},
		{"a learner that is ahead does not hold up a voter", r2, ans{r2: lost(3, 5), r3: learner, r1: lost(3, 1)}, true, verdictStand},
		{"a promise is kept", r2, ans{r2: deferring, r3: lost(3, 10)}, true, verdictDefer},
	} {
		if got := decide(c.self, voters, c.answers, c.grace); got != c.want {
			t.Errorf("%s: verdict %d, want %d", c.name, got, c.want)
		}
	}
}

// With the same answers at most one replica stands, and it has the best log of those that answered.
func TestAtMostOneStands(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		n := 1 + 2*rnd.IntN(3)
		voters := make([]partition.Replica, n)
		answers := make(map[partition.Replica]standing)
		for i := range voters {
			voters[i] = partition.Replica{Node: int32(i + 1), ID: uint64(i + 1)}
		}
		for _, v := range voters {
			if rnd.IntN(4) > 0 {
				leader := partition.Replica{}
				if rnd.IntN(2) == 0 {
					leader = voters[rnd.IntN(n)]
				}
				answers[v] = follower(uint64(1+rnd.IntN(3)), uint64(rnd.IntN(3)), rnd.IntN(3) > 0, leader)
			}
		}
		var stand []partition.Replica
		for _, v := range voters {
			if decide(v, voters, answers, rnd.IntN(2) == 0) == verdictStand {
				stand = append(stand, v)
			}
		}
		if len(stand) > 1 {
			t.Fatalf("%v stand: %+v", stand, answers)
		}
		if len(stand) == 1 {
			if len(answers) < n/2+1 {
				t.Fatalf("stands with %d of %d", len(answers), n)
			}
			for r, a := range answers {
				if better(a, answers[stand[0]]) {
					t.Fatalf("%v stands, %v is better", stand[0], r)
				}
			}
		}
	}
}

func TestRoundMessages(t *testing.T) {
	q := question{group: 7, asker: r2, term: 9, last: logPosition{8, 1 << 40}, before: true}
	qs, err := decodeQuestions(q.encode(q.encode(nil)))
	if err != nil || len(qs) != 2 || qs[1] != q {
		t.Fatalf("%+v, %v", qs, err)
	}
	s := standing{state: stateCandidate, voter: true, lost: true, term: 3, lastTerm: 2, lastIndex: 5, leader: r3}
	ss, err := decodeStandings(s.encode(nil))
	if err != nil || len(ss) != 1 || ss[0] != s {
		t.Fatalf("%+v, %v", ss, err)
	}
}

func TestOrderVoters(t *testing.T) {
	order := []partition.Replica{r3, r1}
	if got := orderVoters([]partition.Replica{r1, r2, r3}, &order); !slices.Equal(got, []partition.Replica{r3, r1, r2}) {
		t.Fatal(got)
	}
}
