package votes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// A small file: what is damaged is what counts.
var noReserve = Options{ReserveBytes: -1}

// contents are all that a store says.
func contents(s *Store) map[string]string {
	out := map[string]string{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, r := range s.replicas {
		for k, v := range r.values {
			out[fmt.Sprint(id, k)] = string(v)
		}
	}
	return out
}

// vote has a replica vote, as Raft does.
func vote(t testing.TB, s *Store, id, term uint64, cand string) {
	t.Helper()
	r := s.Replica(id)
	for _, err := range []error{
		r.SetUint64([]byte(keyCurrentTerm), term), r.SetUint64([]byte(keyLastVoteTerm), term), r.Set([]byte(keyLastVoteCand), []byte(cand)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// votedFile is the file of a store of n replicas, which was opened again, and what it holds.
func votedFile(t testing.TB, n uint64) (file []byte, holds map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "votes")
	for term := range uint64(2) {
		s, err := Open(path, noReserve)
		if err != nil {
			t.Fatal(err)
		}
		for id := range n {
			vote(t, s, id+1, term+1, "1/4")
		}
		holds = contents(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return readUsed(t, path), holds
}

// readUsed is the file without the zeros at its end.
func readUsed(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	n := (len(bytes.TrimRight(b, "\x00")) + page - 1) / page * page
	return b[:n]
}

func reopen(t testing.TB, path string, file []byte) (*Store, error) {
	t.Helper()
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return Open(path, noReserve)
}

// FuzzOpen: a sound votes file with any of its bytes changed and its end cut; sealed: also with meta pages that check.
// Nothing panics; what opens can be written; without sealing the file opens to exactly what was in it, or is damaged.
func FuzzOpen(f *testing.F) {
	file, holds := votedFile(f, 30)
	page := os.Getpagesize()
	f.Add([]byte{0, 16, 3, 1}, uint16(0), false)
	f.Add([]byte{0, 0, 32, 1}, uint16(0), true)
	f.Add([]byte{}, uint16(5000), false)
	f.Add([]byte{0, 0, 56, 3, 0, 64, 10, 2}, uint16(0), true)
	path := filepath.Join(f.TempDir(), "votes")
	f.Fuzz(func(t *testing.T, edits []byte, cut uint16, seal bool) {
		b := bytes.Clone(file[:max(0, len(file)-int(cut))])
		for ; len(edits) >= 4 && len(b) > 0; edits = edits[4:] {
			b[int(binary.BigEndian.Uint32(edits)>>8)%len(b)] ^= edits[3]
		}
		for at := pageHead; seal && at+metaHead <= min(len(b), 2*page); at += page {
			h := fnv.New64a()
			_, _ = h.Write(b[at : at+metaHead-8])
			binary.NativeEndian.PutUint64(b[at+metaHead-8:], h.Sum64())
		}
		s, err := reopen(t, path, b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if !seal && !maps.Equal(contents(s), holds) {
			t.Fatal("a changed file says something else")
		}
		for id := range uint64(40) {
			vote(t, s, 1<<40+id, 9, "1/4")
		}
		if err := s.Delete(3); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzCheck: whatever the bytes of the file, its check ends.
func FuzzCheck(f *testing.F) {
	file, _ := votedFile(f, 3)
	f.Add(file)
	f.Add(file[:100])
	f.Fuzz(func(_ *testing.T, b []byte) { _ = checkFile(bytes.NewReader(b)) })
}

// A flipped bit anywhere is damage, or changes nothing that is said: also in the newest meta page, for which bbolt would
// fall back to the one before, and forget a vote.
func TestFlippedBits(t *testing.T) {
	file, holds := votedFile(t, 60)
	path := filepath.Join(t.TempDir(), "votes")
	step := 97
	if os.Getenv("BALSA_CRASH") != "" {
		step = 1
	} else if testing.Short() {
		step = 997
	}
	damaged := 0
	for pos := 0; pos < len(file); pos += step {
		if file[pos] == 0 && step > 1 && pos%4 > 0 && pos > 3*os.Getpagesize() {
			continue
		}
		b := bytes.Clone(file)
		b[pos] ^= 1 << (pos % 8)
		s, err := reopen(t, path, b)
		if errors.Is(err, ErrDamaged) {
			damaged++
			continue
		}
		must(t, err)
		if !maps.Equal(contents(s), holds) {
			t.Fatalf("byte %d flipped: the file says something else", pos)
		}
		must(t, s.Close())
	}
	if damaged == 0 {
		t.Fatal("no flip was noticed")
	}
	for _, pos := range []int{16, 16 + 48, os.Getpagesize() + 16 + 48, 16 + 60, os.Getpagesize() + 16 + 60} { // the two meta pages
		b := bytes.Clone(file)
		b[pos] ^= 4
		if s, err := reopen(t, path, b); !errors.Is(err, ErrDamaged) {
			_ = s.Close()
			t.Fatalf("meta page: byte %d flipped: %v", pos, err)
		}
	}
}

// A power cut in a transaction (safety rules 2 and 8): whatever sectors of its pages reached the disk, the file opens to
// the votes before it or to those after it; and where the disk lied about the order of the two syncs it may be damaged,
// never a mixture.
func TestTornTransaction(t *testing.T) {
	const sector = 512
	rounds := 60
	if os.Getenv("BALSA_CRASH") != "" {
		rounds = 2_000
	} else if testing.Short() {
		rounds = 15
	}
	path, crashed := filepath.Join(t.TempDir(), "votes"), filepath.Join(t.TempDir(), "votes")
	s := open(t, path, noReserve)
	for id := range uint64(40) {
		vote(t, s, id+1, 1, "1/4")
	}
	rng := rand.New(rand.NewPCG(1, 2))
	page := os.Getpagesize()
	seen := map[string]int{}
	for round := range rounds {
		before, old := readUsed(t, path), contents(s)
		id, term := uint64(round%40+1), uint64(round+2)
		must(t, s.Replica(id).SetUint64([]byte(keyCurrentTerm), term))
		if round%2 == 0 { // one transaction with the vote: the two keys go together
			before, old = readUsed(t, path), contents(s)
			must(t, s.Replica(id).SetUint64([]byte(keyLastVoteTerm), term))
			must(t, s.Replica(id).Set([]byte(keyLastVoteCand), fmt.Append(nil, "2/", round)))
		}
		after, now := readUsed(t, path), contents(s)
		size := max(len(before), len(after))
		before, after = append(before, make([]byte, size-len(before))...), append(after, make([]byte, size-len(after))...)

		lying := round%3 == 2
		torn := bytes.Clone(before)
		meta, whole := false, true
		for at := 0; at < size; at += sector {
			if bytes.Equal(before[at:at+sector], after[at:at+sector]) {
				continue
			}
			isMeta := at < 2*page
			if isMeta && (lying || whole) && rng.IntN(2) == 0 || !isMeta && (round%5 == 0 || rng.IntN(4) > 0) {
				copy(torn[at:], after[at:at+sector])
				meta = meta || isMeta
			} else if !isMeta {
				whole = false
			}
		}
		if meta && !whole && !lying { // the second sync follows the first
			copy(torn[:2*page], before[:2*page])
			meta = false
		}
		got, err := reopen(t, crashed, torn)
		switch {
		case lying && meta && errors.Is(err, ErrDamaged):
			seen["damaged"]++
			continue
		case err != nil:
			t.Fatalf("round %d: %v", round, err)
		}
		switch c := contents(got); {
		case maps.Equal(c, old) && !(meta && whole):
			seen["old"]++
		case maps.Equal(c, now) && meta:
			seen["new"]++
		default:
			t.Fatalf("round %d: neither the old votes nor the new ones", round)
		}
		must(t, got.Close())
	}
	if len(seen) != 3 {
		t.Fatalf("not every outcome was met: %v", seen)
	}
}
