package votes

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// Raft's keys.
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
)

// Stable is one replica's raft.StableStore. What a setter has returned nil for is durable; with one exception: Raft
// writes a vote as LastVoteTerm, then LastVoteCand, and a crash between the two would make the replica repeat an old
// vote in a newer term. So LastVoteTerm is held back, and both become durable in one transaction when LastVoteCand is
// set (safety rule 2).
type Stable struct {
	s  *Store
	id uint64

	mu       sync.Mutex
	values   map[string][]byte // durable
	heldTerm []byte            // LastVoteTerm without its LastVoteCand
	highTerm uint64            // highest CurrentTerm accepted, durable or on its way
	deleted  bool
}

var _ raft.StableStore = (*Stable)(nil)

// Get returns a copy of a durable value, or ErrNotFound.
func (r *Stable) Get(key []byte) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.values[string(key)]
	if !ok {
		return nil, ErrNotFound
	}
	return append([]byte(nil), v...), nil
}

// GetUint64 returns a durable number, or ErrNotFound.
func (r *Stable) GetUint64(key []byte) (uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.values[string(key)]
	if !ok {
		return 0, ErrNotFound
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("votes: %s of replica %d has %d bytes", key, r.id, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}

// Set makes a value durable.
func (r *Stable) Set(key, val []byte) error {
	w := &write{s: r, keys: []string{string(key)}, values: [][]byte{append([]byte{}, val...)}}
	r.mu.Lock()
	if r.deleted {
		r.mu.Unlock()
		return ErrDeleted // a vote that could not be kept is not granted
	}
	if w.keys[0] == keyLastVoteCand && r.heldTerm != nil {
		w.keys, w.values = append(w.keys, keyLastVoteTerm), append(w.values, r.heldTerm)
		r.heldTerm = nil
	}
	if r.holdsLocked(w) {
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	if err := r.s.submit(w); err != nil {
		return fmt.Errorf("votes: set %s of replica %d: %w", key, r.id, err)
	}
	return nil
}

// SetUint64 makes a number durable; LastVoteTerm with the LastVoteCand that follows.
func (r *Stable) SetUint64(key []byte, val uint64) error {
	v := binary.BigEndian.AppendUint64(nil, val)
	if string(key) == keyLastVoteTerm {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.heldTerm = v
		return nil
	}
	if string(key) != keyCurrentTerm {
		return r.Set(key, v)
	}
	r.mu.Lock()
	if val < r.highTerm {
		defer r.mu.Unlock()
		return fmt.Errorf("%w: replica %d, from %d to %d", ErrTermBack, r.id, r.highTerm, val)
	}
	r.highTerm = val
	if r.deleted { // its Raft is ending, and must not panic; it can no longer vote
		r.mu.Unlock()
		return nil
	}
	r.mu.Unlock()
	return r.Set(key, v)
}

// holdsLocked: everything in w is durable already.
func (r *Stable) holdsLocked(w *write) bool {
	for i, k := range w.keys {
		if v, ok := r.values[k]; !ok || !bytes.Equal(v, w.values[i]) {
			return false
		}
	}
	return true
}

// committed publishes a durable write.
func (r *Stable) committed(w *write) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.delete {
		clear(r.values)
		return
	}
	for i, k := range w.keys {
		r.values[k] = w.values[i]
	}
}
