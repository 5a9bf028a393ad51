//go:build robustness

// Command robustness attacks what Balsa promises: the suites of docs/design/safety.md that run as Go tests, then a
// cluster of real processes under load and faults, whose whole history is checked. docs/robustness.md says how to read
// it. It exits with 1 when a promise was broken, with 2 when it could not run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

type options struct {
	duration, round time.Duration
	seed            uint64
	only, skip      string
	replay          int
	suites          bool
	disk            string
	out, dir, keep  string
}

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", time.Hour, "how long to run in all")
	flag.DurationVar(&o.round, "round-length", 12*time.Second, "how long the faults of a round go on")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64N(1<<53), "of everything random; default: a new one")
	flag.StringVar(&o.only, "only", "", "comma-separated kinds of faults and names of suites; default: all")
	flag.StringVar(&o.skip, "skip", "", "comma-separated kinds of faults and suites that are left out")
	flag.IntVar(&o.replay, "round", -1, "run this round of the seed and nothing else")
	flag.BoolVar(&o.suites, "suites", true, "run the suites that are Go tests too")
	flag.StringVar(&o.disk, "disk", "tmpfs", "brokers' disks: tmpfs or ext4 (small ones, root), plain (a folder that is never filled)")
	flag.StringVar(&o.out, "out", "", "folder for robustness.json and robustness.md; default: printed only")
	flag.StringVar(&o.dir, "dir", os.TempDir(), "where clusters live meanwhile")
	flag.StringVar(&o.keep, "keep", "", "where brokers' data and logs go after a violation; default: a new folder in dir")
	list := flag.Bool("list", false, "list the kinds of faults and the suites")
	flag.Parse()
	if *list {
		for _, k := range kinds() {
			fmt.Printf("%-24s %s\n", k.name, k.what)
		}
		for _, s := range suites() {
			fmt.Printf("%-24s %s\n", s.name, s.what)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, o)
	var v *violation
	switch {
	case errors.As(err, &v):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func (o options) wants(name string) bool {
	in := func(list string) bool { return strings.Contains(","+list+",", ","+name+",") }
	return (o.only == "" || in(o.only)) && !in(o.skip)
}

// run does everything and leaves nothing behind but, after a violation, the folder that it names.
func run(ctx context.Context, o options) (err error) {
	work, err := os.MkdirTemp(o.dir, "balsa-robustness-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	faults, err := os.Create(filepath.Join(work, "faults.log"))
	if err != nil {
		return err
	}
	defer func() { _ = faults.Close() }()
	sum := &summary{
		Seed: o.seed, CPUs: runtime.NumCPU(), Kinds: map[string]*gaps{}, started: time.Now(), faults: faults,
		Violations: []string{}, Date: time.Now().UTC().Format(time.DateOnly),
	}
	fmt.Printf("seed %d, %v\n", o.seed, o.duration)
	keep := func() (string, error) {
		if o.keep == "" {
			dir, err := os.MkdirTemp(o.dir, "balsa-violation-")
			o.keep = dir
			return dir, err
		}
		return o.keep, os.MkdirAll(o.keep, 0o755)
	}
	err = attack(ctx, o, sum, work, keep)
	var v *violation
	if errors.As(err, &v) && ctx.Err() == nil {
		sum.Violations = append(sum.Violations, v.what)
		report(o, sum, v, faults.Name(), keep)
	}
	if ctx.Err() != nil && v == nil {
		err = nil // interrupted: what was done is reported
	}
	table := sum.table()
	if o.out != "" {
		var werr error
		if table, werr = sum.write(o.out); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	fmt.Println(table)
	return err
}

// report prints a violation and how to see it again.
func report(o options, sum *summary, v *violation, faults string, keep func() (string, error)) {
	fmt.Printf("\nVIOLATION: %s\n", v.what)
	for _, p := range v.proof {
		fmt.Printf("  %s\n", p)
	}
	dir, err := keep()
	if err == nil {
		err = copyFile(faults, filepath.Join(dir, "faults.log"))
	}
	if err != nil {
		fmt.Println(err)
	}
	fmt.Printf("\nbrokers' data, what they printed and faults.log: %s\n", dir)
	if b, err := os.ReadFile(faults); err == nil {
		fmt.Printf("the end of faults.log:\n%s\n", tail(b, 3000))
	}
	again := ""
	if o.only != "" {
		again += " -only " + o.only
	}
	if o.skip != "" {
		again += " -skip " + o.skip
	}
	fmt.Printf("again: make robustness ROBUSTNESS=\"-suites=false -seed %d%s -round %d\"\n", sum.Seed, again, sum.Rounds)
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// attack runs the suites, then the rounds.
func attack(ctx context.Context, o options, sum *summary, work string, keep func() (string, error)) error {
	end := time.Now().Add(o.duration)
	rng := rand.New(rand.NewPCG(o.seed, 0))
	if o.suites && o.replay < 0 {
		for _, s := range suites() {
			if !o.wants(s.name) || ctx.Err() != nil {
				continue
			}
			fmt.Printf("== %s: %s\n", s.name, s.what)
			dir := func() string { d, _ := keep(); return d }
			r, err := s.run(ctx, rng, o.duration, work)
			if err != nil {
				d := dir()
				_ = copyFile(filepath.Join(work, s.name+".txt"), filepath.Join(d, s.name+".txt"))
			}
			sum.Suites = append(sum.Suites, r)
			fmt.Printf("   %d passes, %.0f s: %s\n", r.Passes, r.Seconds, r.Result)
			if err != nil {
				return err
			}
		}
	}
	if !slices.ContainsFunc(kinds(), func(k *kind) bool { return o.wants(k.name) }) {
		return nil
	}
	e, done, err := prepare(ctx, o, sum, work)
	if err != nil {
		return err
	}
	var use []*kind
	for _, k := range kinds() {
		if !o.wants(k.name) {
			continue
		}
		if k.needs != nil {
			if err := k.needs(e); err != nil {
				sum.Skipped = append(sum.Skipped, fmt.Sprintf("%s: %v", k.name, err))
				continue
			}
		}
		use = append(use, k)
	}
	err = e.rounds(o, use, end)
	var v *violation
	if errors.As(err, &v) && ctx.Err() == nil {
		e.c.Close()
		if dir, kerr := keep(); kerr == nil {
			err = errors.Join(err, os.CopyFS(filepath.Join(dir, "brokers"), os.DirFS(e.dir)))
		}
	}
	return errors.Join(err, done())
}

func (e *environment) rounds(o options, use []*kind, end time.Time) error {
	if len(use) == 0 {
		return nil
	}
	if err := e.c.Start(e.timeout(time.Minute)); err != nil {
		return err
	}
	if o.replay >= 0 {
		e.sum.Rounds = o.replay
		return e.run(newPlan(o.seed, o.replay, use), o.round)
	}
	if e.net != nil && o.wants("cut") {
		if err := e.flap(min(time.Minute, o.duration/20)); err != nil {
			return err
		}
	}
	fmt.Printf("== nemesis: %d kinds of faults, rounds of %v\n", len(use), o.round)
	for ; time.Now().Before(end) && e.ctx.Err() == nil; e.sum.Rounds++ {
		p := newPlan(o.seed, e.sum.Rounds, use)
		if err := e.run(p, min(o.round, time.Until(end))); err != nil {
			return err
		}
		fmt.Printf("%8s  %-60s %6d faults, %9d records checked\n", time.Since(e.sum.started).Round(time.Second), p, e.sum.total(), e.sum.Acked)
	}
	return nil
}

// prepare makes the cluster, its network and its disks; done removes them.
func prepare(ctx context.Context, o options, sum *summary, work string) (e *environment, done func() error, err error) {
	e = &environment{ctx: ctx, sum: sum, dir: filepath.Join(work, "brokers"), delayed: map[int]bool{}, mayExit: map[int]bool{}}
	var undo []func() error
	done = func() error {
		var errs []error
		for _, f := range slices.Backward(undo) {
			errs = append(errs, f())
		}
		undo = nil
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, done())
		}
	}()
	bin, err := harness.BuildFaulty(work)
	if err != nil {
		return nil, nil, err
	}
	if e.noNet = harness.NetworkUnavailable(); e.noNet == nil {
		if e.net, err = harness.NewNetwork(); err != nil {
			return nil, nil, err
		}
		undo = append(undo, func() error { e.net.Close(); return nil })
	}
	e.c, err = harness.New(harness.Options{
		Nodes: brokers, Dir: e.dir, Net: e.net, Binary: bin,
		Set: []string{"log.retention.check.interval.ms=1000", "log.segment.delete.delay.ms=1000"},
	})
	if err != nil {
		return nil, nil, err
	}
	if o.disk == "plain" {
		e.noDisk = errors.New("-disk plain")
	}
	for _, n := range e.c.Nodes {
		if e.noDisk != nil {
			break
		}
		unmount, err := harness.SmallDisk(n.Dir, o.disk, 384)
		if err != nil {
			e.noDisk = err
			break
		}
		undo = append(undo, unmount)
	}
	undo = append(undo, func() error { e.c.Close(); return nil })
	return e, done, nil
}
