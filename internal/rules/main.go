// Command rules proves that the safety rules of docs/design/safety.md are tested: it takes each rule, or part of one,
// out of the code by replacing a piece of the source, and runs the tests that are to fail without it.
//
//	go run ./internal/rules [-rule 15] [-list]
//
// The sources are not touched: go test gets the changed file by -overlay. A row holds when the tests pass with the rule
// and fail without it; a build that fails, a test that is not there or a run that only exceeds its time proves nothing.
// Exit status 1 when a row does not hold.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// removal is one part of a rule, and how to take it out.
type removal struct {
	rule     int
	what     string // that is taken out
	file     string // from the module's root
	old, new string // old occurs exactly once in file
	pkg, run string // tests of which at least one fails without it: package, names with | between
}

func main() {
	rule := flag.Int("rule", 0, "only this rule")
	list := flag.Bool("list", false, "print the table and run nothing")
	timeout := flag.Duration("timeout", 3*time.Minute, "of one run of tests")
	flag.Parse()
	root, err := moduleRoot()
	if err == nil {
		err = prove(context.Background(), root, *rule, *list, *timeout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func moduleRoot() (string, error) {
	out, err := exec.CommandContext(context.Background(), "go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
}

func prove(ctx context.Context, root string, rule int, list bool, timeout time.Duration) error {
	out := bufio.NewWriter(os.Stdout)
	defer func() { _ = out.Flush() }()
	tmp, err := os.MkdirTemp("", "rules")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() //nolint:forbidigo // of this program
	sound := map[string]error{}              // tests that were run without any removal
	bad, n := 0, 0
	for i := range removals {
		r := &removals[i]
		if rule != 0 && r.rule != rule {
			continue
		}
		n++
		if list {
			fmt.Fprintln(out, r.line())
			continue
		}
		key := r.pkg + " " + r.run
		err, known := sound[key]
		if !known {
			var failed []string
			if failed, err = runTests(ctx, root, r, "", timeout); len(failed) > 0 {
				err = fmt.Errorf("fails with the rule in place: %s", strings.Join(failed, " "))
			}
			sound[key] = err
		}
		var failed []string
		if err == nil {
			failed, err = without(ctx, root, tmp, r, timeout)
		}
		if err == nil && len(failed) == 0 {
			err = errors.New("no test fails without it")
		}
		if err != nil {
			bad++
			fmt.Fprintf(out, "BAD  rule %d: %s (%s): %v\n", r.rule, r.what, r.file, err)
		} else {
			fmt.Fprintf(out, "ok   rule %d: %s: %s\n", r.rule, r.what, strings.Join(failed, " "))
		}
		_ = out.Flush()
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d removals are not noticed", bad, n)
	}
	return nil
}

// line is the row in docs/design/safety.md.
func (r *removal) line() string {
	return fmt.Sprintf("| %d | %s | `%s` %s |", r.rule, r.what, r.pkg, strings.ReplaceAll(r.run, "|", ", "))
}

// mutate returns the file of r with the rule taken out.
func (r *removal) mutate(root string) ([]byte, error) {
	src, err := os.ReadFile(filepath.Join(root, r.file)) //nolint:forbidigo // sources, not data
	if err != nil {
		return nil, err
	}
	if k := bytes.Count(src, []byte(r.old)); k != 1 {
		return nil, fmt.Errorf("the code of the rule occurs %d times in %s", k, r.file)
	}
	return bytes.Replace(src, []byte(r.old), []byte(r.new), 1), nil
}

// without runs the tests on the mutated source and returns those that fail.
func without(ctx context.Context, root, tmp string, r *removal, timeout time.Duration) ([]string, error) {
	src, err := r.mutate(root)
	if err != nil {
		return nil, err
	}
	changed := filepath.Join(tmp, filepath.Base(r.file))
	overlay := filepath.Join(tmp, "overlay.json")
	doc, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, r.file): changed}})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.WriteFile(changed, src, 0o600), os.WriteFile(overlay, doc, 0o600)); err != nil { //nolint:forbidigo // sources, not data
		return nil, err
	}
	return runTests(ctx, root, r, overlay, timeout)
}

// runTests returns the names of the tests that failed, and an error when the run says nothing.
func runTests(ctx context.Context, root string, r *removal, overlay string, timeout time.Duration) (failed []string, err error) {
	args := []string{"test", "-json", "-count=1", "-vet=off", "-timeout", timeout.String(), "-run", "^(" + r.run + ")$"}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	args = append(args, "./"+r.pkg)
	if usesRapid(filepath.Join(root, r.pkg)) {
		args = append(args, "-rapid.nofailfile") // its failures are wanted
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	out, runErr := cmd.Output()
	var exit *exec.ExitError
	if runErr != nil && !errors.As(runErr, &exit) {
		return nil, runErr
	}
	passed, late, panicked := 0, false, false
	running := map[string]bool{}
	var build []string
	for line := range bytes.Lines(out) {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		switch {
		case e.Action == "build-output":
			build = append(build, strings.TrimSpace(e.Output))
		case e.Action == "build-fail":
			return nil, fmt.Errorf("does not build: %s", strings.Join(build, "; "))
		case strings.HasPrefix(e.Output, "panic: test timed out"):
			late = true
		case strings.HasPrefix(e.Output, "panic: "):
			panicked = true
		case e.Test == "" || strings.Contains(e.Test, "/"): // the package; a part of a test
		case e.Action == "run":
			running[e.Test] = true
		case e.Action == "fail":
			delete(running, e.Test)
			failed = append(failed, e.Test)
		case e.Action == "pass":
			delete(running, e.Test)
			passed++
		}
	}
	if panicked && len(failed) == 0 {
		failed = slices.Collect(maps.Keys(running))
	}
	slices.Sort(failed)
	switch {
	case late:
		return nil, fmt.Errorf("the tests did not end within %v", timeout)
	case len(failed) == 0 && runErr != nil:
		return nil, fmt.Errorf("go test: %w", runErr)
	case len(failed) == 0 && passed == 0:
		return nil, fmt.Errorf("no test %s in %s", r.run, r.pkg)
	}
	return failed, nil
}

func usesRapid(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, "*_test.go"))
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f) //nolint:forbidigo // sources, not data
		return err == nil && bytes.Contains(b, []byte("\"pgregory.net/rapid\""))
	})
}
