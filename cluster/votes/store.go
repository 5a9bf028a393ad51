// Package votes keeps the terms and votes of all Raft groups of a broker in one bbolt file: cached in memory, written
// only when they change, and with one transaction for all that wait.
//
//	bucket "votes":  replica id (8, big-endian) + key  ->  value
//	                 "sum"                             ->  sum of the FNV-64a hashes of all other keys and values (8),
//	                                                       transaction that wrote it (8), which is every one
package votes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/balsa-broker/balsa/vfs"
)

var (
	// ErrNotFound is what Raft expects of a key that was never set: it compares the text.
	ErrNotFound = errors.New("not found")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("votes: closed")
	// ErrFailed: a write failed. Nothing more is written until the store is opened again: what the file holds is not
	// known (safety rule 8).
	ErrFailed = errors.New("votes: a write failed earlier")
	// ErrDeleted: the replica's keys were deleted.
	ErrDeleted = errors.New("votes: replica was deleted")
	// ErrTermBack: Raft wanted to set a group's term back, which two of its goroutines can do together.
	ErrTermBack = errors.New("votes: a term does not go back")
)

// Options of a Store. Zero values work.
type Options struct {
	Logger *slog.Logger // nil: none
	// ReserveBytes of disk are taken at once, so that votes can be written on a full disk (safety rule 14). Default
	// 16 MiB, enough for some 50,000 replicas; negative: none.
	ReserveBytes int64
	// LockTimeout is how long to wait for another process to let go of the file. Default 1 s.
	LockTimeout time.Duration
	// OnFailure is called once, when a write has failed; on a goroutine of its own.
	OnFailure func(error)
	// Perm of the file. Default 0o600.
	Perm fs.FileMode

	beforeCommit func() error // tests: the disk
}

// Store is the file. Its methods may overlap.
type Store struct {
	o  Options
	db *bolt.DB

	mu       sync.Mutex
	replicas map[uint64]*Stable
	sum      uint64 // only the writer's, once open
	waiting  []*write
	wake     chan struct{} // capacity 1
	closed   bool
	err      error // sticky
	done     chan struct{}
}

// write is a set of keys of one replica that become durable together.
type write struct {
	s      *Stable
	keys   []string
	values [][]byte // same length
	delete bool     // all keys of the replica
	done   chan error
}

var (
	bucketName = []byte("votes")
	sumKey     = []byte("sum")
)

// hash of a key and its value. Their sum is kept beside them, with the transaction: together they tell a file in which a
// bit has flipped, or older pages have come back, from what was written.
func hash(k, v []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(k))))
	_, _ = h.Write(k)
	_, _ = h.Write(v)
	return h.Sum64()
}

// Open opens or creates the file at path, which its folder must exist for. One process at a time. ErrDamaged: the file is
// not as it was written; nothing of it may be believed.
func Open(path string, o Options) (*Store, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = 16 << 20
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if o.Perm == 0 {
		o.Perm = 0o600
	}
	db, err := openFile(path, o)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("votes: open %s: held by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("votes: open %s: %w", path, err)
	}
	s := &Store{o: o, db: db, replicas: map[uint64]*Stable{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if err := s.load(path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	go s.writer()
	return s, nil
}

func openFile(path string, o Options) (*bolt.DB, error) {
	options := &bolt.Options{
		Timeout: o.LockTimeout, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: int(max(o.ReserveBytes, 1<<20)),
	}
	err := Prepare(path, o.Perm, options, func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(bucketName)
		if err != nil {
			return err
		}
		return putSum(tx, b, 0)
	})
	if err != nil {
		return nil, err
	}
	return bolt.Open(path, o.Perm, options)
}

func putSum(tx *bolt.Tx, b *bolt.Bucket, sum uint64) error {
	return b.Put(sumKey, binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, sum), uint64(tx.ID())))
}

func (s *Store) load(path string) error {
	if s.o.ReserveBytes > 0 {
		if err := Reserve(path, s.o.ReserveBytes); err != nil {
			return fmt.Errorf("votes: reserve %d bytes for %s: %w", s.o.ReserveBytes, path, err)
		}
	}
	// A committed transaction at every start: whatever an earlier process wrote without a completed sync is synced
	// before it counts (safety rule 8).
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketName)
		if b == nil {
			return fmt.Errorf("%w: no bucket", ErrDamaged)
		}
		b.FillPercent = 0.9
		var sum []byte
		err := b.ForEach(func(k, v []byte) error {
			if bytes.Equal(k, sumKey) {
				sum = v
				return nil
			}
			if len(k) < 8 {
				return fmt.Errorf("%w: key of %d bytes", ErrDamaged, len(k))
			}
			s.sum += hash(k, v)
			r := s.replica(binary.BigEndian.Uint64(k))
			r.values[string(k[8:])] = append([]byte(nil), v...)
			if string(k[8:]) == keyCurrentTerm && len(v) == 8 {
				r.highTerm = binary.BigEndian.Uint64(v)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(sum) != 16 || binary.BigEndian.Uint64(sum) != s.sum || binary.BigEndian.Uint64(sum[8:]) != uint64(tx.ID())-1 {
			return fmt.Errorf("%w: the sum of the keys and values is another", ErrDamaged)
		}
		return putSum(tx, b, s.sum)
	})
	if err != nil {
		return fmt.Errorf("votes: read %s: %w", path, err)
	}
	// bbolt syncs the file, not its name.
	if err := vfs.OS().SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("votes: sync the folder of %s: %w", path, err)
	}
	return nil
}

// Replica returns the raft.StableStore of one replica: always the same one for an id.
func (s *Store) Replica(replicaID uint64) *Stable {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.replica(replicaID)
}

func (s *Store) replica(id uint64) *Stable {
	r, ok := s.replicas[id]
	if !ok {
		r = &Stable{s: s, id: id, values: map[string][]byte{}}
		s.replicas[id] = r
	}
	return r
}

// Has says whether the replica has any durable key.
func (s *Store) Has(replicaID uint64) bool {
	s.mu.Lock()
	r, ok := s.replicas[replicaID]
	s.mu.Unlock()
	if !ok {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.values) > 0
}

// Delete durably removes all keys of a replica, which is never to come back: later writes through its Stable leave
// nothing. The group should have been shut down.
func (s *Store) Delete(replicaID uint64) error {
	r := s.Replica(replicaID)
	r.mu.Lock()
	r.deleted = true
	r.mu.Unlock()
	if err := s.submit(&write{s: r, delete: true}); err != nil {
		return fmt.Errorf("votes: delete replica %d: %w", replicaID, err)
	}
	s.mu.Lock()
	delete(s.replicas, replicaID)
	s.mu.Unlock()
	return nil
}

// submit waits until the write is durable.
func (s *Store) submit(w *write) error {
	w.done = make(chan error, 1)
	s.mu.Lock()
	if err := s.stateLocked(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return <-w.done
}

func (s *Store) stateLocked() error {
	if s.closed {
		return ErrClosed
	}
	return s.err
}

// writer commits what waits, in one transaction; what comes meanwhile waits for the next.
func (s *Store) writer() {
	defer close(s.done)
	for range s.wake {
		for {
			s.mu.Lock()
			batch := s.waiting
			s.waiting = nil
			err, closed := s.err, s.closed
			s.mu.Unlock()
			if len(batch) == 0 {
				if closed {
					return
				}
				break
			}
			batch = refuseDeleted(batch)
			if err == nil {
				if err = s.commit(batch); err != nil {
					err = s.fail(err)
				}
			}
			for _, w := range batch {
				if err == nil {
					w.s.committed(w)
				}
				w.done <- err
			}
		}
	}
}

// refuseDeleted ends the writes of replicas that were deleted meanwhile.
func refuseDeleted(batch []*write) []*write {
	kept := batch[:0]
	for _, w := range batch {
		w.s.mu.Lock()
		dead := w.s.deleted && !w.delete
		w.s.mu.Unlock()
		if dead {
			w.done <- ErrDeleted
			continue
		}
		kept = append(kept, w)
	}
	return kept
}

func (s *Store) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrFailed, err)
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.o.Logger.Error("terms and votes cannot be written any more, no replica of this broker votes", "error", err)
	if s.o.OnFailure != nil {
		go s.o.OnFailure(err)
	}
	return err
}

func (s *Store) commit(batch []*write) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketName)
		was := func(k []byte) {
			if v := b.Get(k); v != nil {
				s.sum -= hash(k, v)
			}
		}
		for _, w := range batch {
			prefix := binary.BigEndian.AppendUint64(nil, w.s.id)
			if w.delete {
				c := b.Cursor()
				for k, _ := c.Seek(prefix); len(k) >= 8 && binary.BigEndian.Uint64(k) == w.s.id; k, _ = c.Seek(prefix) {
					was(k)
					if err := b.Delete(k); err != nil {
						return err
					}
				}
				continue
			}
			for i, k := range w.keys {
				key := append(prefix[:8:8], k...)
				was(key)
				s.sum += hash(key, w.values[i])
				if err := b.Put(key, w.values[i]); err != nil {
					return err
				}
			}
		}
		if err := putSum(tx, b, s.sum); err != nil {
			return err
		}
		if s.o.beforeCommit != nil {
			return s.o.beforeCommit()
		}
		return nil
	})
}

// Close writes what waits and closes the file. Writes that come later fail with ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		<-s.done
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	<-s.done
	return s.db.Close()
}
