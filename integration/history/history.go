// Package history records what producers and consumers saw and checks it: nothing acknowledged is missing, nothing
// is there twice, every producer's records stand in the order it sent them, offsets are dense, and an offset has one
// value for ever.
package history

import (
	"fmt"
	"hash/maphash"
	"sort"
	"strings"
	"sync"
)

// At names a record's place.
type At struct {
	Partition int32
	Offset    int64
}

// Sent is one record that a producer was told is stored.
type Sent struct {
	At
	Producer, Seq int
}

// History of one topic. Its methods may be called concurrently.
type History struct {
	mu     sync.Mutex
	acked  []Sent
	failed map[[2]int]bool // producer, seq: told that it failed, so it may or may not be there
	seen   map[At]uint64   // hash of what a reader saw there
	errs   []string
	seed   maphash.Seed
}

// New returns an empty history.
func New() *History {
	return &History{failed: map[[2]int]bool{}, seen: map[At]uint64{}, seed: maphash.MakeSeed()}
}

// Value is the value of a producer's seq-th record, padded to size.
func Value(producer, seq, size int) []byte {
	s := fmt.Sprintf("%d:%d:", producer, seq)
	if len(s) < size {
		s += strings.Repeat("x", size-len(s))
	}
	return []byte(s)
}

// Parse is the inverse of Value.
func Parse(v []byte) (producer, seq int, err error) {
	_, err = fmt.Sscanf(string(v[:min(len(v), 40)]), "%d:%d:", &producer, &seq)
	return producer, seq, err
}

// Acked notes an acknowledgement.
func (h *History) Acked(producer, seq int, partition int32, offset int64) {
	h.mu.Lock()
	h.acked = append(h.acked, Sent{At{partition, offset}, producer, seq})
	h.mu.Unlock()
}

// Failed notes that a producer was told that a record failed.
func (h *History) Failed(producer, seq int) {
	h.mu.Lock()
	h.failed[[2]int{producer, seq}] = true
	h.mu.Unlock()
}

// Count returns the number of acknowledgements so far.
func (h *History) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.acked)
}

// Read notes what a reader saw at an offset. A different value than before is a violation.
func (h *History) Read(partition int32, offset int64, value []byte) {
	sum := maphash.Bytes(h.seed, value)
	h.mu.Lock()
	defer h.mu.Unlock()
	at := At{partition, offset}
	if old, ok := h.seen[at]; ok && old != sum {
		h.errs = append(h.errs, fmt.Sprintf("partition %d offset %d changed its value", partition, offset))
	}
	h.seen[at] = sum
}

// Final is one record of the final read of a partition, in order.
type Final struct {
	Offset int64
	Value  []byte
}

// Check compares the history with a final, complete read of every partition and returns what is wrong.
func (h *History) Check(final map[int32][]Final) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := append([]string(nil), h.errs...)
	bad := func(f string, a ...any) {
		if len(errs) < 50 {
			errs = append(errs, fmt.Sprintf(f, a...))
		}
	}
	type id struct{ producer, seq int }
	where := map[id][]At{}
	finalSum := map[At]uint64{}
	for p, records := range final {
		last := map[int]int{}
		for i, r := range records {
			if r.Offset != int64(i)+records[0].Offset {
				bad("partition %d: offset %d follows %d", p, r.Offset, records[i-1].Offset)
			}
			producer, seq, err := Parse(r.Value)
			if err != nil {
				bad("partition %d offset %d holds a record nobody sent", p, r.Offset)
				continue
			}
			at := At{p, r.Offset}
			finalSum[at] = maphash.Bytes(h.seed, r.Value)
			where[id{producer, seq}] = append(where[id{producer, seq}], at)
			if l, ok := last[producer]; ok && seq <= l {
				bad("partition %d offset %d: producer %d's record %d after %d", p, r.Offset, producer, seq, l)
			}
			last[producer] = seq
		}
	}
	for k, at := range where {
		if len(at) > 1 {
			bad("producer %d's record %d stands %d times: %v", k.producer, k.seq, len(at), at)
		}
	}
	sort.Slice(h.acked, func(i, j int) bool {
		a, b := h.acked[i], h.acked[j]
		return a.Partition < b.Partition || a.Partition == b.Partition && a.Offset < b.Offset
	})
	lost := 0
	for _, s := range h.acked {
		at := where[id{s.Producer, s.Seq}]
		switch {
		case len(at) == 0:
			lost++
			bad("LOST: producer %d's record %d, acknowledged at partition %d offset %d", s.Producer, s.Seq, s.Partition, s.Offset)
		case len(at) == 1 && at[0] != s.At:
			bad("producer %d's record %d was acknowledged at %v and stands at %v", s.Producer, s.Seq, s.At, at[0])
		}
	}
	if lost > 0 {
		bad("%d of %d acknowledged records lost", lost, len(h.acked))
	}
	for at, sum := range h.seen {
		if f, ok := finalSum[at]; !ok {
			bad("partition %d offset %d was read and is gone", at.Partition, at.Offset)
		} else if f != sum {
			bad("partition %d offset %d was read with another value", at.Partition, at.Offset)
		}
	}
	return errs
}
