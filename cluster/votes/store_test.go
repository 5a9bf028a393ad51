package votes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, r *Stable, key string) uint64 {
	t.Helper()
	v, err := r.GetUint64([]byte(key))
	if err != nil && err.Error() != "not found" {
		t.Fatal(err)
	}
	return v
}

func TestStoreReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	s := open(t, path, Options{})
	r := s.Replica(7)
	if s.Has(7) {
		t.Fatal("a new replica has keys")
	}
	if _, err := r.Get([]byte(keyLastVoteCand)); err == nil || err.Error() != "not found" {
		t.Fatalf("Raft compares this text: %v", err)
	}
	if _, err := r.GetUint64([]byte(keyCurrentTerm)); err == nil || err.Error() != "not found" {
		t.Fatalf("Raft compares this text: %v", err)
	}
	must(t, r.SetUint64([]byte(keyCurrentTerm), 3))
	must(t, r.SetUint64([]byte(keyLastVoteTerm), 3))
	must(t, r.Set([]byte(keyLastVoteCand), []byte("1/4")))
	must(t, s.Replica(8).SetUint64([]byte(keyCurrentTerm), 9))
	if _, err := Open(path, Options{LockTimeout: 1}); err == nil {
		t.Fatal("two processes hold the file")
	}
	must(t, s.Close())
	if err := r.Set([]byte("k"), nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("write after Close: %v", err)
	}

	s = open(t, path, Options{})
	r = s.Replica(7)
	cand, err := r.Get([]byte(keyLastVoteCand))
	if err != nil || string(cand) != "1/4" || number(t, r, keyCurrentTerm) != 3 || number(t, r, keyLastVoteTerm) != 3 {
		t.Fatal("keys of replica 7 changed")
	}
	if !s.Has(7) || !s.Has(8) || s.Has(9) {
		t.Fatal("Has is wrong")
	}
	must(t, s.Delete(7))
	if s.Has(7) || !s.Has(8) {
		t.Fatal("Delete is wrong")
	}
	// What the deleted replica's Raft still writes leaves nothing, and does not make it panic.
	must(t, r.SetUint64([]byte(keyCurrentTerm), 4))
	if err := r.Set([]byte(keyLastVoteCand), []byte("1/4")); !errors.Is(err, ErrDeleted) {
		t.Fatalf("a deleted replica votes: %v", err)
	}
	must(t, s.Close())
	s = open(t, path, Options{})
	if s.Has(7) || !s.Has(8) {
		t.Fatal("Delete was not durable")
	}
}

// Safety rule 2: a crash between the two writes of a vote must leave the old vote whole.
func TestTornVote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	s := open(t, path, Options{})
	r := s.Replica(1)
	must(t, r.SetUint64([]byte(keyCurrentTerm), 5))
	must(t, r.SetUint64([]byte(keyLastVoteTerm), 5))
	must(t, r.Set([]byte(keyLastVoteCand), []byte("2/9")))
	must(t, r.SetUint64([]byte(keyCurrentTerm), 6))
	must(t, r.SetUint64([]byte(keyLastVoteTerm), 6)) // and here the process dies

	crashed := filepath.Join(t.TempDir(), "votes")
	copyFile(t, path, crashed)
	after := open(t, crashed, Options{}).Replica(1)
	if got := number(t, after, keyLastVoteTerm); got != 5 {
		t.Fatalf("vote of term %d for the candidate of term 5", got)
	}
	if number(t, after, keyCurrentTerm) != 6 {
		t.Fatal("term lost")
	}
	if got := number(t, r, keyLastVoteTerm); got != 5 {
		t.Fatalf("a held back term is seen: %d", got)
	}

	// The same candidate again: it is the term that changed.
	must(t, r.Set([]byte(keyLastVoteCand), []byte("2/9")))
	crashed = filepath.Join(t.TempDir(), "votes")
	copyFile(t, path, crashed)
	after = open(t, crashed, Options{}).Replica(1)
	if got := number(t, after, keyLastVoteTerm); got != 6 {
		t.Fatalf("vote of term 6 was not durable: %d", got)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
}

func TestConcurrentWritersShareCommits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	commits := 0
	s := open(t, path, Options{beforeCommit: func() error { commits++; return nil }})
	var wg sync.WaitGroup
	const writers, rounds = 1000, 3
	for i := range uint64(writers) {
		wg.Go(func() {
			r := s.Replica(i)
			for term := uint64(1); term <= rounds; term++ {
				if err := errors.Join(r.SetUint64([]byte(keyCurrentTerm), term), r.SetUint64([]byte(keyLastVoteTerm), term),
					r.Set([]byte(keyLastVoteCand), fmt.Append(nil, i, "/", term))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, s.Close())
	if commits > writers {
		t.Errorf("%d commits for %d writes", commits, 2*writers*rounds)
	}
	t.Logf("%d commits for %d writes", commits, 2*writers*rounds)
	s = open(t, path, Options{})
	for i := range uint64(writers) {
		r := s.Replica(i)
		cand, err := r.Get([]byte(keyLastVoteCand))
		if err != nil || string(cand) != string(fmt.Append(nil, i, "/", rounds)) || number(t, r, keyCurrentTerm) != rounds {
			t.Fatalf("replica %d: %q %v", i, cand, err)
		}
	}
}

func TestEqualValuesAreNotWritten(t *testing.T) {
	commits := 0
	s := open(t, filepath.Join(t.TempDir(), "votes"), Options{beforeCommit: func() error { commits++; return nil }})
	r := s.Replica(1)
	for range 5 {
		must(t, r.SetUint64([]byte(keyCurrentTerm), 2))
		must(t, r.SetUint64([]byte(keyLastVoteTerm), 2))
		must(t, r.Set([]byte(keyLastVoteCand), []byte("1/1")))
	}
	if commits != 2 {
		t.Fatalf("%d commits for a term and a vote", commits)
	}
}

func TestTermDoesNotGoBack(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "votes"), Options{})
	r := s.Replica(1)
	must(t, r.SetUint64([]byte(keyCurrentTerm), 6))
	if err := r.SetUint64([]byte(keyCurrentTerm), 5); !errors.Is(err, ErrTermBack) {
		t.Fatalf("term set back: %v", err)
	}
	if number(t, r, keyCurrentTerm) != 6 {
		t.Fatal("term set back")
	}
}

// Safety rule 8: after a failed write nothing is accepted.
func TestFailedWrite(t *testing.T) {
	full := errors.New("no space left on device")
	failing := false
	told := make(chan error, 1)
	path := filepath.Join(t.TempDir(), "votes")
	s := open(t, path, Options{
		beforeCommit: func() error {
			if failing {
				return full
			}
			return nil
		},
		OnFailure: func(err error) { told <- err },
	})
	r := s.Replica(1)
	must(t, r.SetUint64([]byte(keyCurrentTerm), 1))
	failing = true
	if err := r.SetUint64([]byte(keyCurrentTerm), 2); !errors.Is(err, ErrFailed) || !errors.Is(err, full) {
		t.Fatalf("failed write: %v", err)
	}
	if err := <-told; !errors.Is(err, full) {
		t.Fatal(err)
	}
	failing = false
	if err := r.Set([]byte(keyLastVoteCand), []byte("1/1")); !errors.Is(err, ErrFailed) {
		t.Fatalf("a failed store takes votes: %v", err)
	}
	if number(t, r, keyCurrentTerm) != 1 {
		t.Fatal("a value that is not durable is seen")
	}
}

func TestReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "votes")
	s := open(t, path, Options{ReserveBytes: 4 << 20})
	must(t, s.Replica(1).SetUint64([]byte(keyCurrentTerm), 1))
	must(t, s.Close())
	s = open(t, path, Options{ReserveBytes: 4 << 20})
	for i := range uint64(2000) {
		if i%500 == 0 {
			must(t, s.Replica(i+10).SetUint64([]byte(keyCurrentTerm), 1))
		}
	}
	must(t, s.Close())
	info, err := os.Stat(path)
	must(t, err)
	if info.Size() != 4<<20 {
		t.Fatalf("the file has %d bytes", info.Size())
	}
	// fill does what fallocate does.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	must(t, fill(f, 5<<20+1))
	must(t, f.Close())
	s = open(t, path, Options{})
	if number(t, s.Replica(1), keyCurrentTerm) != 1 {
		t.Fatal("filling changed the data")
	}
}

func TestCorruptNumber(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "votes"), Options{})
	r := s.Replica(1)
	must(t, r.Set([]byte("x"), binary.BigEndian.AppendUint32(nil, 1)))
	if _, err := r.GetUint64([]byte("x")); err == nil {
		t.Fatal("four bytes are no number")
	}
}

func BenchmarkVotes(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "votes"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var mu sync.Mutex
	var next uint64
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		mu.Lock()
		next++
		r := s.Replica(next)
		mu.Unlock()
		for term := uint64(1); pb.Next(); term++ {
			if err := r.SetUint64([]byte(keyCurrentTerm), term); err != nil {
				b.Fatal(err)
			}
		}
	})
}
