package cluster

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"
)

// Rule 19: whose clock is to be trusted. Offsets are the peers' clocks minus this one's.
func TestRule19ClockOfAMajority(t *testing.T) {
	const far = time.Hour
	for _, c := range []struct {
		what    string
		offsets []time.Duration
		unasked int
		trusted bool
	}{
		{"alone", nil, 0, true},
		{"all agree", []time.Duration{time.Second, -time.Second}, 0, true},
		{"one of three is far", []time.Duration{far, 0}, 0, true},
		{"this one of three is far", []time.Duration{far, far}, 0, false},
		{"this one is far in the other direction", []time.Duration{-far, -far}, 0, false},
		{"two that differ", []time.Duration{far}, 0, false},
		{"two and two", []time.Duration{0, far, far}, 0, false},
		{"three of five", []time.Duration{0, 0, far, far}, 0, true},
		{"each has its own", []time.Duration{far, -far}, 0, false},
		{"nobody was asked yet", nil, 2, false},
		{"one was asked", []time.Duration{0}, 1, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var peers []int32
			g := &clockGuard{limit: func() time.Duration { return 5 * time.Minute }, alive: func() []int32 { return peers }, peers: make(map[int32]clockSample)}
			for i, o := range c.offsets {
				sent := time.Now()
				time.Sleep(40 * time.Millisecond) // there
				answer := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Add(o).UnixMicro()))
				time.Sleep(40 * time.Millisecond) // and back
				if err := g.heard(int32(i), answer, sent); err != nil {
					t.Fatal(err)
				}
				peers = append(peers, int32(i))
				if got, _ := g.peers[int32(i)].offset(time.Now()); (got - o).Abs() > time.Millisecond {
					t.Errorf("%s: offset %v measured as %v", c.what, o, got)
				}
			}
			for i := range c.unasked {
				peers = append(peers, int32(100+i))
			}
			time.Sleep(time.Hour) // clocks go on
			if err := g.trusted(time.Now()); (err == nil) != c.trusted {
				t.Errorf("%s: %v", c.what, err)
			}
			if len(peers) > 0 && c.unasked == 0 {
				if err := g.trusted(time.Now().Add(24 * time.Hour)); err == nil {
					t.Errorf("%s: a jump of the own clock, unnoticed", c.what)
				}
			}
			g.limit = func() time.Duration { return 0 }
			if err := g.trusted(time.Now().Add(24 * time.Hour)); err != nil {
				t.Errorf("%s: without a limit: %v", c.what, err)
			}
		})
	}
}
