package cluster

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/balsa-broker/balsa/partition"
)

// scrub is the background check of what the replicas here keep: one after another, at most so many bytes per second.
// What it finds goes the way of all damage (repair.go).
type scrub struct {
	bytes  atomic.Uint64
	passes atomic.Uint64
	last   atomic.Int64 // when the last pass ended, in s since 1970; 0: none did
	done   atomic.Int64 // replicas of the pass under way
}

const (
	scrubTick    = 100 * time.Millisecond
	minScrubRate = 64 << 10
)

// scrubLoop begins a pass some time after the start, and then one in each interval. The settings may change at any time.
func (n *Node) scrubLoop(ctx context.Context) {
	began, wait := time.Now(), n.timing.ScrubDelay
	for sleep(ctx, min(max(wait-time.Since(began), time.Second), time.Minute)) {
		if time.Since(began) < wait || n.Config().ScrubBytesPerSecond() == 0 {
			continue
		}
		began = time.Now()
		_ = n.scrubPass(ctx)
		wait = n.Config().ScrubInterval()
	}
}

// scrubPass checks every replica that is open, the same order each time. Its error is ctx's.
func (n *Node) scrubPass(ctx context.Context) error {
	n.scrub.done.Store(0)
	pace := n.scrubPace(ctx)
	open := n.replicas.open()
	slices.SortFunc(open, func(a, b *replica) int { return cmp.Compare(a.self.ID, b.self.ID) })
	for _, r := range open {
		if p := r.partition(); p != nil {
			if err := p.Scrub(pace); err != nil && ctx.Err() == nil && !errors.Is(err, partition.ErrClosed) {
				n.log.Warn("Scrubbing a replica", "topic", r.topic, "partition", r.key.part, "replica", raftAddress(r.self), "err", err)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.scrub.done.Add(1)
	}
	n.scrub.passes.Add(1)
	n.scrub.last.Store(time.Now().Unix())
	return nil
}

// scrubPace keeps the scrub to its rate: it waits when more was read than a tick is worth.
func (n *Node) scrubPace(ctx context.Context) func(bytes int) error {
	owed := time.Duration(0)
	return func(bytes int) error {
		n.scrub.bytes.Add(uint64(bytes))
		rate := max(n.Config().ScrubBytesPerSecond(), minScrubRate)
		owed += time.Duration(float64(bytes) / float64(rate) * float64(time.Second))
		if owed >= scrubTick {
			sleep(ctx, owed)
			owed = 0
		}
		return ctx.Err()
	}
}
