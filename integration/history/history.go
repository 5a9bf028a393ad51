// Package history records what producers, consumers and admin clients did and saw on one topic, and finds what may
// not be, in the manner of Jepsen's Kafka workload. Each finding names the operations that prove it. The package knows
// no client: real clients and simulated ones record alike.
//
// What is looked for (Kind):
//
//	lost          acknowledged, or read by somebody, and the log goes past its offset without it
//	unseen        acknowledged, and the log ends below its offset
//	duplicate     one value at two offsets
//	inconsistent  one offset with two values, or two acknowledgements of one offset
//	skip, back    a consumer's next record is not the next offset, within one assignment
//	order         a producer's records stand in another order than it sent them
//	send-order    a producer's acknowledged offsets of a partition do not rise
//	failed-seen   a record whose send definitely failed is there
//	alien         a value that nobody sent: damaged, or from elsewhere
//	log-start     the log begins below an acknowledged DeleteRecords, or above every one that was asked for
//
// Small histories can also be checked for linearizability, see Linearizable.
package history

import (
	"fmt"
	"sync"
	"time"
)

// Outcome says how an operation ended, as its client knows it.
type Outcome uint8

// A send that is Unknown may have been stored; one that Failed definitely has not and never will be.
const (
	Unknown Outcome = iota
	OK
	Failed
)

func (o Outcome) String() string { return [...]string{"unknown", "ok", "failed"}[o] }

type action uint8

const (
	send action = iota
	poll
	assign
	deleteBelow
	endOffset
)

// op is one operation. Times are since the history's start; end 0 has not returned.
type op struct {
	action     action
	outcome    Outcome
	process    int32 // of a send: the producer; else an index into names
	seq        int32
	partition  int32
	offset     int64
	begin, end time.Duration
}

// cell is what was seen at an offset: whose record, and the poll that saw it first.
type cell struct{ producer, seq, op int32 }

// alien in the place of a producer: the value is nobody's, and seq its checksum.
const alien = -1

// History of one topic. Its methods may be called concurrently. It grows by about 100 bytes per record.
type History struct {
	mu      sync.Mutex
	started time.Time
	ops     []op
	names   []string
	seen    map[int32][]*cell // by partition and offset
	found   findings
}

// New returns an empty history that begins now.
func New() *History { return &History{started: time.Now(), seen: map[int32][]*cell{}} }

// Pending is an operation that was begun. Exactly one of its methods that say an outcome may be called, once; none
// when it never returned.
type Pending struct {
	h  *History
	id int32
}

func (h *History) invoke(o op) Pending {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.begin = time.Since(h.started)
	h.ops = append(h.ops, o)
	return Pending{h, int32(len(h.ops) - 1)}
}

func (p Pending) end(outcome Outcome, offset int64) {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	o := &p.h.ops[p.id]
	o.outcome, o.end = outcome, max(time.Since(p.h.started), 1)
	if offset >= 0 {
		o.offset = offset
	}
}

// OK says that the operation succeeded. offset is where a sent record was stored, or the answered end offset; it is
// ignored (-1) for a deletion.
func (p Pending) OK(offset int64) { p.end(OK, offset) }

// Failed says that the operation definitely did nothing and never will.
func (p Pending) Failed() { p.end(Failed, -1) }

// Unknown says that the client was told nothing certain: it may or may not have happened, or may happen yet.
func (p Pending) Unknown() { p.end(Unknown, -1) }

// Send begins the send of Value(producer, seq, ...). A producer's sends are begun in the order of seq.
func (h *History) Send(producer, seq int, partition int32) Pending {
	return h.invoke(op{action: send, process: int32(producer), seq: int32(seq), partition: partition, offset: -1})
}

// Delete begins a DeleteRecords: afterwards the log starts at offset or above.
func (h *History) Delete(admin string, partition int32, offset int64) Pending {
	return h.invoke(op{action: deleteBelow, process: h.name(admin), partition: partition, offset: offset})
}

// End begins a ListOffsets for the latest offset; OK tells the answer.
func (h *History) End(admin string, partition int32) Pending {
	return h.invoke(op{action: endOffset, process: h.name(admin), partition: partition, offset: -1})
}

func (h *History) name(s string) int32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, n := range h.names {
		if n == s {
			return int32(i)
		}
	}
	h.names = append(h.names, s)
	return int32(len(h.names) - 1)
}

// Count returns the number of acknowledged sends so far.
func (h *History) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, o := range h.ops {
		if o.action == send && o.outcome == OK {
			n++
		}
	}
	return n
}

// Operations returns the number of operations begun so far.
func (h *History) Operations() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// describe renders an operation as a proof shows it.
func (h *History) describe(id int32) string {
	o := h.ops[id]
	what := ""
	switch o.action {
	case send:
		what = fmt.Sprintf("producer %d sends %d:%d to partition %d", o.process, o.process, o.seq, o.partition)
		if o.outcome == OK {
			what += fmt.Sprintf(", stored at %d", o.offset)
		}
	case poll:
		what = h.names[o.process] + " polls"
	case assign:
		what = fmt.Sprintf("%s starts reading partition %d at %d", h.names[o.process], o.partition, o.offset)
	case deleteBelow:
		what = fmt.Sprintf("%s deletes partition %d below %d", h.names[o.process], o.partition, o.offset)
	case endOffset:
		what = fmt.Sprintf("%s asks for the end of partition %d: %d", h.names[o.process], o.partition, o.offset)
	}
	end := "never returned"
	if o.end > 0 {
		end = fmt.Sprintf("%.3fs %v", o.end.Seconds(), o.outcome)
	}
	return fmt.Sprintf("#%d %s [%.3fs, %s]", id, what, o.begin.Seconds(), end)
}
