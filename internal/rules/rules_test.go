package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The table is of this code: what it takes out is there, once, and so are the tests that it names. Whether they fail
// shows `make rules`.
func TestTable(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "design", "safety.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules := map[int]bool{}
	for i := range removals {
		r := &removals[i]
		rules[r.rule] = true
		if _, err := r.mutate(root); err != nil {
			t.Errorf("rule %d, %s: %v", r.rule, r.what, err)
		}
		if !strings.Contains(string(page), r.line()+"\n") {
			t.Errorf("docs/design/safety.md lacks %s", r.line())
		}
		if r.old == r.new || r.what == "" {
			t.Errorf("rule %d, %s: nothing is taken out", r.rule, r.what)
		}
		files, err := filepath.Glob(filepath.Join(root, r.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var src strings.Builder
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			src.Write(b)
		}
		for name := range strings.SplitSeq(r.run, "|") {
			if !regexp.MustCompile(`func ` + regexp.QuoteMeta(name) + `\(`).MatchString(src.String()) {
				t.Errorf("rule %d, %s: there is no %s in %s", r.rule, r.what, name, r.pkg)
			}
		}
	}
	for rule := 1; rule <= 21; rule++ {
		if reason := notBuilt[rule]; rules[rule] == (reason != "") {
			t.Errorf("rule %d: %d rows have it, not built: %q", rule, len(removals), reason)
		}
	}
	if !slices.IsSortedFunc(removals, func(a, b removal) int { return a.rule - b.rule }) {
		t.Error("the table is not in the order of the rules")
	}
}
