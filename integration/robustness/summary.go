//go:build robustness

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// gaps are the longest times without an acknowledgement on any partition, in milliseconds, of one kind of fault.
type gaps struct {
	Faults int       `json:"faults"`
	Millis []float64 `json:"gap_millis,omitempty"`
}

// summary is what a run did and found. It is written by one goroutine.
type summary struct {
	Date       string           `json:"date"`
	Seed       uint64           `json:"seed"`
	Seconds    float64          `json:"seconds"`
	CPUs       int              `json:"cpus"`
	Rounds     int              `json:"rounds"`
	Kinds      map[string]*gaps `json:"kinds"`
	Operations int              `json:"operations_checked"`
	Acked      int              `json:"acknowledged_records_checked"`
	Linear     int              `json:"histories_linearizable"`
	Undecided  int              `json:"histories_undecided"`
	Stuck      int              `json:"stuck_partitions"`
	Violations []string         `json:"violations"`
	Flap       *flapping        `json:"single_cut_link,omitempty"`
	Suites     []suiteResult    `json:"suites,omitempty"`
	Skipped    []string         `json:"skipped,omitempty"`

	started time.Time
	faults  io.Writer // what was done when
}

// maxGaps bounds the gaps that are kept of one kind.
const maxGaps = 5000

func (s *summary) kind(name string) *gaps {
	if s.Kinds[name] == nil {
		s.Kinds[name] = &gaps{}
	}
	return s.Kinds[name]
}

func (s *summary) fault(kind string) { s.kind(kind).Faults++ }

func (s *summary) gap(kind string, d time.Duration) {
	k := s.kind(kind)
	if len(k.Millis) < maxGaps {
		k.Millis = append(k.Millis, float64(d.Microseconds())/1000)
	}
	if kind == "several at once" {
		k.Faults++
	}
	s.log("    longest write gap %v", d.Round(time.Millisecond))
}

// log notes what was done, with the time since the start.
func (s *summary) log(format string, args ...any) {
	_, _ = fmt.Fprintf(s.faults, "%9.3f  %s\n", time.Since(s.started).Seconds(), fmt.Sprintf(format, args...))
}

func (s *summary) total() (n int) {
	for name, k := range s.Kinds {
		if name != "several at once" {
			n += k.Faults
		}
	}
	return n
}

// write puts the summary into dir, as JSON and as a table, and returns the table.
func (s *summary) write(dir string) (string, error) {
	table := s.table()
	b, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "robustness.json"), append(b, '\n'), 0o644); err != nil {
		return "", err
	}
	return table, os.WriteFile(filepath.Join(dir, "robustness.md"), []byte(table), 0o644)
}

func (s *summary) table() string {
	s.Seconds = time.Since(s.started).Seconds()
	var b strings.Builder
	fmt.Fprintf(&b, "# Robustness run\n\nWritten by `make robustness`. %s, seed %d, %.0f s, %d CPUs, %d rounds.\n\n", s.Date, s.Seed, s.Seconds, s.CPUs, s.Rounds)
	fmt.Fprintf(&b, "| | |\n|---|---|\n| faults injected | %d |\n| operations checked | %d |\n| acknowledged records checked | %d |\n", s.total(), s.Operations, s.Acked)
	fmt.Fprintf(&b, "| histories checked for linearizability | %d (%d undecided) |\n| violations | %d |\n| stuck partitions | %d |\n",
		s.Linear, s.Undecided, len(s.Violations), s.Stuck)
	if f := s.Flap; f != nil {
		fmt.Fprintf(&b, "| terms begun under a single cut link | %d in %.0f s on %d partitions: %.0f an hour |\n", f.Terms, f.Seconds, f.Partitions, f.PerHour)
	}
	if len(s.Kinds) > 0 {
		b.WriteString("\nThe longest time without an acknowledgement on any partition, from the fault's begin until all take writes again; it\n" +
			"contains the time for which the fault was held.\n\n| fault | injected | median ms | 99 % ms | worst ms |\n|---|---|---|---|---|\n")
		for _, name := range slices.Sorted(maps.Keys(s.Kinds)) {
			k := s.Kinds[name]
			if len(k.Millis) == 0 { // only together with others
				fmt.Fprintf(&b, "| %s | %d | - | - | - |\n", name, k.Faults)
				continue
			}
			fmt.Fprintf(&b, "| %s | %d | %.0f | %.0f | %.0f |\n", name, k.Faults, percentile(k.Millis, 0.5), percentile(k.Millis, 0.99), percentile(k.Millis, 1))
		}
	}
	if len(s.Suites) > 0 {
		b.WriteString("\n| suite | passes | seconds | result |\n|---|---|---|---|\n")
		for _, r := range s.Suites {
			fmt.Fprintf(&b, "| %s | %d | %.0f | %s |\n", r.Name, r.Passes, r.Seconds, r.Result)
		}
	}
	for _, line := range s.Skipped {
		fmt.Fprintf(&b, "\nNot here: %s\n", line)
	}
	for _, v := range s.Violations {
		fmt.Fprintf(&b, "\nVIOLATION: %s\n", v)
	}
	return b.String()
}

func percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(samples))
	return s[int(p*float64(len(s)-1)+0.5)]
}
