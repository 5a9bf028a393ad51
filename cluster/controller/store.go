package controller

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/balsa-broker/balsa/cluster/votes"
)

// store is the log and the stable store of the controller group over one bbolt file. Every call that writes has
// synced the file when it returns.
type store struct {
	bolt *raftboltdb.BoltStore

	// first is called when the first entry was stored, before anyone hears of it.
	first func() error
	// snapshot is the newest one's meta; nil until there is a snapshot store.
	snapshot func() *raft.SnapshotMeta
	// stop ends the member after an error that raft cannot live with (safety rule 7).
	stop func(error)

	truncated             bool // a suffix was cut since the last append; only raft's goroutine
	firstIndex, lastIndex atomic.Uint64

	mu       sync.Mutex // guards what follows; raft's vote and heartbeat paths may meet
	term     uint64
	hasTerm  bool
	voteTerm uint64 // of the vote on disk
	voteCand []byte
	heldTerm uint64 // LastVoteTerm as raft set it, not yet on disk
	held     bool
	dead     error // a term could not be stored
}

// Keys of the stable store. raft's LastVoteTerm and LastVoteCand live in one key, see Set.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteCand = "LastVoteCand"
	keyState    = "State" // see save
	keyWipe     = "Wipe"  // see wipe.go
)

// reserveBytes of disk are taken at once, so that the controller's log goes on while the disk is full (safety rule 14).
const reserveBytes = 8 << 20

func openStore(dir string) (*store, error) {
	path := filepath.Join(dir, "raft.db")
	// bbolt makes a file that grows at least as large as its map: the two sizes are one.
	options := &bbolt.Options{Timeout: time.Second, InitialMmapSize: reserveBytes}
	if err := votes.Prepare(path, 0o600, options, func(*bbolt.Tx) error { return nil }); err != nil {
		return nil, fmt.Errorf("open the controller's log %s: %w", path, err)
	}
	b, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: options})
	if err != nil {
		return nil, fmt.Errorf("open the controller's log %s: %w", path, err)
	}
	s := &store{bolt: b, stop: func(error) {}}
	// A disk that is full already has no room for a reserve; what is there must be served all the same.
	if err := votes.Reserve(path, reserveBytes); err != nil && !errors.Is(err, syscall.ENOSPC) {
		return nil, errors.Join(fmt.Errorf("reserve %d bytes for the controller's log %s: %w", reserveBytes, path, err), b.Close())
	}
	// bbolt syncs the file, not its name, nor the folder's.
	if err := errors.Join(syncDir(dir), syncDir(filepath.Dir(dir))); err != nil {
		return nil, errors.Join(fmt.Errorf("sync the controller's folder %s: %w", dir, err), b.Close())
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the controller's log %s: %w", path, err), b.Close())
	}
	return s, nil
}

// load reads what is there, all of it: ErrDamaged when an entry, the term or the vote is not what was written.
func (s *store) load() (err error) {
	defer func() { // raft-boltdb panics on a key or a number of less than eight bytes
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", votes.ErrDamaged, r)
		}
	}()
	v, err := s.bolt.Get([]byte(keyState))
	switch {
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
	case err != nil:
		return err
	default:
		if v, err = unseal(keyState, v); err != nil {
			return err
		}
		if len(v) < 17 {
			return fmt.Errorf("%w: a term and vote of %d bytes", votes.ErrDamaged, len(v))
		}
		s.term, s.hasTerm, s.voteTerm, s.voteCand = binary.BigEndian.Uint64(v), v[8] == 1, binary.BigEndian.Uint64(v[9:]), v[17:]
	}
	if err := s.bounds(); err != nil {
		return err
	}
	return s.checkLog()
}

// bounds reads the first and the last index; between the writes, which raft does one at a time, they are constant.
func (s *store) bounds() error {
	first, err := s.bolt.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.bolt.LastIndex()
	if err != nil {
		return err
	}
	s.firstIndex.Store(first)
	s.lastIndex.Store(last)
	return nil
}

func (s *store) FirstIndex() (uint64, error) { return s.firstIndex.Load(), nil }
func (s *store) LastIndex() (uint64, error)  { return s.lastIndex.Load(), nil }

func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// GetLog also knows the term of the newest snapshot's last entry, without its data. Behind an installed snapshot the log
// begins after it, and raft looks there for the entry before the first: without an answer it refuses every append
// from there, is sent the same snapshot, and so on for ever. Nobody is sent such an entry: raft's leader first asks for
// the one before it (there is one: S > 1), which is not there.
func (s *store) GetLog(index uint64, l *raft.Log) error {
	err := s.bolt.GetLog(index, l)
	if err == nil {
		// Checked at the start: the disk changed it since. raft would panic over an error.
		if err := checkEntry(index, l); err != nil {
			s.stop(err)
			runtime.Goexit()
		}
		l.Extensions = nil
		return nil
	}
	if errors.Is(err, raft.ErrLogNotFound) && index > 1 && s.snapshot != nil {
		if m := s.snapshot(); m.Index == index {
			*l = raft.Log{Index: index, Term: m.Term, Type: raft.LogNoop}
			return nil
		}
	}
	return err
}

func (s *store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l
		c.Extensions = entrySum(l)
		sealed[i] = &c
	}
	if err := s.bolt.StoreLogs(sealed); err != nil {
		err = fmt.Errorf("store the controller's log: %w", err)
		if s.truncated {
			s.stop(err) // raft believes the entries that were cut to be there still
		}
		return err
	}
	s.truncated = false
	if s.lastIndex.Load() == 0 {
		if err := s.first(); err != nil {
			return err
		}
	}
	s.firstIndex.CompareAndSwap(0, logs[0].Index)
	s.lastIndex.Store(logs[len(logs)-1].Index)
	return nil
}

func (s *store) DeleteRange(first, last uint64) error {
	if err := s.bolt.DeleteRange(first, last); err != nil {
		return fmt.Errorf("delete %d to %d of the controller's log: %w", first, last, err)
	}
	s.truncated = last >= s.lastIndex.Load()
	return s.bounds()
}

// IsMonotonic makes raft empty the log after it installed a snapshot: the snapshot lies ahead of the log then, and what
// was before it must not be read behind it.
func (s *store) IsMonotonic() bool { return true }

// termAt is the term of a stored entry.
func (s *store) termAt(index uint64) (uint64, bool) {
	if index == 0 || index < s.firstIndex.Load() || index > s.lastIndex.Load() {
		return 0, false
	}
	var l raft.Log
	if err := s.bolt.GetLog(index, &l); err != nil || checkEntry(index, &l) != nil {
		return 0, false
	}
	return l.Term, true
}

// SetUint64 keeps LastVoteTerm back until the candidate is known.
func (s *store) SetUint64(key []byte, v uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyVoteTerm:
		s.heldTerm, s.held = v, true
		return nil
	case keyTerm:
		if s.hasTerm && s.term == v {
			return nil
		}
		if err := s.save(v, true, s.voteTerm, s.voteCand); err != nil {
			// raft would panic, and take every partition of the broker down. No vote is given after this.
			s.dead = fmt.Errorf("store the controller's term: %w", err)
			s.stop(s.dead)
			return nil
		}
		return nil
	}
	return s.bolt.SetUint64(key, v)
}

// save writes term and vote as one value of one key, so no crash leaves a new term with an old candidate (safety rule 2),
// and neither can be missing without the other. mu is held.
//
//	"State" -> | term 8 | 1: it was set | term of the vote 8 | candidate's server id | CRC-32C 4 |
func (s *store) save(term uint64, hasTerm bool, voteTerm uint64, cand []byte) error {
	v := binary.BigEndian.AppendUint64(nil, term)
	if hasTerm {
		v = append(v, 1)
	} else {
		v = append(v, 0)
	}
	v = append(binary.BigEndian.AppendUint64(v, voteTerm), cand...)
	if err := s.bolt.Set([]byte(keyState), seal(keyState, v)); err != nil {
		return err
	}
	s.term, s.hasTerm, s.voteTerm, s.voteCand = term, hasTerm, voteTerm, bytes.Clone(cand)
	return nil
}

// Set writes a vote with the term that was held back.
func (s *store) Set(key, v []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead != nil {
		return s.dead
	}
	if string(key) != keyVoteCand {
		return s.bolt.Set(key, v)
	}
	term := s.voteTerm
	if s.held {
		term = s.heldTerm
	}
	if term == s.voteTerm && string(v) == string(s.voteCand) {
		s.held = false
		return nil
	}
	if err := s.save(s.term, s.hasTerm, term, v); err != nil {
		return fmt.Errorf("store the controller's vote: %w", err)
	}
	s.held = false
	return nil
}

// Get answers what is on disk: a term that is held back is no vote.
func (s *store) Get(key []byte) ([]byte, error) {
	if string(key) == keyVoteCand {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.voteCand) == 0 {
			return nil, raftboltdb.ErrKeyNotFound
		}
		return append([]byte(nil), s.voteCand...), nil
	}
	return s.bolt.Get(key)
}

func (s *store) GetUint64(key []byte) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch string(key) {
	case keyVoteTerm:
		if len(s.voteCand) == 0 {
			return 0, raftboltdb.ErrKeyNotFound
		}
		return s.voteTerm, nil
	case keyTerm:
		if !s.hasTerm {
			return 0, raftboltdb.ErrKeyNotFound
		}
		return s.term, nil
	}
	return s.bolt.GetUint64(key)
}

// forgetTerm undoes a bootstrap of which only the term was written: raft would refuse another. Nothing was stored,
// voted or promised under it.
func (s *store) forgetTerm() error {
	if !s.hasTerm || s.term == 0 || s.lastIndex.Load() > 0 || len(s.voteCand) > 0 {
		return nil
	}
	return s.SetUint64([]byte(keyTerm), 0)
}

func (s *store) close() error { return s.bolt.Close() }
