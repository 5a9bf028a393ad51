//go:build robustness

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

// kind is one kind of fault.
type kind struct {
	name        string
	what        string
	least, most time.Duration // how long it is held
	// alone: it never overlaps another fault.
	alone bool
	// damages: it takes something from one replica, so every replica must be whole before it and is awaited after it.
	damages bool
	// rolled: it needs partitions of more than one segment.
	rolled bool
	// needs says why it cannot be used here, or nil.
	needs func(e *environment) error
	// begin starts the fault at broker n and says what it did; undo ends it.
	begin func(e *environment, s step, n *harness.Node) (undo func() error, did string, err error)
}

// errNothing means that a fault found nothing to act on.
var errNothing = errors.New("nothing to act on")

func noUndo() error { return nil }

func needsNet(e *environment) error  { return e.noNet }
func needsDisk(e *environment) error { return e.noDisk }

func kinds() []*kind {
	ms := time.Millisecond
	all := []*kind{
		{name: "kill", what: "kill -9 of one broker", least: ms, most: 1500 * ms, begin: kill(1)},
		{name: "kill-majority", what: "kill -9 of two brokers", least: ms, most: 1000 * ms, begin: kill(2)},
		{name: "kill-all", what: "kill -9 of all brokers at once", least: ms, most: 500 * ms, alone: true, begin: kill(3)},
		{name: "restart", what: "a broker is stopped (SIGTERM) and started", least: ms, most: 200 * ms, begin: restart},
		{name: "freeze", what: "SIGSTOP of one broker", least: 20 * ms, most: 8000 * ms, begin: freeze},
		{name: "isolate", what: "a broker is cut off from everybody", least: 20 * ms, most: 6000 * ms, needs: needsNet, begin: cut((*harness.Network).IsolateRules)},
		{name: "mute", what: "a broker hears and is not heard", least: 20 * ms, most: 6000 * ms, needs: needsNet, begin: cut((*harness.Network).MuteRules)},
		{name: "cut", what: "one link is cut, both ways", least: 20 * ms, most: 6000 * ms, needs: needsNet, begin: cutLink((*harness.Network).LinkRules)},
		{name: "one-way", what: "one link is cut, one way", least: 20 * ms, most: 6000 * ms, needs: needsNet, begin: cutLink((*harness.Network).OneWayRules)},
		{name: "drop", what: "a broker's packets are lost at random", least: 100 * ms, most: 4000 * ms, needs: needsNet, begin: drop},
		{name: "delay", what: "a broker's packets are delayed", least: 100 * ms, most: 4000 * ms, needs: needsNet, begin: delay},
		{name: "full", what: "a broker's disk is full", least: 50 * ms, most: 2000 * ms, needs: needsDisk, begin: full},
		{name: "slow-sync", what: "a broker's syncs are late", least: 100 * ms, most: 5000 * ms, begin: slowSync},
		{name: "fail-sync", what: "a broker's syncs fail, then it is restarted", least: 20 * ms, most: 500 * ms, alone: true, damages: true, begin: failSync},
		{name: "clock", what: "a broker's clock jumps", least: 200 * ms, most: 4000 * ms, rolled: true, begin: jump},
		{name: "wipe", what: "a broker's disk is replaced by an empty one", least: ms, most: 200 * ms, alone: true, damages: true, begin: wipe},
		{name: "addresses", what: "all brokers come back under new addresses", least: ms, most: 100 * ms, alone: true, begin: addresses},
	}
	for _, f := range harness.FileKinds() {
		rolled := f == "closed" || f == "checkpoint" || f == "state"
		all = append(all,
			&kind{
				name: "flip-" + f, what: "a bit of a file flips while the broker is down: " + f, least: ms, most: 50 * ms, alone: true, damages: true, rolled: rolled,
				begin: damage(f, harness.FlipBit),
			},
			&kind{
				name: "truncate-" + f, what: "a file is cut off while the broker is down: " + f, least: ms, most: 50 * ms, alone: true, damages: true, rolled: rolled,
				begin: damage(f, harness.Truncate),
			})
	}
	return all
}

func startAgain(nodes ...*harness.Node) func() error {
	return func() error {
		var errs []error
		for _, n := range nodes {
			if !n.Running() {
				errs = append(errs, n.Start())
			}
		}
		return errors.Join(errs...)
	}
}

func kill(count int) func(*environment, step, *harness.Node) (func() error, string, error) {
	return func(e *environment, _ step, n *harness.Node) (func() error, string, error) {
		var nodes []*harness.Node
		for i := range count {
			nodes = append(nodes, e.c.Nodes[(n.ID-1+i)%brokers])
		}
		var did []int
		ended := make(chan error, count)
		for _, m := range nodes {
			did = append(did, m.ID)
			go func() {
				if !m.Running() {
					ended <- nil
					return
				}
				ended <- m.Kill()
			}()
		}
		var errs []error
		for range nodes {
			errs = append(errs, <-ended)
		}
		return startAgain(nodes...), fmt.Sprint("killed ", did), errors.Join(errs...)
	}
}

func restart(_ *environment, _ step, n *harness.Node) (func() error, string, error) {
	if !n.Running() {
		return noUndo, "", errNothing
	}
	return startAgain(n), fmt.Sprintf("stopped %d", n.ID), n.Stop()
}

func freeze(_ *environment, _ step, n *harness.Node) (func() error, string, error) {
	if !n.Running() {
		return noUndo, "", errNothing
	}
	undo := func() error {
		if n.Running() {
			return n.Resume()
		}
		return nil
	}
	return undo, fmt.Sprintf("froze %d", n.ID), n.Pause()
}

func cut(rules func(*harness.Network, int) []harness.Rule) func(*environment, step, *harness.Node) (func() error, string, error) {
	return func(e *environment, _ step, n *harness.Node) (func() error, string, error) {
		undo, err := e.net.Apply(rules(e.net, n.ID))
		return undo, fmt.Sprintf("broker %d", n.ID), err
	}
}

func cutLink(rules func(n *harness.Network, a, b int) []harness.Rule) func(*environment, step, *harness.Node) (func() error, string, error) {
	return func(e *environment, s step, n *harness.Node) (func() error, string, error) {
		other := (n.ID-1+s.other)%brokers + 1
		undo, err := e.net.Apply(rules(e.net, n.ID, other))
		return undo, fmt.Sprintf("from %d to %d", n.ID, other), err
	}
}

func drop(e *environment, s step, n *harness.Node) (func() error, string, error) {
	share := 0.02 + 0.4*s.rng().Float64()
	undo, err := e.net.Apply(e.net.LossRules(n.ID, share))
	return undo, fmt.Sprintf("%.0f %% of what %d sends", 100*share, n.ID), err
}

func delay(e *environment, s step, n *harness.Node) (func() error, string, error) {
	if e.delayed[n.ID] {
		return noUndo, "", errNothing
	}
	by := between(s.rng(), 5*time.Millisecond, 400*time.Millisecond)
	how, undo, err := e.net.Delay(n.ID, by)
	if err != nil {
		return noUndo, "", err
	}
	e.delayed[n.ID] = true
	return func() error { delete(e.delayed, n.ID); return undo() }, fmt.Sprintf("what %d sends by %v (%s)", n.ID, by.Round(time.Millisecond), how), nil
}

func full(_ *environment, _ step, n *harness.Node) (func() error, string, error) {
	file, err := n.Fill(0)
	return func() error {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}, fmt.Sprintf("disk of %d", n.ID), err
}

func slowSync(_ *environment, s step, n *harness.Node) (func() error, string, error) {
	by := between(s.rng(), 5*time.Millisecond, 2*time.Second)
	return func() error { return n.SetFaults(harness.Faults{}) },
		fmt.Sprintf("of %d by %v", n.ID, by.Round(time.Millisecond)), n.SetFaults(harness.Faults{SyncDelay: by})
}

func failSync(e *environment, s step, n *harness.Node) (func() error, string, error) {
	of := []string{"/topics/", "votes.db", "raft.db", "/"}[s.rng().IntN(4)]
	e.mayExit[n.ID] = true
	undo := func() error {
		err := n.SetFaults(harness.Faults{})
		if n.Running() {
			err = errors.Join(err, n.Kill())
		}
		return errors.Join(err, startAgain(n)())
	}
	return undo, fmt.Sprintf("of %d, of files with %q", n.ID, of), n.SetFaults(harness.Faults{SyncFails: of})
}

// maxJump is far above the topics' retention.ms: a leader whose clock is off deletes nothing (safety rule 19).
const maxJump = 60 * 24 * time.Hour

func jump(_ *environment, s step, n *harness.Node) (func() error, string, error) {
	rng := s.rng()
	by := between(rng, time.Second, maxJump)
	if rng.IntN(2) == 0 {
		by = -by
	}
	return func() error { return n.SetFaults(harness.Faults{}) },
		fmt.Sprintf("of %d by %v", n.ID, by.Round(time.Second)), n.SetFaults(harness.Faults{ClockOffset: by})
}

func wipe(_ *environment, _ step, n *harness.Node) (func() error, string, error) {
	if !n.Running() {
		return noUndo, "", errNothing
	}
	if err := n.Kill(); err != nil {
		return noUndo, "", err
	}
	return startAgain(n), fmt.Sprintf("broker %d", n.ID), n.Wipe()
}

func addresses(e *environment, _ step, _ *harness.Node) (func() error, string, error) {
	var did []string
	for _, n := range e.c.Nodes {
		if n.Running() {
			if err := n.Kill(); err != nil {
				return noUndo, "", err
			}
		}
		if err := n.NewAddresses(); err != nil {
			return noUndo, "", err
		}
		did = append(did, n.KafkaAddr)
	}
	e.c.Rejoin()
	return startAgain(e.c.Nodes...), fmt.Sprint("now ", did), nil
}

// damage kills a broker and hurts one of its files.
func damage(files string, how func(*rand.Rand, string) (string, error)) func(*environment, step, *harness.Node) (func() error, string, error) {
	return func(e *environment, s step, n *harness.Node) (func() error, string, error) {
		found, err := n.Files(files, e.topic)
		if err != nil || len(found) == 0 {
			return noUndo, "", errors.Join(err, errNothing)
		}
		e.mayExit[n.ID] = true
		if n.Running() {
			if err := n.Kill(); err != nil {
				return noUndo, "", err
			}
		}
		slices.Sort(found)
		rng := s.rng()
		file := found[rng.IntN(len(found))]
		did, err := how(rng, file)
		if errors.Is(err, harness.ErrEmptyFile) || errors.Is(err, os.ErrNotExist) {
			err = errNothing
		}
		return startAgain(n), fmt.Sprintf("broker %d, %s, %s", n.ID, file, did), err
	}
}
