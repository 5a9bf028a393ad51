package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// What a broker prints is for a browser on the same host, which knows no wildcard.
func TestFromHere(t *testing.T) {
	for address, want := range map[string]string{
		"[::]:9644":        "127.0.0.1:9644",
		"0.0.0.0:9644":     "127.0.0.1:9644",
		"10.1.2.3:9644":    "10.1.2.3:9644",
		"[fe80::1]:9644":   "[fe80::1]:9644",
		"broker-1:9644":    "broker-1:9644",
		"not an address":   "not an address",
		"127.0.0.1:123456": "127.0.0.1:123456",
	} {
		if got := fromHere(address); got != want {
			t.Errorf("fromHere(%q) = %q, want %q", address, got, want)
		}
	}
}

// A command that prints data prints it as JSON too.
func TestJSONEverywhere(t *testing.T) {
	without := []string{"serve", "dev", "completion", "config check"}
	eachLeaf(testApp().Commands, nil, func(path []string, c *cli.Command) {
		has := slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), "output") })
		if name := strings.Join(path, " "); has == slices.Contains(without, name) {
			t.Errorf("%s: has --output: %v", name, has)
		}
	})
}
