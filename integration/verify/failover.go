//go:build verify

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

func ready(r *Run) error {
	var s []float64
	for i := range r.rounds(10, 3) {
		c, err := harness.New(harness.Options{Nodes: 1, Dir: filepath.Join(r.dir, fmt.Sprint(i))})
		if err != nil {
			return err
		}
		start := time.Now()
		err = c.Start(r.timeout(20 * time.Second))
		s = append(s, time.Since(start).Seconds())
		c.Close()
		if err != nil {
			return err
		}
	}
	r.most("start to ready, worst", "s", percentile(s, 1), 3, s)
	return nil
}

func stopAll(r *Run) error {
	c, err := r.cluster(3, "cluster")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.CreateTopic(r.timeout(30*time.Second), "stop", 12, 3, nil); err != nil {
		return err
	}
	var s []float64
	for _, n := range c.Nodes {
		start := time.Now()
		if err := n.Stop(); err != nil {
			return err
		}
		s = append(s, time.Since(start).Seconds())
	}
	r.most("SIGTERM to exit, worst of three in turn", "s", percentile(s, 1), 3, s)
	return nil
}

// faultGaps kills or freezes the leader's broker again and again under load and returns the longest time, in
// milliseconds, without an acknowledgement on a partition that it led.
func faultGaps(r *Run, rounds int, fault func(n *harness.Node) error, undo func(n *harness.Node) error) ([]float64, error) {
	const partitions = 6
	c, err := r.cluster(3, "cluster")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.CreateTopic(r.timeout(30*time.Second), "gap", partitions, 3, nil); err != nil {
		return nil, err
	}
	load, err := c.StartLoad("gap", partitions, harness.LoadOptions{Producers: 2, InFlight: 64, Pace: time.Millisecond, Readers: 1})
	if err != nil {
		return nil, err
	}
	if err := load.WaitAcks(r.timeout(20 * time.Second)); err != nil {
		return nil, err
	}
	var gaps []float64
	for i := range rounds {
		p := int32(i % partitions)
		id, err := c.Leader(r.timeout(10*time.Second), "gap", p)
		if err != nil {
			return gaps, err
		}
		n := c.Node(id)
		time.Sleep(300 * time.Millisecond)
		load.ResetGaps()
		if err := fault(n); err != nil {
			return gaps, err
		}
		if err := load.WaitAcks(r.timeout(30 * time.Second)); err != nil {
			return gaps, fmt.Errorf("round %d: %w", i, err)
		}
		time.Sleep(100 * time.Millisecond)
		gaps = append(gaps, float64(load.Gap(p))/1e6)
		if err := undo(n); err != nil {
			return gaps, err
		}
		if err := c.WaitReady(r.timeout(30 * time.Second)); err != nil {
			return gaps, err
		}
		if err := c.WaitInSync(r.timeout(60*time.Second), "gap", p); err != nil {
			return gaps, err
		}
	}
	if err := load.Stop(30 * time.Second); err != nil {
		return gaps, err
	}
	final, err := c.ReadAll(r.timeout(60*time.Second), "gap", partitions)
	if err != nil {
		return gaps, err
	}
	if errs := load.History.Check(final); len(errs) > 0 {
		return gaps, fmt.Errorf("history of %d acknowledged records: %v", load.History.Count(), errs)
	}
	r.info("acknowledged records checked, none lost or doubled", "records", float64(load.History.Count()), nil)
	return gaps, nil
}

func failover(r *Run) error {
	gaps, err := faultGaps(r, r.rounds(50, 5),
		func(n *harness.Node) error { return n.Kill() },
		func(n *harness.Node) error { return n.Start() })
	r.most("write gap after kill -9, median", "ms", percentile(gaps, 0.5), 200, gaps)
	r.most("write gap after kill -9, 99th percentile", "ms", percentile(gaps, 0.99), 1000, nil)
	return err
}

func frozen(r *Run) error {
	gaps, err := faultGaps(r, r.rounds(10, 2),
		func(n *harness.Node) error { return n.Pause() },
		func(n *harness.Node) error { return n.Resume() })
	r.most("write gap after SIGSTOP, worst", "ms", percentile(gaps, 1), 5000, gaps)
	return err
}

// slowLoad starts a light load on a new topic of one partition, "slow", and says who leads it.
func (r *Run) slowLoad(c *harness.Cluster) (load *harness.Load, leader, epoch int32, err error) {
	if err := c.CreateTopic(r.timeout(30*time.Second), "slow", 1, 3, nil); err != nil {
		return nil, -1, -1, err
	}
	load, err = c.StartLoad("slow", 1, harness.LoadOptions{Producers: 1, InFlight: 16, Pace: 5 * time.Millisecond})
	if err != nil {
		return nil, -1, -1, err
	}
	if err := load.WaitAcks(r.timeout(20 * time.Second)); err != nil {
		return nil, -1, -1, err
	}
	leader, epoch, err = c.LeaderEpoch(r.timeout(10*time.Second), "slow", 0)
	return load, leader, epoch, err
}

// slowLeader takes most of the CPU from a leader for a while; its term must not move.
func slowLeader(r *Run) error {
	c, err := r.cluster(3, "cluster")
	if err != nil {
		return err
	}
	defer c.Close()
	load, before, epoch, err := r.slowLoad(c)
	if err != nil {
		return err
	}
	n := c.Node(before)
	end := time.Now().Add(time.Duration(r.rounds(60, 10)) * time.Second)
	for time.Now().Before(end) { // runs one tenth of the time
		if err := syscall.Kill(n.Pid(), syscall.SIGSTOP); err != nil {
			return err
		}
		time.Sleep(180 * time.Millisecond)
		if err := syscall.Kill(n.Pid(), syscall.SIGCONT); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	after, epoch2, err := c.LeaderEpoch(r.timeout(10*time.Second), "slow", 0)
	if err != nil {
		return err
	}
	r.most("terms begun while the leader ran a tenth of the time", "terms", float64(epoch2-epoch), 0, nil)
	if before != after {
		return fmt.Errorf("leadership moved from %d to %d", before, after)
	}
	return load.Stop(30 * time.Second)
}

// slowDisk adds two seconds to each sync of a leader's broker for a while; its term must not move, and writes go on.
func slowDisk(r *Run) error {
	bin, err := harness.BuildFaulty(r.dir)
	if err != nil {
		return err
	}
	c, err := harness.New(harness.Options{Nodes: 3, Dir: filepath.Join(r.dir, "cluster"), Binary: bin})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Start(r.timeout(30 * time.Second)); err != nil {
		return err
	}
	load, before, epoch, err := r.slowLoad(c)
	if err != nil {
		return err
	}
	n := c.Node(before)
	seconds := r.rounds(60, 15)
	acked := load.History.Count()
	load.ResetGaps()
	if err := n.SetFaults(harness.Faults{SyncDelay: 2 * time.Second}); err != nil {
		return err
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	after, epoch2, err := c.LeaderEpoch(r.timeout(10*time.Second), "slow", 0)
	if err != nil {
		return err
	}
	r.info("acknowledged while each sync of the leader took 2 s longer", "records", float64(load.History.Count()-acked), nil)
	r.most("longest write gap meanwhile", "s", load.Gap(0).Seconds(), 10, nil)
	r.most(fmt.Sprintf("terms begun in %d s of such syncs", seconds), "terms", float64(epoch2-epoch), 0, nil)
	if err := n.SetFaults(harness.Faults{}); err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("leadership moved from %d to %d", before, after)
	}
	if err := load.WaitAcks(r.timeout(30 * time.Second)); err != nil {
		return err
	}
	if err := load.Stop(30 * time.Second); err != nil {
		return err
	}
	final, err := c.ReadAll(r.timeout(60*time.Second), "slow", 1)
	if err != nil {
		return err
	}
	if errs := load.History.Check(final); len(errs) > 0 {
		return fmt.Errorf("history of %d acknowledged records: %v", load.History.Count(), errs)
	}
	return nil
}

func dirSize(dir string) int64 {
	var sum int64
	_ = filepath.Walk(dir, func(_ string, i os.FileInfo, err error) error {
		if err == nil {
			if st, ok := i.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
		}
		return nil
	})
	return sum
}
