//go:build robustness

package main

import (
	"fmt"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

// flapping is what one cut link did to leadership.
type flapping struct {
	Seconds    float64 `json:"seconds"`
	Partitions int     `json:"partitions"`
	Terms      int     `json:"terms"`
	PerHour    float64 `json:"terms_per_hour"`
}

// maxFlaps is how many terms one cut link may begin on a partition, however long it is cut: the one that moves the
// leadership to where it stays, and the one by which it comes home when the link is whole again.
const maxFlaps = 2

// flap cuts one link for length under load and counts terms.
func (e *environment) flap(length time.Duration) error {
	e.topic = "flap"
	e.sum.log("one link is cut for %v", length)
	if err := e.createTopic(e.topic, partitions); err != nil {
		return err
	}
	var err error
	e.load, err = e.c.StartLoad(e.topic, partitions, harness.LoadOptions{Pace: 2 * time.Millisecond})
	if err != nil {
		return err
	}
	defer func() { _ = e.load.Stop(stuckWrites) }()
	if err := e.load.WaitAcks(e.timeout(stuckWrites)); err != nil {
		return violated(err, "a partition takes no writes")
	}
	before, err := e.epochs()
	if err != nil {
		return err
	}
	undo, err := e.net.Apply(e.net.LinkRules(1, 2))
	if err != nil {
		return err
	}
	begin := time.Now()
	e.sleep(length)
	took := time.Since(begin)
	if err := undo(); err != nil {
		return err
	}
	if err := e.load.WaitAcks(e.timeout(stuckWrites)); err != nil {
		return violated(err, "a partition is stuck after a cut link")
	}
	after, err := e.epochs()
	if err != nil {
		return err
	}
	f := &flapping{Seconds: took.Seconds(), Partitions: partitions}
	for p, epoch := range after {
		terms := int(epoch - before[p])
		f.Terms += terms
		if terms > maxFlaps {
			err = violated(nil, "partition %d began %d terms in %v of one cut link", p, terms, took.Round(time.Second))
		}
	}
	f.PerHour = float64(f.Terms) * 3600 / took.Seconds()
	e.sum.Flap = f
	e.sum.log("%d terms", f.Terms)
	if err != nil {
		return err
	}
	return e.deleteTopics(e.topic)
}

// epochs asks for the leader epoch of every partition.
func (e *environment) epochs() (map[int32]int32, error) {
	out := map[int32]int32{}
	for p := range int32(partitions) {
		if _, err := e.c.Leader(e.timeout(stuckWrites), e.topic, p); err != nil {
			return nil, err
		}
		_, epoch, err := e.c.LeaderEpoch(e.timeout(stuckWrites), e.topic, p)
		if err != nil {
			return nil, fmt.Errorf("epoch of partition %d: %w", p, err)
		}
		out[p] = epoch
	}
	return out, nil
}
