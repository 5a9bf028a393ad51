package segment

import (
	"sync"

	"github.com/balsa-broker/balsa/protocol/record"
)

// ring keeps the descriptions of the last entries of the active segment, contiguous in index: what Raft, the followers
// and the readers at the end ask for is answered without I/O. It grows as needed up to ringMax.
const (
	ringMin = 8
	ringMax = 512
)

type ringEntry struct {
	pos        int64
	baseOffset int64
	nextOffset int64
	maxTS      int64 // largest timestamp before the entry, in its segment
	term       uint64
	size       int32
	typ        Type
	header     [record.HeaderSize]byte // of a batch
}

type ring struct {
	buf   []ringEntry
	first uint64 // index of the oldest
	n     int
}

func (r *ring) at(i int) *ringEntry { return &r.buf[(int(r.first)+i)&(len(r.buf)-1)] }

// get returns the entry, nil when the ring does not hold it.
func (r *ring) get(index uint64) *ringEntry {
	if index < r.first || index >= r.first+uint64(r.n) {
		return nil
	}
	return r.at(int(index - r.first))
}

// push adds the entry with this index, which follows the last one, and returns it to be filled.
func (r *ring) push(index uint64) *ringEntry {
	if r.n == 0 {
		r.first = index
	}
	if r.n == len(r.buf) {
		if r.n < ringMax {
			r.grow()
		} else {
			r.first++
			r.n--
		}
	}
	r.n++
	return r.at(r.n - 1)
}

func (r *ring) grow() {
	old := *r
	r.buf = make([]ringEntry, max(ringMin, 2*len(old.buf)))
	for i := range old.n {
		*r.at(i) = *old.at(i)
	}
}

// cut removes the entries from index on.
func (r *ring) cut(index uint64) {
	if index <= r.first {
		r.n = 0
	} else if index < r.first+uint64(r.n) {
		r.n = int(index - r.first)
	}
}

func (r *ring) clear() { r.n = 0 }

// hints remember where sequential readers stopped, so that going on needs no search.
type hints struct {
	mu   sync.Mutex
	at   [8]cursor
	next int
}

func (h *hints) add(c cursor) {
	h.mu.Lock()
	h.at[h.next%len(h.at)] = c
	h.next++
	h.mu.Unlock()
}

func (h *hints) find(match func(cursor) bool) (cursor, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.at {
		if h.at[i].s != nil && match(h.at[i]) {
			return h.at[i], true
		}
	}
	return cursor{}, false
}

func (h *hints) clear() {
	h.mu.Lock()
	h.at = [8]cursor{}
	h.mu.Unlock()
}
