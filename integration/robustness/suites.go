//go:build robustness

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// suite is one of the suites that run as Go tests: in processes of their own, once per pass, with new seeds.
type suite struct {
	name  string
	what  string
	share float64 // of the run's duration: passes are begun until it is used up, one at least
	args  []string
	env   func(rng *rand.Rand) []string
}

type suiteResult struct {
	Name    string  `json:"name"`
	Passes  int     `json:"passes"`
	Seconds float64 `json:"seconds"`
	Result  string  `json:"result"`
}

func suites() []suite {
	return []suite{
		{
			name: "inbox", what: "inbox conformance against a model of Raft from the paper", share: 0.04,
			args: []string{"-run", "TestInboxConformance|TestRule[1456]", "./cluster/transport", "-rapid.checks=2000"},
		},
		{
			name: "crash", what: "the crash double: every operation, torn and unsynced writes, kill and power loss", share: 0.04,
			args: []string{"-run", "Crash|Kill|PowerLoss|Torn|FailedSync|EveryError|FlippedBits|Rule[89]", "./segment", "./partition", "./cluster/votes", "./cluster/controller"},
		},
		{
			name: "tickets", what: "append tickets: no hole and no duplicate under failing transfers", share: 0.04,
			args: []string{"-run", "TestRule15|TestTransferDrains|TestDuplicateInFlight", "./partition"},
		},
		{
			name: "identity", what: "each of log, votes, high watermark, metadata and disk lost", share: 0.04,
			args: []string{"-run", "Rule1[A-Z]|Rule12|Wiped|LostReplica|Identity|Founders|Foreign", "./partition", "./cluster", "./cluster/controller", "./simulation"},
		},
		{
			name: "simulation", what: "whole clusters in one process, in simulated time", share: 0.25,
			args: []string{"-run", "TestSimulation", "./simulation"},
			env: func(rng *rand.Rand) []string {
				return []string{"BALSA_SEED=" + strconv.FormatUint(rng.Uint64N(1<<53), 10)}
			},
		},
	}
}

// run builds the suite's tests once and runs them until its share of the duration is used up. The tests' output goes to
// a file in dir; an error names it.
func (s suite) run(ctx context.Context, rng *rand.Rand, duration time.Duration, dir string) (suiteResult, error) {
	r := suiteResult{Name: s.name, Result: "passed"}
	begin := time.Now()
	for time.Since(begin) < time.Duration(s.share*float64(duration)) || r.Passes == 0 {
		args := append([]string{"test", "-count=1", "-timeout=30m"}, s.args...)
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 10 * time.Second
		cmd.Env = os.Environ()
		if s.env != nil {
			cmd.Env = append(cmd.Env, s.env(rng)...)
		}
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			r.Result = "interrupted"
			break
		}
		r.Passes++
		if err != nil {
			r.Result = "FAILED"
			file := filepath.Join(dir, s.name+".txt")
			if werr := os.WriteFile(file, out, 0o644); werr != nil {
				return r, werr
			}
			return r, violated(fmt.Errorf("%s\ngo %v, environment %v", tail(out, 4000), args, cmd.Env[len(os.Environ()):]), "suite %s failed, its output is in %s", s.name, file)
		}
	}
	r.Seconds = time.Since(begin).Seconds()
	return r, nil
}

func tail(b []byte, max int) string {
	if len(b) > max {
		b = b[len(b)-max:]
	}
	return string(b)
}
