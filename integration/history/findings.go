package history

import (
	"fmt"
	"strings"
)

// Violation is one thing that may not be, with the operations that prove it.
type Violation struct {
	Kind  string // see the package's comment
	What  string
	Proof []string // operations, rendered
}

func (v Violation) String() string {
	return strings.Join(append([]string{strings.ToUpper(v.Kind) + ": " + v.What}, v.Proof...), "\n    ")
}

// maxPerKind bounds the violations that are kept of one kind; the rest is counted.
const maxPerKind = 20

type findings struct {
	list  []Violation
	count map[string]int
}

func (f *findings) add(h *History, kind string, proof []int32, format string, args ...any) {
	if f.count == nil {
		f.count = map[string]int{}
	}
	if f.count[kind]++; f.count[kind] > maxPerKind {
		return
	}
	v := Violation{Kind: kind, What: fmt.Sprintf(format, args...)}
	for _, id := range proof {
		v.Proof = append(v.Proof, h.describe(id))
	}
	f.list = append(f.list, v)
}

func (c *cell) String() string {
	if c.producer == alien {
		return fmt.Sprintf("nobody's (checksum %08x)", uint32(c.seq))
	}
	return fmt.Sprintf("%d:%d", c.producer, c.seq)
}

// Violations returns what was found so far, without the checks that need the end of the history.
func (h *History) Violations() []Violation {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Violation(nil), h.found.list...)
}
