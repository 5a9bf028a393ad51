//go:build linux

package simulation

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/integration/history"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol/record"
)

// written is a record that was acknowledged.
type written struct {
	offset int64
	value  string
	at     time.Time
}

// writer appends one record after another to a partition and remembers what was acknowledged.
type writer struct{ acked []written }

func (w *writer) run(c *Cluster, topic meta.TopicID, part int32, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(c.between(0, 20*time.Millisecond)):
		}
		_, n, down, _ := c.leader(topic, part)
		if n == nil {
			continue
		}
		p, ok := n.Partition(topic, part)
		if !ok {
			continue
		}
		b := record.Builder{}
		value := fmt.Sprintf("partition %d, record %d", part, i)
		b.Add(time.Now().UnixMilli(), nil, []byte(value))
		answer := make(chan partition.AppendResult, 1)
		go func() { answer <- p.Append(b.Build(), -1, time.Second).Result() }()
		select {
		case <-down:
		case r := <-answer:
			select {
			case <-down: // it did not get out
				continue
			default:
			}
			if r.Err == nil {
				w.acked = append(w.acked, written{r.BaseOffset, value, time.Now()})
			}
		}
	}
}

// TestRule13PowerLoss is the power part of the identity matrix: one, two or three of three brokers lose power at once and
// come back, under both policies. Under `fsync` nothing is missing. Under `replicated` every partition is writable and
// whole again by itself, a minority costs nothing, and otherwise only a tail is missing: what the loss event says, and
// nothing that was acknowledged before the time that it names.
func TestRule13PowerLoss(t *testing.T) {
	for _, policy := range []string{"fsync", "replicated"} {
		for count := 1; count <= 3; count++ {
			t.Run(fmt.Sprintf("%s, %d of 3", policy, count), func(t *testing.T) {
				seeds := uint64(1)
				if os.Getenv("BALSA_SIM_HOURS") != "" {
					seeds = 20
				}
				lost := 0
				for seed := range seeds {
					dir := tempDir(t)
					synctest.Test(t, func(t *testing.T) { lost += losePower(t, dir, policy, count, seed) })
				}
				t.Logf("%d acknowledged records were lost", lost)
				if policy == "replicated" && count == 3 && lost == 0 && seeds > 1 {
					t.Error("nothing was lost: the crash was none")
				}
			})
		}
	}
}

func losePower(t *testing.T, dir, policy string, count int, seed uint64) (lost int) {
	c := startCluster(t, Options{Seed: seed, Brokers: 3, Dir: dir, Policy: policy})
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("seed %d: %s: %v", seed, what, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), heals)
	defer cancel()
	const partitions = 4
	topic, err := c.CreateTopic(ctx, "orders", partitions)
	must("create", err)
	stop := make(chan struct{})
	writers := make([]*writer, partitions)
	var wg sync.WaitGroup
	for i := range writers {
		writers[i] = &writer{}
		wg.Go(func() { writers[i].run(c, topic.ID, int32(i), stop) })
	}
	time.Sleep(c.between(12*time.Second, 20*time.Second))
	for _, b := range c.Brokers[:count] {
		must("power", b.Kill(true))
	}
	for _, b := range c.Brokers[:count] {
		time.Sleep(c.between(0, 3*time.Second))
		must("start again", b.Start())
	}
	back := time.Now()
	must("whole again", c.wait(heals, func() error { return c.Whole(topic.ID) }))
	t.Logf("seed %d: whole after %v", seed, time.Since(back).Round(time.Millisecond))
	time.Sleep(2 * time.Second)
	close(stop)
	wg.Wait()
	img := c.any().Image()
	for part := range int32(partitions) {
		_, mp, _ := img.Lookup(topic.ID, part)
		lost += writers[part].check(t, c, topic.ID, mp)
		if count == 1 && mp.Losses > 0 || policy == "fsync" && mp.Losses > 0 {
			t.Errorf("seed %d: partition %d: a loss event: %+v", seed, part, mp.Loss)
		}
	}
	if lost > 0 && (policy == "fsync" || count == 1) {
		t.Errorf("seed %d: %d acknowledged records are lost", seed, lost)
	}
	return lost
}

// check compares a partition with what was acknowledged, and returns how much of that is lost.
func (w *writer) check(t *testing.T, c *Cluster, topic meta.TopicID, mp *meta.Partition) (lost int) {
	t.Helper()
	log := readAll(t, c, topic, mp.ID)
	later := 0
	for _, x := range w.acked {
		if log[x.offset] == x.value {
			if mp.Loss != nil && x.at.UnixMilli() > mp.Loss.At {
				later++
			}
			continue
		}
		lost++
		switch {
		case mp.Loss == nil:
			t.Errorf("partition %d: offset %d is lost, and no event says so", mp.ID, x.offset)
		case x.offset < mp.Loss.LogEnd:
			t.Errorf("partition %d: offset %d is lost, below the end %d of what is left", mp.ID, x.offset, mp.Loss.LogEnd)
		case x.at.UnixMilli() < mp.Loss.Since:
			t.Errorf("partition %d: offset %d is lost, acknowledged at %v, before %v", mp.ID, x.offset, x.at, time.UnixMilli(mp.Loss.Since))
		}
	}
	if mp.Loss != nil {
		if mp.Losses != 1 || mp.Loss.Unheard != 0 {
			t.Errorf("partition %d: %d events, the last: %+v", mp.ID, mp.Losses, mp.Loss)
		}
		if later == 0 {
			t.Errorf("partition %d: nothing was written after the recovery", mp.ID)
		}
		t.Logf("partition %d: %d records lost from offset %d on; known %d, since %v", mp.ID, lost, mp.Loss.LogEnd, mp.Loss.Known, time.UnixMilli(mp.Loss.Since))
	}
	return lost
}

// TestRule13PowerAgain: all lose power under `replicated`, and while they come back brokers are killed, lose power again or
// start late, the one that has the controller among them. In the end every partition is whole and writable, and of what was
// acknowledged before only a tail is missing.
func TestRule13PowerAgain(t *testing.T) {
	seeds := uint64(2)
	if os.Getenv("BALSA_SIM_HOURS") != "" {
		seeds = 30
	}
	for seed := range seeds {
		dir := tempDir(t)
		synctest.Test(t, func(t *testing.T) { losePowerAgain(t, dir, seed) })
	}
}

func losePowerAgain(t *testing.T, dir string, seed uint64) {
	c := startCluster(t, Options{Seed: seed, Brokers: 3, Dir: dir, Policy: "replicated"})
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("seed %d: %s: %v", seed, what, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), heals)
	defer cancel()
	const partitions = 4
	topic, err := c.CreateTopic(ctx, "orders", partitions)
	must("create", err)
	stop := make(chan struct{})
	writers := make([]*writer, partitions)
	var wg sync.WaitGroup
	for i := range writers {
		writers[i] = &writer{}
		wg.Go(func() { writers[i].run(c, topic.ID, int32(i), stop) })
	}
	time.Sleep(c.between(5*time.Second, 15*time.Second))
	for _, b := range c.Brokers {
		must("power", b.Kill(true))
	}
	close(stop)
	wg.Wait()
	for range 12 {
		b := c.Brokers[c.intN(3)]
		if n, _ := b.Node(); n != nil {
			must("down", b.Kill(c.intN(2) == 0))
		} else {
			must("up", b.Start())
		}
		time.Sleep(c.between(0, 1500*time.Millisecond))
	}
	must("heal", c.Heal())
	must("whole again", c.wait(heals, func() error { return c.Whole(topic.ID) }))
	img := c.any().Image()
	for part, w := range writers {
		_, mp, _ := img.Lookup(topic.ID, int32(part))
		log := readAll(t, c, topic.ID, mp.ID)
		first, lost := int64(-1), 0
		for _, x := range w.acked { // in the order of their offsets
			switch {
			case log[x.offset] != x.value:
				lost++
				if first < 0 {
					first = x.offset
				}
			case first >= 0:
				t.Errorf("seed %d: partition %d: offset %d is lost and %d, behind it, is not", seed, part, first, x.offset)
			}
		}
		if lost > 0 && mp.Losses == 0 {
			t.Errorf("seed %d: partition %d: offset %d is lost, and no event says so", seed, part, first)
		}
		_, p, err := c.leading(topic.ID, mp.ID)
		must("leader", err)
		b := record.Builder{}
		b.Add(0, nil, []byte("again"))
		must("append", p.Append(b.Build(), -1, time.Minute).Result().Err)
		t.Logf("seed %d: partition %d: %d of %d lost, %d events", seed, part, lost, len(w.acked), mp.Losses)
	}
}

// readAll is what a partition's leader has, by offset.
func readAll(t *testing.T, c *Cluster, topic meta.TopicID, part int32) map[int64]string {
	t.Helper()
	_, p, err := c.leading(topic, part)
	if err != nil {
		t.Fatal(err)
	}
	log := map[int64]string{}
	for next := int64(0); next < p.HighWatermark(); {
		var got []history.Final
		if got, err = readAt(p, next, -1); err != nil || len(got) == 0 {
			t.Fatal(err)
		}
		for _, x := range got {
			log[x.Offset] = string(x.Value)
			next = x.Offset + 1
		}
	}
	return log
}
