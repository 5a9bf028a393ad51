package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/partition"
)

// Rule 13, as a table: who was heard, and what follows. Replicas are 1/11, 2/12, 3/13, and 4/14 as a fourth.
func TestRule13Judge(t *testing.T) {
	r4 := partition.Replica{Node: 4, ID: 14}
	three := []partition.Replica{r1, r2, r3}
	at := func(state standState, term, index uint64, voters ...partition.Replica) stand {
		if voters == nil {
			voters = three
		}
		return stand{state: state, Standing: partition.Standing{
			Term: term + 1, LastTerm: term, LastIndex: index, LogEnd: int64(index), Known: int64(index), Flushed: time.UnixMilli(int64(index)), Voters: voters,
		}}
	}
	for _, c := range []struct {
		what    string
		present []partition.Replica
		heard   map[uint64]stand
		do      recoveryAction
		best    partition.Replica
		missing int
	}{
		{"all unclean: the longest", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standRests, 5, 95), 13: at(standRests, 4, 99)}, recoveryChoose, r2, 0},
		{"equals: the first", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standRests, 5, 90), 13: at(standRests, 5, 90)}, recoveryChoose, r1, 0},
		{"equals: a clean one", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standRuns, 5, 90), 13: at(standRests, 5, 90)}, recoveryChoose, r2, 0},
		{"the clean one stopped before the others went on", three, map[uint64]stand{11: at(standRuns, 4, 100), 12: at(standRests, 5, 120), 13: at(standRests, 5, 130)}, recoveryChoose, r3, 0},
		{"one is missing: it may have the longest", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standRests, 5, 95)}, recoveryWait, r2, 1},
		{"one does not open", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standRests, 5, 95), 13: {}}, recoveryWait, r2, 1},
		{"a clean majority without a leader", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standRuns, 5, 95), 13: at(standRuns, 5, 95)}, recoveryElect, r2, 0},
		{"a clean majority with a leader", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standLeads, 5, 95), 13: at(standRuns, 5, 95)}, recoveryReplace, r2, 0},
		{"a leader whose followers are gone", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standLeads, 5, 95), 13: at(standRests, 5, 93)}, recoveryChoose, r2, 0},
		{"a leader and one that is not heard", three, map[uint64]stand{11: at(standRests, 5, 90), 12: at(standLeads, 5, 95)}, recoveryWait, r2, 1},
		{"a disk that was replaced is not waited for", []partition.Replica{r1, r2, r4}, map[uint64]stand{
			11: at(standRests, 5, 90), 12: at(standRests, 5, 95), 14: {state: standRuns},
		}, recoveryChoose, r2, 0},
		{"a learner with the longest log", []partition.Replica{r1, r2, r3, r4}, map[uint64]stand{
			11: at(standRests, 5, 90), 12: at(standRests, 5, 95), 13: at(standRests, 5, 94), 14: at(standRuns, 5, 99),
		}, recoveryChoose, r4, 0},
		{"a single replica", []partition.Replica{r1}, map[uint64]stand{11: at(standRests, 5, 90, r1)}, recoveryChoose, r1, 0},
		{"nobody has a log", []partition.Replica{r1}, map[uint64]stand{11: {state: standRests}}, recoveryWait, partition.Replica{}, 0},
	} {
		j := judge(metaReplicas(c.present...), c.heard)
		if j.do != c.do || j.best.ID != c.best.ID || len(j.missing) != c.missing {
			t.Errorf("%s: %+v", c.what, j)
		}
		for _, s := range c.heard {
			if j.term <= s.Term && s.state != standUnheard || c.missing > 0 && j.term < unheardTerms {
				t.Errorf("%s: term %d, seen %d", c.what, j.term, s.Term)
			}
		}
		if c.best.ID != 0 && j.last != c.heard[c.best.ID].end() {
			t.Errorf("%s: %+v", c.what, j)
		}
		// Whoever decides, decides alike.
		turned := metaReplicas(c.present...)
		slices.Reverse(turned)
		if k := judge(turned, c.heard); k.do != j.do || k.last != j.last || k.term != j.term {
			t.Errorf("%s: %+v, in another order %+v", c.what, j, k)
		}
	}
}

// What the loss event says: how much is known to be lost, and the time before which nothing is.
func TestRule13LossIsBounded(t *testing.T) {
	three := []partition.Replica{r1, r2, r3}
	s := func(end, known, flushed int64) stand {
		x := stand{state: standRests, Standing: partition.Standing{Term: 6, LastTerm: 5, LastIndex: uint64(end), LogEnd: end, Known: known, Voters: three}}
		if flushed > 0 {
			x.Flushed = time.UnixMilli(flushed)
		}
		return x
	}
	for _, c := range []struct {
		what                    string
		heard                   map[uint64]stand
		end, known, since, miss int64
	}{
		{"all", map[uint64]stand{11: s(90, 80, 1000), 12: s(95, 99, 2000), 13: s(91, -1, 3000)}, 95, 99, 1000, 0},
		{"no mark survived", map[uint64]stand{11: s(90, -1, 0), 12: s(95, -1, 0), 13: s(91, -1, 0)}, 95, -1, 0, 0},
		{"one cannot prove", map[uint64]stand{11: s(90, -1, 0), 12: s(95, 80, 2000), 13: s(91, 80, 2000)}, 95, 80, 0, 0},
		{"one is missing: two of three meet every majority", map[uint64]stand{11: s(90, 80, 1000), 12: s(95, 99, 2000)}, 95, 99, 1000, 1},
		{"two are missing: they may have acknowledged all of it", map[uint64]stand{11: s(90, 80, 1000)}, 90, 80, 0, 2},
	} {
		l := judge(metaReplicas(three...), c.heard).loss
		if l.LogEnd != c.end || l.Known != c.known || l.Since != c.since || int64(l.Unheard) != c.miss {
			t.Errorf("%s: %+v", c.what, l)
		}
	}
}

func TestStandsOnTheWire(t *testing.T) {
	in := []stand{
		{},
		{state: standRuns, Standing: partition.Standing{Known: -1}},
		{state: standRests, Standing: partition.Standing{
			Term: 9, LastTerm: 8, LastIndex: 300, LogEnd: 200, Known: 250, Flushed: time.UnixMilli(1234), Voters: []partition.Replica{r1, {Node: 7, ID: 1 << 40}},
		}},
	}
	var b []byte
	for _, s := range in {
		b = s.encode(b)
	}
	out, err := decodeStands(b)
	if err != nil || fmt.Sprint(out) != fmt.Sprint(in) {
		t.Errorf("%v, %v", out, err)
	}
	for n := range len(b) - 1 {
		if out, err := decodeStands(b[:n]); err == nil && len(out) >= len(in) {
			t.Errorf("%d of %d bytes are taken for all", n, len(b))
		}
	}
	for _, bad := range [][]byte{{9}, append([]byte{byte(standRuns), 1, 1, 1, 1, 1, 1}, 200, 1)} {
		if _, err := decodeStands(bad); err == nil {
			t.Errorf("%x is taken", bad)
		}
	}
}
