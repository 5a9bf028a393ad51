//go:build linux

package simulation

import (
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/controller"
)

// Slower returns the time settings of a cluster that takes its time: all that happens again and again, and with it the
// detection of failures, takes x times as long as by default (docs/design/timing.md). An idle hour of the defaults costs
// seconds of processor time, nearly all of it for probes and pings.
func Slower(x int) cluster.Timing {
	d := func(v time.Duration) time.Duration { return time.Duration(x) * v }
	return cluster.Timing{
		Gather: d(100 * time.Millisecond),
		Controller: controller.Timing{
			Heartbeat: d(2 * time.Second), Lease: d(time.Second), Commit: 250 * time.Millisecond,
		},
		GossipProbeInterval: d(500 * time.Millisecond), GossipProbeTimeout: d(250 * time.Millisecond),
		Ping: d(250 * time.Millisecond), Silence: d(1500 * time.Millisecond),
		Scan: d(500 * time.Millisecond), ISRAnnounce: d(time.Second), AntiEntropy: d(3 * time.Second),
		FenceAfter: d(2 * time.Second), Duties: d(500 * time.Millisecond), Members: d(500 * time.Millisecond),
	}
}
