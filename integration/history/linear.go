package history

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// ErrUndecided is returned when a history has too many concurrent operations to be decided in time.
var ErrUndecided = errors.New("history: linearizability was not decided in time")

// maxUnknown bounds the sends without an outcome that Linearizable takes: each may stand anywhere or nowhere.
const maxUnknown = 20

// Linearizable checks with Porcupine whether one partition behaved as if every send appended its record, every read
// looked at one offset and every question for the end counted the records at one instant between its begin and its
// end. It is meant for some hundreds of operations, on a partition from which nothing was deleted. It returns nil when
// that is so, or the violation.
func (h *History) Linearizable(partition int32, timeout time.Duration) (*Violation, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	operations, err := h.operations(partition)
	if err != nil {
		return nil, err
	}
	result, info := porcupine.CheckOperationsVerbose(partitionModel, operations, timeout)
	switch result {
	case porcupine.Ok:
		return nil, nil
	case porcupine.Unknown:
		return nil, ErrUndecided
	}
	// The proof: what no order could take after the longest one that was found.
	var longest []int
	for _, l := range info.PartialLinearizations()[0] {
		if len(l) > len(longest) {
			longest = l
		}
	}
	v := &Violation{Kind: "linearizability", What: fmt.Sprintf("partition %d: %d of %d operations fit one order, then none of these does",
		partition, len(longest), len(operations))}
	stuck := map[int]bool{}
	for i := range operations {
		stuck[i] = true
	}
	for _, i := range longest {
		delete(stuck, i)
	}
	var rest []porcupine.Operation
	for i, o := range operations {
		if stuck[i] {
			rest = append(rest, o)
		}
	}
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, o := range rest[:min(len(rest), 10)] {
		step := o.Input.(step)
		v.Proof = append(v.Proof, strings.TrimSpace(step.String()+" "+h.describe(step.id)))
	}
	return v, nil
}

// step is what one operation did to the model. offset -1: not known.
type step struct {
	action action // send, poll (a read at offset) or endOffset
	value  uint64
	offset int64
	id     int32
}

func (s step) String() string {
	if s.action == poll {
		return fmt.Sprintf("reads %d:%d at %d in", s.value>>32, uint32(s.value), s.offset)
	}
	return ""
}

func packed(producer, seq int32) uint64 { return uint64(uint32(producer))<<32 | uint64(uint32(seq)) }

// operations are a partition's operations as Porcupine takes them. The caller holds h.mu.
func (h *History) operations(partition int32) ([]porcupine.Operation, error) {
	var out []porcupine.Operation
	at := map[uint64]int64{}
	end := func(o op) int64 {
		if o.end == 0 || o.outcome == Unknown {
			return math.MaxInt64
		}
		return int64(o.end)
	}
	for o, c := range h.seen[partition] {
		if c == nil {
			continue
		}
		s := step{action: poll, value: packed(c.producer, c.seq), offset: int64(o), id: c.op}
		at[s.value] = s.offset
		by := h.ops[c.op]
		out = append(out, porcupine.Operation{Input: s, Call: int64(by.begin), Return: end(by)})
	}
	unknown := 0
	for i, o := range h.ops {
		if o.partition != partition || o.outcome == Failed {
			continue
		}
		s := step{action: o.action, offset: o.offset, id: int32(i)}
		switch {
		case o.action == send:
			s.value = packed(o.process, o.seq)
			if o.outcome == Unknown {
				var seen bool
				if s.offset, seen = at[s.value]; !seen {
					s.offset = -1
					unknown++
				}
			}
		case o.action != endOffset || o.outcome != OK:
			continue
		}
		out = append(out, porcupine.Operation{Input: s, Call: int64(o.begin), Return: end(o)})
	}
	if unknown > maxUnknown {
		return nil, fmt.Errorf("%w: %d sends without an outcome", ErrUndecided, unknown)
	}
	return out, nil
}

// partitionModel is a partition: a slice of values.
var partitionModel = porcupine.Model{
	Init: func() any { return []uint64(nil) },
	Step: func(state, input, _ any) (bool, any) {
		log, s := state.([]uint64), input.(step)
		switch s.action {
		case send:
			if s.offset >= 0 && s.offset != int64(len(log)) {
				return false, log
			}
			return true, append(slices.Clip(log), s.value)
		case poll:
			return s.offset < int64(len(log)) && log[s.offset] == s.value, log
		default:
			return s.offset == int64(len(log)), log
		}
	},
	Equal: func(a, b any) bool { return slices.Equal(a.([]uint64), b.([]uint64)) },
}
