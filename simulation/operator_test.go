//go:build linux

package simulation

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
)

// Rule 13: under `fsync` nothing is given up by itself. Two of a partition's three brokers are gone for good: it waits; an
// operator sees what would be lost, accepts it, and the third goes on with all that it has.
func TestRule13OperatorDecides(t *testing.T) {
	dir := tempDir(t)
	synctest.Test(t, func(t *testing.T) {
		c := startCluster(t, Options{Seed: 5, Brokers: 5, Dir: dir, Policy: "fsync"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		topics, errs := c.any().CreateTopics(ctx, []cluster.TopicSpec{{Name: "orders", Partitions: -1, ReplicationFactor: -1, Assignment: map[int32][]int32{0: {5, 1, 4}}}}, false)
		if errs[0] != nil {
			t.Fatal(errs[0])
		}
		topic := topics[0]
		w := &writer{}
		write := func() {
			stop, ended := make(chan struct{}), make(chan struct{})
			go func() {
				w.run(c, topic.ID, 0, stop)
				close(ended)
			}()
			time.Sleep(10 * time.Second)
			close(stop)
			<-ended
		}
		write()
		n, _ := c.Brokers[0].Node()
		plan, err := n.RecoverPartition(ctx, "orders", 0, -1, true)
		if err != nil || plan.Refused == "" || plan.Chosen {
			t.Fatalf("a partition that is led: %+v, %v", plan, err)
		}
		for _, b := range c.Brokers[3:] {
			if err := b.Kill(true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Minute) // the controller finds other voters
		}
		if _, mp, _ := n.Image().Lookup(topic.ID, 0); mp.Recovery != nil || mp.Losses > 0 {
			t.Fatalf("something was chosen for a topic that is `fsync`: %+v", mp)
		}
		other, _ := c.Brokers[1].Node() // any broker will do
		if plan, err = other.RecoverPartition(ctx, "orders", 0, -1, false); err != nil || plan.Choice != 1 || plan.Chosen || plan.Loss.Unheard != 2 || plan.Loss.AtMost != "unknown" {
			t.Fatalf("%+v, %v", plan, err)
		}
		if p, err := other.RecoverPartition(ctx, "orders", 0, 2, true); err != nil || p.Refused == "" {
			t.Fatalf("a broker without a replica: %+v, %v", p, err)
		}
		if plan, err = other.RecoverPartition(ctx, "orders", 0, 1, true); err != nil || !plan.Chosen {
			t.Fatalf("%+v, %v", plan, err)
		}
		led := func() error {
			_, _, err := c.leading(topic.ID, 0)
			return err
		}
		if err := c.wait(time.Minute, led); err != nil {
			t.Fatal(err)
		}
		write()
		// Those that are gone come back after all: their logs count no more.
		for _, b := range c.Brokers[3:] {
			if err := b.Start(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.wait(heals, func() error { return c.Whole(topic.ID) }); err != nil {
			t.Fatal(err)
		}
		var mp *meta.Partition
		if _, mp, _ = c.any().Image().Lookup(topic.ID, 0); mp.Losses != 1 || mp.Loss.Unheard != 2 {
			t.Fatalf("%+v", mp)
		}
		unheard := *mp
		loss := *mp.Loss
		loss.Unheard = 0
		unheard.Loss = &loss
		t.Logf("%d records lost", w.check(t, c, topic.ID, &unheard))
	})
}
