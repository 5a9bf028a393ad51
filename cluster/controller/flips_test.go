package controller

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/votes"
)

// TestFlips: a bit of the controller's store, or of a snapshot, flips while the broker is stopped. What is then believed
// is what was written, or nothing: ErrDamaged. BALSA_FLIPS: how many of each (default 30).
func TestFlips(t *testing.T) {
	flips, err := strconv.Atoi(os.Getenv("BALSA_FLIPS"))
	if err != nil {
		flips = 30
	}
	if testing.Short() {
		flips = min(flips, 10)
	}
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))

	t.Run("raft.db", func(t *testing.T) {
		dir := t.TempDir()
		s := openTestStore(t, dir)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(s.SetUint64([]byte(keyTerm), 3))
		for i := range uint64(60) {
			l := &raft.Log{Index: i + 1, Term: 1 + i/30, Data: encodeEntry(meta.SetClusterID{ClusterID: fmt.Sprint("cluster ", i)})}
			if i%20 == 0 {
				l.Type, l.Data = raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1/1", Address: "1/1"}}})
			}
			must(s.StoreLog(l))
		}
		must(s.SetUint64([]byte(keyVoteTerm), 3))
		must(s.Set([]byte(keyVoteCand), []byte("2/8")))
		want := picture(t, s)
		must(s.close())
		path := filepath.Join(dir, "raft.db")
		sound, err := os.ReadFile(path)
		must(err)
		used := len(bytes.TrimRight(sound, "\x00"))
		damaged := 0
		for range flips {
			pos, bit := rnd.IntN(used), rnd.IntN(8)
			b := bytes.Clone(sound)
			b[pos] ^= 1 << bit
			must(os.WriteFile(path, b, 0o600))
			s, err := openStore(dir)
			if err != nil {
				if !errors.Is(err, votes.ErrDamaged) {
					t.Fatalf("flip at %d bit %d: %v", pos, bit, err)
				}
				damaged++
				continue
			}
			if got := picture(t, s); got != want {
				t.Fatalf("flip at %d bit %d: the store says\n%s\nit was\n%s", pos, bit, got, want)
			}
			must(s.close())
		}
		t.Logf("%d flips in %d bytes: %d found, the others change nothing", flips, used, damaged)
	})

	t.Run("snapshot", func(t *testing.T) {
		dir := t.TempDir()
		open := func() (*snapshots, error) {
			s, err := openSnapshots(dir, nil)
			if err == nil {
				s.first = func() error { return nil }
			}
			return s, err
		}
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		_, trans := raft.NewInmemTransport("1/1")
		sink, err := s.Create(1, 5, 2, raft.Configuration{Servers: []raft.Server{{ID: "1/1", Address: "1/1"}}}, 1, trans)
		if err == nil {
			err = snapshot{meta.NewImage()}.Persist(sink)
		}
		if err != nil {
			t.Fatal(err)
		}
		for range flips {
			name := filepath.Join(dir, "snapshots", sink.ID(), []string{"meta.json", "state.bin", snapshotSum}[rnd.IntN(3)])
			sound, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b := bytes.Clone(sound)
			pos, bit := rnd.IntN(len(b)), rnd.IntN(8)
			b[pos] ^= 1 << bit
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := open(); !errors.Is(err, votes.ErrDamaged) {
				t.Fatalf("%s, flip at %d bit %d: %v", name, pos, bit, err)
			}
			if err := os.WriteFile(name, sound, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := open(); err != nil || s.newest().Index != 5 {
			t.Fatalf("the sound snapshot: %v", err)
		}
	})
}

// picture is all that a store says.
func picture(t *testing.T, s *store) string {
	t.Helper()
	term, err := s.GetUint64([]byte(keyTerm))
	if err != nil {
		t.Fatal(err)
	}
	voteTerm, _ := s.GetUint64([]byte(keyVoteTerm))
	cand, _ := s.Get([]byte(keyVoteCand))
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	out := fmt.Sprintf("term %d, vote %d for %q, entries %d to %d\n", term, voteTerm, cand, first, last)
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%d %d %d %x\n", l.Index, l.Term, l.Type, l.Data)
	}
	return out
}
