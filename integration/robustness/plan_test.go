//go:build robustness

package main

import (
	"testing"
)

// A seed and a round say everything: the same plan each time, another one for another seed.
func TestPlansReplay(t *testing.T) {
	all := kinds()
	same := func(a, b plan) bool {
		if a.String() != b.String() || len(a.steps) != len(b.steps) {
			return false
		}
		for i := range a.steps {
			if a.steps[i] != b.steps[i] {
				return false
			}
		}
		return true
	}
	for round := range 100 {
		if !same(newPlan(1, round, all), newPlan(1, round, all)) {
			t.Fatalf("round %d differs from itself", round)
		}
		if same(newPlan(1, round, all), newPlan(2, round, all)) {
			t.Fatalf("round %d is the same under two seeds", round)
		}
	}
}

// Damage of a round hits one broker only, nothing overlaps a kind that stands alone, and every kind gets its turn.
func TestPlansKeepTheirLimits(t *testing.T) {
	all := kinds()
	turns := map[string]int{}
	for round := range 2 * len(all) {
		p := newPlan(3, round, all)
		victim := 0
		for _, s := range p.steps {
			if s.overlap && s.kind.alone {
				t.Fatalf("%v: %s overlaps", p, s.kind.name)
			}
			if s.hold < s.kind.least || s.hold > s.kind.most {
				t.Fatalf("%v: %s held for %v", p, s.kind.name, s.hold)
			}
			if s.kind.damages && (s.node == 0 || victim != 0 && victim != s.node) {
				t.Fatalf("%v: damage at %d and %d", p, victim, s.node)
			}
			if s.kind.damages {
				victim = s.node
			}
		}
		turns[p.kinds[0].name]++
	}
	for _, k := range all {
		if turns[k.name] != 2 {
			t.Errorf("%s has %d turns of 2", k.name, turns[k.name])
		}
	}
}
