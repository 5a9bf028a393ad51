package history

import (
	"hash/crc32"
)

// Consumer is one reader. Its methods are called by one goroutine.
type Consumer struct {
	h    *History
	name int32
	next map[int32]int64 // the offset that must come next, by partition
	last map[int32]int32 // the operation that made it so
	poll Pending
}

// Consumer returns a reader of that name. It reads no partition before Assign.
func (h *History) Consumer(name string) *Consumer {
	return &Consumer{h: h, name: h.name(name), next: map[int32]int64{}, last: map[int32]int32{}}
}

// Assign notes that the consumer starts to read a partition at an offset, be it for the first time, after a rebalance,
// a seek or a reset. offset -1: wherever the next record is.
func (c *Consumer) Assign(partition int32, offset int64) {
	p := c.h.invoke(op{action: assign, process: c.name, partition: partition, offset: offset})
	p.OK(offset)
	c.next[partition], c.last[partition] = offset, p.id
}

// BeginPoll begins a poll; Read tells its records, EndPoll its end.
func (c *Consumer) BeginPoll() { c.poll = c.h.invoke(op{action: poll, process: c.name, partition: -1}) }

// EndPoll ends the poll.
func (c *Consumer) EndPoll() { c.poll.OK(-1) }

// Read notes one record of the poll. value may be reused afterwards.
func (c *Consumer) Read(partition int32, offset int64, value []byte) {
	h := c.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if next, ok := c.next[partition]; !ok {
		h.found.add(h, "skip", []int32{c.poll.id}, "%s reads partition %d, which it was not assigned", h.names[c.name], partition)
	} else if next >= 0 && next != offset {
		kind := "skip"
		if offset < next {
			kind = "back"
		}
		h.found.add(h, kind, []int32{c.last[partition], c.poll.id}, "%s reads offset %d of partition %d where %d comes next",
			h.names[c.name], offset, partition, next)
	}
	c.next[partition], c.last[partition] = offset+1, c.poll.id
	h.see(partition, offset, value, c.poll.id)
}

// maxOffset bounds what an offset may be: a wild one must not take the memory.
const maxOffset = 1 << 28

// see notes a value at an offset and finds what differs from what was seen there before. The caller holds h.mu.
func (h *History) see(partition int32, offset int64, value []byte, by int32) {
	now := cell{producer: alien, seq: int32(crc32.ChecksumIEEE(value)), op: by}
	producer, seq, err := Parse(value)
	if err == nil {
		now.producer, now.seq = int32(producer), int32(seq)
	} else {
		h.found.add(h, "alien", []int32{by}, "partition %d offset %d: %v", partition, offset, err)
	}
	if offset < 0 || offset > maxOffset {
		h.found.add(h, "alien", []int32{by}, "partition %d has an offset %d", partition, offset)
		return
	}
	column := h.seen[partition]
	for int64(len(column)) <= offset {
		column = append(column, nil)
	}
	h.seen[partition] = column
	if old := column[offset]; old == nil {
		column[offset] = &now
	} else if old.producer != now.producer || old.seq != now.seq {
		h.found.add(h, "inconsistent", []int32{old.op, by}, "partition %d offset %d was %s and is %s", partition, offset, old, &now)
	}
}
