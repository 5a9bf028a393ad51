package cluster

import (
	"time"

	"github.com/balsa-broker/balsa/cluster/controller"
	"github.com/balsa-broker/balsa/partition"
)

// Timing is every time setting of a broker's part in the cluster, in one place (safety rule 18). The zero value of a
// field means the default. docs/design/timing.md adds them up to the promised failover times.
type Timing struct {
	// Raft's of a partition group. Failure detection is not theirs: they are slow so that a thousand groups idle.
	Heartbeat, Election, Lease, Commit time.Duration

	// Repeat is how often an idle leader tells a follower that knows the commit index the same again; Gather the
	// interval in which heartbeats and the like are gathered into one write to a broker.
	Repeat, Gather time.Duration

	// Controller group: its own, faster, timers.
	Controller controller.Timing

	// Gossip: silence becomes "failed" after about a probe round, one interval and the suspicion.
	GossipProbeInterval    time.Duration
	GossipProbeTimeout     time.Duration
	GossipSuspicionMult    int
	GossipSuspicionMaxMult int

	// Ping is how often each broker says on its connection to every other that it lives; Silence is how long none may
	// come before gossip's "failed" is believed: a busy broker that gossip lost but that still talks is not gone.
	Ping, Silence time.Duration

	// The failover driver: a round's call is given up after RoundTimeout; a round that could not decide is repeated
	// after RoundRetry; a candidate is left alone for CandidateGrace, and one that is still one after CandidateStuck is
	// restarted (Raft's own timer would take 10 to 20 s); the second best waits DeferFor for the best.
	RoundTimeout, RoundRetry, CandidateGrace, CandidateStuck, DeferFor time.Duration
	// ColdPreferred and ColdOther: how long after opening a replica that knows no leader asks for one, the preferred
	// leader and the others. Scan is how often all local replicas are looked at.
	ColdPreferred, ColdOther, Scan time.Duration

	// Announce batches leader announcements; ISRAnnounce is how often changed in-sync sets are told; AntiEntropy is how
	// often the tables are compared.
	Announce, ISRAnnounce, AntiEntropy time.Duration

	// FenceAfter is how long a broker is silent before the controller marks it fenced; Duties is the controller's step.
	FenceAfter, Duties time.Duration

	// Members is the step of membership changes of the groups led here.
	Members time.Duration

	// Repair is the step of looking after replicas that stopped or do not open.
	Repair time.Duration
	// Recovery is the step of bringing back partitions that lost power.
	Recovery time.Duration

	// ScrubDelay is the time from the start to the first pass of the scrub.
	ScrubDelay time.Duration
	// Clock is how often the peers' wall clocks are asked for.
	Clock time.Duration

	// Retention and Rebalance: log.retention.check.interval.ms and leader.imbalance.check.interval.seconds.
	Retention, Rebalance time.Duration
}

func (t Timing) withDefaults() Timing {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&t.Heartbeat, 10*time.Second)
	def(&t.Election, 10*time.Second)
	def(&t.Lease, 5*time.Second)
	def(&t.Commit, 2*time.Second)
	def(&t.Repeat, 10*time.Second)
	def(&t.Gather, 100*time.Millisecond)
	// A busy disk or processor holds a controller up for a second now and then; a dead one is replaced by
	// replaceController, not by this timer.
	def(&t.Controller.Heartbeat, 2*time.Second)
	def(&t.GossipProbeInterval, 500*time.Millisecond)
	def(&t.GossipProbeTimeout, 250*time.Millisecond)
	if t.GossipSuspicionMult == 0 {
		// A false alarm costs nothing by itself: silence on our own connections must say the same.
		t.GossipSuspicionMult = 2
	}
	if t.GossipSuspicionMaxMult == 0 {
		t.GossipSuspicionMaxMult = 2
	}
	def(&t.Ping, 250*time.Millisecond)
	def(&t.Silence, 1500*time.Millisecond)
	def(&t.RoundTimeout, 250*time.Millisecond)
	def(&t.RoundRetry, 30*time.Millisecond)
	def(&t.CandidateGrace, 500*time.Millisecond)
	def(&t.CandidateStuck, 2*time.Second)
	def(&t.DeferFor, 150*time.Millisecond)
	def(&t.ColdPreferred, 10*time.Millisecond)
	def(&t.ColdOther, 400*time.Millisecond)
	def(&t.Scan, 500*time.Millisecond)
	def(&t.Announce, 2*time.Millisecond)
	def(&t.ISRAnnounce, time.Second)
	def(&t.AntiEntropy, 3*time.Second)
	def(&t.FenceAfter, 2*time.Second)
	def(&t.Duties, 500*time.Millisecond)
	def(&t.Members, 500*time.Millisecond)
	def(&t.Repair, 500*time.Millisecond)
	def(&t.Recovery, 500*time.Millisecond)
	def(&t.ScrubDelay, time.Minute)
	def(&t.Clock, 10*time.Second)
	def(&t.Retention, 5*time.Minute)
	def(&t.Rebalance, 5*time.Minute)
	return t
}

func (t Timing) raft() partition.Timing {
	return partition.Timing{Heartbeat: t.Heartbeat, Election: t.Election, Lease: t.Lease, Commit: t.Commit}
}
