package cluster

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/balsa-broker/balsa/cluster/meta"
)

// leaderTable is who leads what, as the leaders announced it. Nothing of it is written down: after a start it is
// pulled from the others. The highest epoch wins; within an epoch a resignation beats the claim, and of two claims the
// one with the higher sequence number (a newer in-sync set) is kept.
type leaderTable struct {
	shards [leaderShards]leaderShard
}

const leaderShards = 64

type leaderShard struct {
	mu sync.RWMutex
	m  map[partitionKey]*leadership
}

type partitionKey struct {
	topic meta.TopicID
	part  int32
}

// leadership is one announcement. Immutable once in the table.
type leadership struct {
	key      partitionKey
	node     int32
	epoch    int32
	resigned bool
	seq      uint32
	inSync   []int32
}

// after says whether a replaces b.
func (a *leadership) after(b *leadership) bool {
	if a.epoch != b.epoch {
		return a.epoch > b.epoch
	}
	if a.resigned != b.resigned {
		return a.resigned
	}
	return a.node == b.node && a.seq > b.seq
}

func newLeaderTable() *leaderTable {
	t := &leaderTable{}
	for i := range t.shards {
		t.shards[i].m = make(map[partitionKey]*leadership)
	}
	return t
}

var leaderSeed = maphash.MakeSeed()

func (t *leaderTable) shard(k partitionKey) *leaderShard {
	var b [20]byte
	copy(b[:], k.topic[:])
	binary.LittleEndian.PutUint32(b[16:], uint32(k.part))
	return &t.shards[maphash.Bytes(leaderSeed, b[:])%leaderShards]
}

func (t *leaderTable) get(k partitionKey) (*leadership, bool) {
	s := t.shard(k)
	s.mu.RLock()
	l, ok := s.m[k]
	s.mu.RUnlock()
	return l, ok
}

// put keeps l if it is newer than what is there. The table owns l from then on.
func (t *leaderTable) put(l *leadership) bool {
	s := t.shard(l.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.m[l.key]; ok && !l.after(o) {
		return false
	}
	s.m[l.key] = l
	return true
}

// each calls f with every entry of shards from first on, until f returns false; it returns the next shard to ask for,
// or leaderShards at the end. f is called with no lock held.
func (t *leaderTable) each(first int, f func(*leadership)) {
	for i := first; i < leaderShards; i++ {
		for _, l := range t.shards[i].list() {
			f(l)
		}
	}
}

func (s *leaderShard) list() []*leadership {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*leadership, 0, len(s.m))
	for _, l := range s.m {
		out = append(out, l)
	}
	return out
}

// prune forgets partitions for which keep is false.
func (t *leaderTable) prune(keep func(partitionKey) bool) {
	for i := range t.shards {
		s := &t.shards[i]
		for _, l := range s.list() {
			if keep(l.key) {
				continue
			}
			s.mu.Lock()
			delete(s.m, l.key)
			s.mu.Unlock()
		}
	}
}

// ledBy lists the partitions that node leads.
func (t *leaderTable) ledBy(node int32) []*leadership {
	var out []*leadership
	t.each(0, func(l *leadership) {
		if l.node == node && !l.resigned {
			out = append(out, l)
		}
	})
	return out
}

// digest of what node is held to lead: equal on two brokers when their tables agree about it.
func (t *leaderTable) digest(node int32) (count, sum uint64) {
	for _, l := range t.ledBy(node) {
		h := uint64(14695981039346656037)
		mix := func(v uint64) {
			for range 8 {
				h = (h ^ v&0xff) * 1099511628211
				v >>= 8
			}
		}
		mix(binary.LittleEndian.Uint64(l.key.topic[:8]))
		mix(binary.LittleEndian.Uint64(l.key.topic[8:]))
		mix(uint64(uint32(l.key.part))<<32 | uint64(uint32(l.epoch)))
		mix(uint64(l.seq))
		count, sum = count+1, sum+h
	}
	return count, sum
}

// The wire form of an announcement; a message is a row of them.
//
//	topic id 16 | partition uvarint | node uvarint | epoch uvarint | flags 1 (bit 0: resigned) | seq uvarint
//	| n uvarint | n x in-sync node uvarint
func (l *leadership) encode(b []byte) []byte {
	b = append(b, l.key.topic[:]...)
	b = binary.AppendUvarint(b, uint64(uint32(l.key.part)))
	b = binary.AppendUvarint(b, uint64(uint32(l.node)))
	b = binary.AppendUvarint(b, uint64(uint32(l.epoch)))
	var flags byte
	if l.resigned {
		flags |= 1
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, uint64(l.seq))
	b = binary.AppendUvarint(b, uint64(len(l.inSync)))
	for _, n := range l.inSync {
		b = binary.AppendUvarint(b, uint64(uint32(n)))
	}
	return b
}

var errMalformed = errors.New("cluster: malformed message")

const maxInSync = 1000

func decodeLeaderships(b []byte) ([]*leadership, error) {
	var out []*leadership
	r := reader{b: b}
	for len(r.b) > 0 && !r.bad {
		l := &leadership{}
		copy(l.key.topic[:], r.bytes(16))
		l.key.part = r.int32()
		l.node = r.int32()
		l.epoch = r.int32()
		l.resigned = r.byte()&1 != 0
		l.seq = uint32(r.uvarint())
		n := r.uvarint()
		if r.bad || n > maxInSync || n > uint64(len(r.b)) {
			return nil, errMalformed
		}
		for range n {
			l.inSync = append(l.inSync, r.int32())
		}
		if r.bad {
			return nil, errMalformed
		}
		out = append(out, l)
	}
	return out, nil
}

// reader reads a message; after the first lack of bytes everything is zero and bad is set.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte { return r.bytes(1)[0] }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || r.bad {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int32() int32 {
	v := r.uvarint()
	if v > 1<<32-1 {
		r.bad = true
	}
	return int32(uint32(v))
}

func sameNodes(a, b []int32) bool {
	return len(a) == len(b) && slices.Equal(a, b)
}
