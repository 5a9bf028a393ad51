package cluster

import (
	"testing"
	"time"

	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// Rule 14: produce is refused below the mark, and taken again only when there is clearly more.
func TestRule14DiskGuard(t *testing.T) {
	fs := crashfs.New(1)
	d := &diskGuard{fs: fs, dir: "/", minFree: func(int64) int64 { return 1000 }}
	for i, c := range []struct {
		space int64
		full  bool
	}{{1000, false}, {999, true}, {1000, true}, {1249, true}, {1250, false}, {1000, false}, {0, true}, {5000, false}} {
		fs.SetSpace(c.space)
		if _, _, err := d.check(); err != nil || d.isFull() != c.full {
			t.Errorf("%d: %d bytes free, full: %v, want %v (%v)", i, c.space, d.isFull(), c.full, err)
		}
	}
	// Near the mark an append does not wait for the next look.
	fs.SetSpace(0)
	time.Sleep(2 * diskCheckTight)
	if !d.isFull() || !d.isTight() {
		t.Error("the disk filled up between two looks, and produce is taken")
	}
}

// Rule 18: the defaults of the one table fit one another.
func TestRule18TimingsFit(t *testing.T) {
	d := Timing{}.withDefaults()
	for what, ok := range map[string]bool{
		"the lease is at most half the heartbeat timeout":         2*d.Lease <= d.Heartbeat && d.Heartbeat <= d.Election,
		"some pings fit into the silence":                         4*d.Ping <= d.Silence,
		"a broker is not fenced before its silence counts":        d.Silence <= d.FenceAfter,
		"a probe's answer is awaited for less than the interval":  d.GossipProbeTimeout < d.GossipProbeInterval,
		"a round ends before its candidates are given up":         d.RoundTimeout < d.CandidateGrace,
		"the best has stood before the second best does":          d.RoundRetry < d.DeferFor && d.DeferFor < d.CandidateGrace,
		"a stuck candidate is found before Raft's own timer ends": d.CandidateGrace < d.CandidateStuck && 2*d.CandidateStuck < d.Election,
		"the preferred leader stands first after a cold start":    d.ColdPreferred < d.ColdOther,
	} {
		if !ok {
			t.Errorf("not so: %s: %+v", what, d)
		}
	}
}
