//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

func TestMain(m *testing.M) {
	if _, err := harness.Build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	harness.RemoveBuild()
	os.Exit(code)
}

// rounds is how often a fault is injected: $BALSA_ROUNDS, else the short slice of CI.
func rounds(short int) int {
	if n, err := strconv.Atoi(os.Getenv("BALSA_ROUNDS")); err == nil && n > 0 {
		return n
	}
	return short
}

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// start runs a cluster for the length of the test; what the brokers printed is shown when the test failed.
func start(t *testing.T, o harness.Options) *harness.Cluster {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := harness.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if dir := os.Getenv("BALSA_LOGS"); dir != "" { // keep what the brokers printed, also of tests that pass
			for _, n := range c.Nodes {
				b, _ := os.ReadFile(n.Log)
				_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d.log", filepath.Base(t.Name()), n.ID)), b, 0o644)
			}
		}
		if t.Failed() {
			for _, n := range c.Nodes {
				t.Logf("--- broker %d\n%s", n.ID, n.Tail(8000))
			}
		}
	})
	if err := c.Start(deadline(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
