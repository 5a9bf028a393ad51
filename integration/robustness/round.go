//go:build robustness

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/balsa-broker/balsa/integration/harness"
)

// environment is one cluster that lives through many rounds.
type environment struct {
	ctx     context.Context
	c       *harness.Cluster
	net     *harness.Network // nil: loopback
	noNet   error            // why there is no network to cut
	noDisk  error            // why there is no disk to fill
	sum     *summary
	topic   string // of this round
	load    *harness.Load
	delayed map[int]bool // brokers with a Delay in force
	mayExit map[int]bool // brokers that may end by themselves, for what was done to them
	dir     string       // of the brokers' folders and logs
}

// violation is a promise that was broken, with what proves it.
type violation struct {
	what  string
	proof []string
}

func (v *violation) Error() string { return v.what }

func violated(err error, format string, args ...any) error {
	v := &violation{what: fmt.Sprintf(format, args...)}
	if err != nil {
		v.proof = append(v.proof, err.Error())
	}
	return v
}

func (e *environment) timeout(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(e.ctx, d)
	context.AfterFunc(ctx, cancel)
	return ctx
}

// stuck is how long a partition may take no write, or a replica may not be whole, once every fault has ended.
const (
	stuckWrites  = 60 * time.Second
	stuckReplica = 90 * time.Second
)

// run does one round: a fresh topic under load, faults for about length, everything healed, the whole history checked,
// the topic deleted.
func (e *environment) run(p plan, length time.Duration) error {
	e.topic = fmt.Sprintf("round-%d", p.round)
	e.sum.log("%v", p)
	if err := e.createTopic(e.topic, partitions); err != nil {
		return err
	}
	var err error
	load := harness.LoadOptions{Producers: 2, InFlight: 64, RecordSize: 400, Pace: 700 * time.Microsecond, Readers: 1, Delete: 2 * time.Second}
	rolled := slices.ContainsFunc(p.kinds, func(k *kind) bool { return k.rolled })
	if rolled {
		load.RecordSize, load.Pace = 4000, 2*time.Millisecond
	}
	e.load, err = e.c.StartLoad(e.topic, partitions, load)
	if err != nil {
		return violated(err, "no producer gets an id")
	}
	small, err := e.startSmall(fmt.Sprintf("small-%d", p.round))
	if err == nil {
		err = e.load.WaitAcks(e.timeout(stuckWrites))
	}
	if err == nil && rolled {
		err = e.waitRolled()
	}
	if err == nil {
		err = e.faults(p, length)
	}
	if err == nil {
		err = e.heal()
	}
	if err == nil {
		if err = e.load.WaitAcks(e.timeout(stuckWrites)); err != nil {
			e.sum.Stuck++
			err = violated(err, "a partition is stuck after every fault has ended")
		}
	}
	if stopped := e.load.Stop(stuckWrites); err == nil && stopped != nil {
		err = violated(stopped, "a client saw what it should not")
	}
	if small != nil {
		if checked := small.check(e, err == nil); err == nil {
			err = checked
		}
	}
	if err != nil {
		return err
	}
	final, err := e.c.ReadAll(e.timeout(stuckWrites), e.topic, partitions)
	if err != nil {
		return violated(err, "what was acknowledged cannot be read")
	}
	e.sum.Operations += e.load.History.Operations()
	e.sum.Acked += e.load.History.Count()
	if found := e.load.History.Check(final); len(found) > 0 {
		v := &violation{what: fmt.Sprintf("%d violations in the history of %s", len(found), e.topic)}
		for _, f := range found {
			v.proof = append(v.proof, f.String())
		}
		return v
	}
	if err := e.scanLogs(); err != nil {
		return err
	}
	return e.deleteTopics(e.topic, small.topic)
}

// waitRolled waits until every broker has a closed segment and a checkpoint.
func (e *environment) waitRolled() error {
	ctx := e.timeout(stuckWrites)
	for _, n := range e.c.Nodes {
		for _, kind := range []string{"closed", "checkpoint"} {
			for {
				found, err := n.Files(kind, e.topic)
				if err != nil {
					return err
				}
				if len(found) > 0 {
					break
				}
				if ctx.Err() != nil {
					return fmt.Errorf("broker %d has no %s file of %s", n.ID, kind, e.topic)
				}
				e.sleep(50 * time.Millisecond)
			}
		}
	}
	return nil
}

// faults runs the plan's steps for about length.
func (e *environment) faults(p plan, length time.Duration) error {
	end := time.Now().Add(length)
	var pending []func() error
	flush := func() error {
		var errs []error
		for _, undo := range pending {
			errs = append(errs, undo())
		}
		pending = nil
		return errors.Join(errs...)
	}
	together := 0 // faults since every one had ended
	for _, s := range p.steps {
		if time.Now().After(end) || e.ctx.Err() != nil {
			break
		}
		e.sleep(s.pause)
		if s.kind.alone && len(pending) > 0 {
			if err := e.settle(flush, s, together, nil); err != nil {
				return err
			}
			together = 0
		}
		if s.kind.damages {
			if err := e.whole(); err != nil {
				return violated(err, "a replica does not get whole although every fault has ended")
			}
		}
		if together == 0 {
			e.load.ResetGaps()
		}
		n := e.target(s)
		undo, did, err := s.kind.begin(e, s, n)
		if errors.Is(err, errNothing) {
			pending = append(pending, undo)
			if len(pending) == 1 {
				if err := e.settle(flush, s, 0, nil); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.kind.name, err)
		}
		e.sum.fault(s.kind.name)
		e.sum.log("%s: %s, for %v", s.kind.name, did, s.hold.Round(time.Millisecond))
		pending = append(pending, undo)
		together++
		e.sleep(s.hold)
		if s.overlap && len(pending) < 4 {
			continue
		}
		if err := e.settle(flush, s, together, n); err != nil {
			return err
		}
		together = 0
	}
	return flush()
}

// settle ends the faults in force and waits until every partition takes writes again. damaged is the broker that a
// damaging step s acted on.
func (e *environment) settle(flush func() error, s step, together int, damaged *harness.Node) error {
	if err := flush(); err != nil {
		return fmt.Errorf("ending %s: %w", s.kind.name, err)
	}
	if err := e.load.WaitAcks(e.timeout(stuckWrites)); err != nil {
		if e.ctx.Err() != nil {
			return e.ctx.Err()
		}
		e.sum.Stuck++
		return violated(err, "a partition is stuck after %s had ended", s.kind.name)
	}
	var gap time.Duration
	for p := range int32(partitions) {
		gap = max(gap, e.load.Gap(p))
	}
	switch {
	case together == 1:
		e.sum.gap(s.kind.name, gap)
	case together > 1:
		e.sum.gap("several at once", gap)
	}
	if found := e.load.History.Violations(); len(found) > 0 {
		return violated(errors.New(found[0].String()), "the history is wrong during %s", s.kind.name)
	}
	if !s.kind.damages || damaged == nil {
		return nil
	}
	if err := e.whole(); err != nil {
		if e.ctx.Err() != nil {
			return e.ctx.Err()
		}
		return violated(errors.Join(err, errors.New(damaged.Tail(3000))), "broker %d is not whole again by itself after %s", damaged.ID, s.kind.name)
	}
	return nil
}

// whole waits until every broker holds everything again.
func (e *environment) whole() error {
	return e.c.WaitWhole(e.timeout(stuckReplica), e.topic, partitions)
}

// target is the broker that a step means.
func (e *environment) target(s step) *harness.Node {
	if s.node > 0 {
		return e.c.Nodes[s.node-1]
	}
	if id, err := e.c.Leader(e.timeout(2*time.Second), e.topic, s.partition); err == nil {
		if n := e.c.Node(id); n != nil {
			return n
		}
	}
	return e.c.Nodes[int(s.seed%brokers)]
}

func (e *environment) sleep(d time.Duration) {
	select {
	case <-e.ctx.Done():
	case <-time.After(d):
	}
}

// heal ends everything that may still be in force and waits until all brokers are ready.
func (e *environment) heal() error {
	var errs []error
	if e.net != nil {
		errs = append(errs, e.net.Heal())
	}
	for _, n := range e.c.Nodes {
		errs = append(errs, n.SetFaults(harness.Faults{}))
		if n.Running() {
			_ = n.Resume()
			continue
		}
		if !e.mayExit[n.ID] {
			return violated(errors.New(n.Tail(3000)), "broker %d ended by itself", n.ID)
		}
		errs = append(errs, n.Start())
	}
	clear(e.mayExit)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := e.c.WaitReady(e.timeout(stuckWrites)); err != nil {
		return violated(err, "a broker is not ready after every fault has ended")
	}
	return nil
}

// scanLogs looks for panics in what the brokers printed, and keeps these files small.
func (e *environment) scanLogs() error {
	for _, n := range e.c.Nodes {
		if n.Printed("\npanic:") || n.Printed("\nfatal error:") {
			return violated(errors.New(n.Tail(6000)), "broker %d panicked", n.ID)
		}
		if err := n.TrimLog(16 << 20); err != nil {
			return err
		}
	}
	return nil
}

func (e *environment) createTopic(name string, partitions int32) error {
	segment, retention := "1048576", "3600000" // an hour; see maxJump
	ctx := e.timeout(stuckWrites)
	for {
		err := e.c.CreateTopic(ctx, name, partitions, brokers, map[string]*string{"segment.bytes": &segment, "retention.ms": &retention})
		if err == nil || strings.Contains(err.Error(), "already exists") {
			return nil
		}
		if ctx.Err() != nil {
			return violated(err, "no topic can be created")
		}
		e.sleep(100 * time.Millisecond)
	}
}

func (e *environment) deleteTopics(names ...string) error {
	cl, err := e.c.Client()
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx := e.timeout(stuckWrites)
	for {
		resp, err := kadm.NewClient(cl).DeleteTopics(ctx, names...)
		if err == nil {
			err = resp.Error()
		}
		if err == nil || strings.Contains(err.Error(), "UNKNOWN_TOPIC") {
			return nil
		}
		if ctx.Err() != nil {
			return violated(err, "topics cannot be deleted")
		}
		e.sleep(100 * time.Millisecond)
	}
}
