//go:build verify

// Command verify measures, against real processes, every figure that Balsa promises, writes the distributions as JSON
// and fails when one is missed. Nothing here runs in `make test`.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

// Figure is one measured figure with its bound and its distribution.
type Figure struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Value   float64   `json:"value"`
	Bound   string    `json:"bound,omitempty"` // "" when nothing is promised
	Met     bool      `json:"met"`
	Samples []float64 `json:"samples,omitempty"`
	Note    string    `json:"note,omitempty"`
}

// Run is what one section needs: a folder, and where its figures go.
type Run struct {
	ctx     context.Context
	dir     string
	short   bool
	figures []Figure
}

var sections = []struct {
	name string
	what string
	f    func(r *Run) error
}{
	{"ready", "a single broker from start to ready", ready},
	{"stop", "a whole cluster stopped gracefully, one broker after the other", stopAll},
	{"failover", "write gap after kill -9 of a leader's broker", failover},
	{"frozen", "write gap after a leader's broker freezes", frozen},
	{"slow", "a slow leader keeps its term", slowLeader},
	{"slowdisk", "a leader whose disk is slow keeps its term", slowDisk},
	{"many", "1,000 partitions: creation, idle load, disk", manyPartitions},
	{"throughput", "records per second on three local brokers", throughput},
	{"bytes", "bytes written to disk per byte produced", diskBytes},
	{"memory", "resident memory after 1 GiB and after more", memory},
	{"restart", "what a restart reads", restart},
	{"fsync", "every acknowledged batch was synced on two brokers first", syncTrace},
}

func main() {
	out := flag.String("out", "docs/benchmarks", "folder for the JSON files")
	only := flag.String("only", "", "comma-separated sections; empty: all")
	short := flag.Bool("short", false, "fewer rounds and less data")
	dir := flag.String("dir", "", "folder for data (default: a temporary one)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if _, err := harness.Build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer harness.RemoveBuild()
	failed := false
	for _, s := range sections {
		if *only != "" && !strings.Contains(","+*only+",", ","+s.name+",") {
			continue
		}
		fmt.Printf("== %s: %s\n", s.name, s.what)
		tmp, err := os.MkdirTemp(*dir, "balsa-verify-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		r := &Run{ctx: ctx, dir: tmp, short: *short}
		start := time.Now()
		err = s.f(r)
		_ = os.RemoveAll(tmp)
		for _, f := range r.figures {
			mark := "ok  "
			if f.Bound == "" {
				mark = "    "
			} else if !f.Met {
				mark, failed = "MISS", true
			}
			fmt.Printf("%s %-58s %12.3f %-12s %-14s %s\n", mark, f.Name, f.Value, f.Unit, f.Bound, f.Note)
		}
		if err != nil {
			failed = true
			fmt.Printf("FAIL %s: %v\n", s.name, err)
		}
		doc := map[string]any{
			"section": s.name, "what": s.what, "figures": r.figures, "cpus": runtime.NumCPU(), "short": *short,
			"date": start.UTC().Format(time.DateOnly), "took_seconds": time.Since(start).Seconds(),
		}
		if err != nil {
			doc["error"] = err.Error()
		}
		b, _ := json.MarshalIndent(doc, "", " ")
		if err := os.MkdirAll(*out, 0o755); err == nil {
			err = os.WriteFile(filepath.Join(*out, s.name+".json"), append(b, '\n'), 0o644)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	if err := writeTable(*out); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if failed {
		os.Exit(1)
	}
}

// writeTable puts the figures of all sections, of this and of earlier runs, into one page.
func writeTable(dir string) error {
	var b strings.Builder
	b.WriteString("# Measured figures\n\nWritten by `make verify`; the distributions are in the JSON files beside this page.\n")
	for _, s := range sections {
		raw, err := os.ReadFile(filepath.Join(dir, s.name+".json"))
		if err != nil {
			continue
		}
		var doc struct {
			Date    string
			CPUs    int
			Short   bool
			Error   string
			Figures []Figure
		}
		if err := json.Unmarshal(raw, &doc); err != nil {
			return err
		}
		kind := ""
		if doc.Short {
			kind = ", short run"
		}
		fmt.Fprintf(&b, "\n## %s: %s\n\n%s, %d CPUs%s\n\n| figure | value | unit | spread | promised | met |\n|---|---|---|---|---|---|\n",
			s.name, s.what, doc.Date, doc.CPUs, kind)
		for _, f := range doc.Figures {
			spread, met := "", ""
			if len(f.Samples) > 1 {
				spread = fmt.Sprintf("%.4g to %.4g of %d", percentile(f.Samples, 0), percentile(f.Samples, 1), len(f.Samples))
			}
			if f.Bound != "" {
				met = map[bool]string{true: "yes", false: "**no**"}[f.Met]
			}
			fmt.Fprintf(&b, "| %s | %.5g | %s | %s | %s | %s |\n", f.Name, f.Value, f.Unit, spread, f.Bound, met)
		}
		if doc.Error != "" {
			fmt.Fprintf(&b, "\nFailed: %s\n", doc.Error)
		}
	}
	return os.WriteFile(filepath.Join(dir, "figures.md"), []byte(b.String()), 0o644)
}

// most notes a figure that must be at most bound.
func (r *Run) most(name, unit string, value, bound float64, samples []float64) {
	r.figures = append(r.figures, Figure{Name: name, Unit: unit, Value: value, Bound: fmt.Sprintf("<= %g", bound), Met: value <= bound, Samples: samples})
}

// least notes a figure that must be at least bound.
func (r *Run) least(name, unit string, value, bound float64, samples []float64) {
	r.figures = append(r.figures, Figure{Name: name, Unit: unit, Value: value, Bound: fmt.Sprintf(">= %g", bound), Met: value >= bound, Samples: samples})
}

// info notes a figure without a bound.
func (r *Run) info(name, unit string, value float64, samples []float64) {
	r.figures = append(r.figures, Figure{Name: name, Unit: unit, Value: value, Met: true, Samples: samples})
}

func percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return -1
	}
	s := append([]float64(nil), samples...)
	sort.Float64s(s)
	return s[int(p*float64(len(s)-1)+0.5)]
}

func (r *Run) timeout(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(r.ctx, d)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func (r *Run) cluster(nodes int, name string, set ...string) (*harness.Cluster, error) {
	c, err := harness.New(harness.Options{Nodes: nodes, Dir: filepath.Join(r.dir, name), Set: set})
	if err != nil {
		return nil, err
	}
	return c, c.Start(r.timeout(30 * time.Second))
}

func (r *Run) rounds(full, short int) int {
	if r.short {
		return short
	}
	return full
}
