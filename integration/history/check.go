package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Final is one record of the final read of a partition.
type Final struct {
	Offset int64
	Value  []byte
}

// Check compares the history with a final and complete read of every partition, from the log start to the end, made
// when all faults had ended and all sends were decided or given up. It returns everything that was found wrong, during
// the history too.
func (h *History) Check(final map[int32][]Final) []Violation {
	last := h.Consumer("the final reader")
	last.BeginPoll()
	h.mu.Lock()
	partitions := slices.Sorted(maps.Keys(h.seen))
	h.mu.Unlock()
	for p := range final {
		if !slices.Contains(partitions, p) {
			partitions = append(partitions, p)
		}
		last.Assign(p, -1)
	}
	ends := map[int32]log{}
	for p, records := range final {
		for _, r := range records {
			last.Read(p, r.Offset, r.Value)
		}
		if n := len(records); n > 0 {
			ends[p] = log{records[0].Offset, records[n-1].Offset + 1}
		}
	}
	last.EndPoll()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.ops { // a log of which everything was deleted
		if l, ok := ends[o.partition]; o.action == deleteBelow && o.outcome == OK && len(final[o.partition]) == 0 && (!ok || l.end < o.offset) {
			ends[o.partition] = log{o.offset, o.offset}
		}
	}
	h.checkStarts(ends)
	h.checkSends(ends, last.poll.id)
	slices.Sort(partitions)
	for _, p := range partitions {
		h.checkVanished(p, ends[p], final[p], last.poll.id)
		h.checkOrder(p, final[p])
	}
	out := slices.Clone(h.found.list)
	for _, kind := range slices.Sorted(maps.Keys(h.found.count)) {
		if n := h.found.count[kind]; n > maxPerKind {
			out = append(out, Violation{Kind: kind, What: "and more of these", Proof: []string{fmt.Sprintf("%d in all", n)}})
		}
	}
	return out
}

// log is the span of offsets that the final read found. An empty log: start = end.
type log struct{ start, end int64 }

// checkStarts holds the log starts against the deletions.
func (h *History) checkStarts(ends map[int32]log) {
	asked, done := map[int32]int32{}, map[int32]int32{} // the highest of each partition
	for id, o := range h.ops {
		if o.action != deleteBelow || o.outcome == Failed {
			continue
		}
		for _, m := range []map[int32]int32{asked, done} {
			if old, ok := m[o.partition]; !ok || h.ops[old].offset < o.offset {
				m[o.partition] = int32(id)
			}
			if o.outcome != OK {
				break
			}
		}
	}
	for p, l := range ends {
		if id, ok := done[p]; ok && l.start < h.ops[id].offset {
			h.found.add(h, "log-start", []int32{id}, "partition %d starts at %d, below what was deleted", p, l.start)
		}
		if id, ok := asked[p]; l.start > 0 && (!ok || l.start > h.ops[id].offset) {
			var proof []int32
			if ok {
				proof = []int32{id}
			}
			h.found.add(h, "log-start", proof, "partition %d starts at %d, above every deletion", p, l.start)
		}
	}
}

// checkSends holds every send against what was seen.
func (h *History) checkSends(ends map[int32]log, final int32) {
	type place struct {
		partition int32
		offset    int64
	}
	where := map[[2]int32][]place{}
	for p, column := range h.seen {
		for o, c := range column {
			if c != nil && c.producer != alien {
				k := [2]int32{c.producer, c.seq}
				where[k] = append(where[k], place{p, int64(o)})
			}
		}
	}
	type from struct {
		producer, partition int32
	}
	before := map[from]int32{}
	at := map[place]int32{}
	sent := map[[2]int32]int32{}
	for i, o := range h.ops {
		if o.action != send {
			continue
		}
		id := int32(i)
		k := [2]int32{o.process, o.seq}
		sent[k] = id
		stands := where[k]
		if o.outcome == Failed && len(stands) > 0 {
			h.found.add(h, "failed-seen", []int32{id, h.seen[stands[0].partition][stands[0].offset].op},
				"%d:%d failed and stands at offset %d of partition %d", o.process, o.seq, stands[0].offset, stands[0].partition)
		}
		if o.outcome != OK {
			continue
		}
		here := place{o.partition, o.offset}
		if other, ok := at[here]; ok {
			h.found.add(h, "inconsistent", []int32{other, id}, "offset %d of partition %d was acknowledged twice", o.offset, o.partition)
		}
		at[here] = id
		f := from{o.process, o.partition}
		if prev, ok := before[f]; ok && h.ops[prev].offset >= o.offset {
			h.found.add(h, "send-order", []int32{prev, id}, "producer %d's record %d was stored at %d, its record %d at %d",
				o.process, h.ops[prev].seq, h.ops[prev].offset, o.seq, o.offset)
		}
		before[f] = id
		if slices.Contains(stands, here) {
			continue
		}
		l := ends[o.partition]
		if len(stands) > 0 {
			s := stands[0]
			h.found.add(h, "inconsistent", []int32{id, h.seen[s.partition][s.offset].op},
				"%d:%d was acknowledged at offset %d of partition %d and stands at %d of %d", o.process, o.seq, o.offset, o.partition, s.offset, s.partition)
			continue
		}
		switch {
		case o.offset >= l.end:
			h.found.add(h, "unseen", []int32{id, final}, "%d:%d was acknowledged at offset %d of partition %d, which ends at %d",
				o.process, o.seq, o.offset, o.partition, l.end)
		case o.offset >= l.start:
			h.found.add(h, "lost", []int32{id, final}, "%d:%d was acknowledged at offset %d of partition %d, which holds something else",
				o.process, o.seq, o.offset, o.partition)
		}
	}
	for k, stands := range where {
		if id, ok := sent[k]; !ok {
			s := stands[0]
			h.found.add(h, "alien", []int32{h.seen[s.partition][s.offset].op}, "%d:%d at offset %d of partition %d was never sent", k[0], k[1], s.offset, s.partition)
		} else if len(stands) > 1 {
			slices.SortFunc(stands, func(a, b place) int {
				return cmp.Or(cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
			})
			proof := []int32{id}
			for _, s := range stands {
				proof = append(proof, h.seen[s.partition][s.offset].op)
			}
			h.found.add(h, "duplicate", proof, "%d:%d stands %d times: %v (partition, offset)", k[0], k[1], len(stands), stands)
		}
	}
}

// checkVanished finds what somebody read and the final read does not have, and holes of the final read.
func (h *History) checkVanished(p int32, l log, final []Final, last int32) {
	there := map[int64]bool{}
	for _, r := range final {
		there[r.Offset] = true
	}
	for o, c := range h.seen[p] {
		if c != nil && int64(o) >= l.start && !there[int64(o)] {
			h.found.add(h, "lost", []int32{c.op, last}, "%s was read at offset %d of partition %d and is gone", c, o, p)
		}
	}
}

// at returns what was seen at an offset, or nil.
func (h *History) at(p int32, offset int64) *cell {
	if offset < 0 || offset >= int64(len(h.seen[p])) {
		return nil
	}
	return h.seen[p][offset]
}

// checkOrder finds records of one producer that stand in another order than they were sent.
func (h *History) checkOrder(p int32, final []Final) {
	last := map[int32]int64{} // producer -> offset of its last record
	for _, r := range final {
		c := h.at(p, r.Offset)
		if c == nil || c.producer == alien {
			continue
		}
		if o, ok := last[c.producer]; ok && h.seen[p][o].seq > c.seq {
			h.found.add(h, "order", []int32{h.seen[p][o].op, c.op}, "partition %d: %s at offset %d stands before %s at %d", p, h.seen[p][o], o, c, r.Offset)
		}
		last[c.producer] = r.Offset
	}
}
