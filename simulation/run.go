//go:build linux

package simulation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Plan of one simulation.
type Plan struct {
	Options
	Length     time.Duration // of the faults
	MeanGap    time.Duration // between faults
	Partitions int32
	Pace       time.Duration // of each producer
	Schedule   []Fault       // nil: that of the seed
}

// heals bounds, in simulated time, how long a cluster may take to be whole and writable when all faults are over.
const heals = 5 * time.Minute

// Report of one simulation.
type Report struct {
	Seed       uint64
	Brokers    int
	Policy     string
	Simulated  time.Duration
	Faults     map[Kind]int
	Acked      int // records
	Operations int // of the history
	Terms      int // sum of the partitions' last terms: how often somebody stood
	Bad        []string
	Log        []string // what the nemesis did
}

// Run carries a plan out, inside a synctest bubble. An error means that the simulation itself could not be done.
func Run(p Plan) (Report, error) {
	r := Report{Seed: p.Seed, Brokers: p.Brokers, Policy: p.Policy}
	c, err := New(p.Options)
	if err != nil {
		return r, err
	}
	err = r.run(c, p)
	r.Simulated = c.Now()
	err = errors.Join(err, c.Close())
	// Time ends with the bubble's first goroutine: what waits for a time limit of its own gets there before.
	time.Sleep(5 * time.Minute)
	return r, err
}

func (r *Report) run(c *Cluster, p Plan) error {
	if err := c.WaitReady(heals); err != nil {
		return fmt.Errorf("the cluster does not form: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), heals)
	defer cancel()
	topic, err := c.CreateTopic(ctx, "orders", p.Partitions)
	if err != nil {
		return err
	}
	load := c.StartLoad(topic, 1, p.Pace)
	var churn sync.WaitGroup
	stop := make(chan struct{})
	churn.Go(func() { c.churn(stop) })
	schedule := p.Schedule
	if schedule == nil {
		schedule = Schedule(p.Seed, p.Brokers, p.Policy, p.Length, p.MeanGap)
	}
	nemesis := c.StartNemesis(load, schedule)
	time.Sleep(p.Length)
	nemesis.Wait()
	close(stop)
	churn.Wait()
	r.Faults, r.Log = nemesis.Counts(), nemesis.Log()
	if err := c.Heal(); err != nil {
		r.Bad = append(r.Bad, "stuck: "+err.Error())
	}
	if err := load.Finish(heals); err != nil {
		r.Bad = append(r.Bad, fmt.Sprintf("stuck: %v (%v)", err, c.Whole(topic.ID)))
	}
	if len(r.Bad) == 0 {
		r.Bad = load.Verify(heals)
		if err := c.WaitDeleted(topic.ID, heals); err != nil {
			r.Bad = append(r.Bad, "stuck: topics are not deleted: "+err.Error())
		}
		for part := range p.Partitions {
			if _, p, err := c.leading(topic.ID, part); err == nil {
				r.Terms += int(p.Status().Term)
			}
		}
	} else {
		r.Bad = append(r.Bad, load.Violations()...)
	}
	r.Bad = append(r.Bad, nemesis.Errors()...)
	r.Acked, r.Operations = load.History.Count(), load.History.Operations()
	return nil
}

// String sums the report up; the schedule's log is there when something was wrong.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %d brokers, %s: %v simulated, %d records acknowledged, %d operations, %d terms, faults:", r.Seed, r.Brokers, r.Policy,
		r.Simulated.Round(time.Second), r.Acked, r.Operations, r.Terms)
	for _, k := range slices.Sorted(maps.Keys(r.Faults)) {
		fmt.Fprintf(&b, " %s %d,", k, r.Faults[k])
	}
	if len(r.Bad) == 0 {
		return strings.TrimSuffix(b.String(), ",")
	}
	fmt.Fprintf(&b, "\n%d VIOLATIONS:\n", len(r.Bad))
	for _, v := range r.Bad {
		fmt.Fprintf(&b, "  %s\n", v)
	}
	fmt.Fprintf(&b, "what was done:\n")
	for _, l := range r.Log {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	return b.String()
}
