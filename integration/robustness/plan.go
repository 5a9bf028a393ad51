//go:build robustness

package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// step is one fault of a plan. All that is random about it is drawn when the plan is made, so that a seed replays it.
type step struct {
	kind      *kind
	node      int // 1 to 3; 0: whoever leads partition when it begins
	other     int // 1 or 2: how far behind node the other broker of a link is
	partition int32
	pause     time.Duration // before it
	hold      time.Duration // from its begin to its end
	overlap   bool          // the next one begins before this one ends
	seed      uint64        // for what the kind draws by itself
}

func (s step) rng() *rand.Rand { return rand.New(rand.NewPCG(s.seed, 1)) }

// plan is what a round does.
type plan struct {
	round int
	kinds []*kind
	steps []step
}

// partitions and brokers of every round.
const (
	brokers    = 3
	partitions = 3
	maxSteps   = 200
)

// newPlan draws a round: most have one kind of fault, some mix three that may overlap.
func newPlan(seed uint64, round int, from []*kind) plan {
	rng := rand.New(rand.NewPCG(seed, uint64(round)))
	p := plan{round: round}
	// The kinds take turns, each seed in an order of its own.
	order := rand.New(rand.NewPCG(seed, math.MaxUint64)).Perm(len(from))
	p.kinds = []*kind{from[order[round%len(from)]]}
	mixed := round%4 == 3 && len(from) > 3
	for mixed && len(p.kinds) < 3 {
		if k := from[rng.IntN(len(from))]; !slices.Contains(p.kinds, k) {
			p.kinds = append(p.kinds, k)
		}
	}
	// Damage may lie unseen until its bytes are read: all of a round is done to one broker, a minority, and the next
	// round has a new topic.
	victim := 1 + rng.IntN(brokers)
	for range maxSteps {
		k := p.kinds[rng.IntN(len(p.kinds))]
		s := step{
			kind: k, node: rng.IntN(brokers + 1), other: 1 + rng.IntN(brokers-1), partition: rng.Int32N(partitions),
			pause: between(rng, 5*time.Millisecond, 200*time.Millisecond), hold: between(rng, k.least, k.most), seed: rng.Uint64(),
		}
		if k.damages {
			s.node = victim
		}
		s.overlap = mixed && !k.alone && rng.IntN(2) == 0
		p.steps = append(p.steps, s)
	}
	return p
}

// between draws from a range, evenly by order of magnitude: short ones are as frequent as long ones.
func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	if least >= most {
		return least
	}
	return time.Duration(float64(least) * math.Pow(float64(most)/float64(least), rng.Float64()))
}

func (p plan) String() string {
	var names []string
	for _, k := range p.kinds {
		names = append(names, k.name)
	}
	return fmt.Sprintf("round %d: %v", p.round, names)
}
