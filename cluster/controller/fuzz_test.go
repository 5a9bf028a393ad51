package controller

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
)

func FuzzDecodeEntries(f *testing.F) {
	b, _, _ := group{}.EncodeEntries(nil, []*raft.Log{{Index: 1, Term: 2, Data: []byte("x")}, {Index: 2, Term: 2, Type: raft.LogNoop}}, 1000)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		logs, err := group{}.DecodeEntries(1, b)
		if err != nil {
			return
		}
		again, n, err := group{}.EncodeEntries(nil, logs, 1<<30)
		if err != nil || n != len(logs) || !bytes.Equal(again, b) {
			t.Fatalf("%x: %d, %v, %x", b, n, err, again)
		}
	})
}

// FuzzDecodeMessages: proposals, their answers and member ids may be any bytes; what is accepted is written the same.
func FuzzDecodeMessages(f *testing.F) {
	f.Add(encodeEntry(meta.SetClusterID{ClusterID: "c"}))
	f.Add(encodeAnswer(answer{version: 7, result: meta.ProducerIDs{First: 5, Count: 6}}, nil))
	f.Add(encodeAnswer(answer{version: 8, refused: meta.ErrTopicExists}, nil))
	f.Add(encodeAnswer(answer{leader: 3}, ErrNotLeader))
	f.Add([]byte("1/9223372036854775809"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, entry := range [][]byte{b, append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)), b...)} {
			if c, err := decodeEntry(entry); err == nil && !bytes.Equal(encodeEntry(c), entry) {
				t.Fatalf("%x has two encodings", entry)
			}
		}
		a, err := decodeAnswer(b)
		if (err == nil || errors.Is(err, ErrNotLeader)) && len(b) > 0 && !bytes.Equal(encodeAnswer(a, err), b) {
			t.Fatalf("%x became %x", b, encodeAnswer(a, err))
		}
		if m, err := parseMember(raft.ServerID(b)); err == nil {
			if again, err := parseMember(m.ServerID()); err != nil || again != m {
				t.Fatalf("%+v became %+v: %v", m, again, err)
			}
		}
	})
}

// FuzzSnapshot: a snapshot folder with any bytes in its two files. Nothing panics; a snapshot that is listed as sound is
// an image that can be read, or restoring it is refused.
func FuzzSnapshot(f *testing.F) {
	build := func(t testing.TB) (dir, id string) {
		dir = t.TempDir()
		s, err := openSnapshots(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.first = func() error { return nil }
		_, trans := raft.NewInmemTransport("1/1")
		sink, err := s.Create(1, 5, 2, raft.Configuration{Servers: []raft.Server{{ID: "1/1", Address: "1/1"}}}, 1, trans)
		if err == nil {
			err = snapshot{meta.NewImage()}.Persist(sink)
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir, sink.ID()
	}
	dir, id := build(f)
	files := []string{"meta.json", "state.bin"}
	var seeds [][]byte
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(dir, "snapshots", id, name))
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, b)
	}
	f.Add(seeds[0], seeds[1])
	f.Add([]byte("{}"), []byte{})
	f.Fuzz(func(t *testing.T, metaFile, state []byte) {
		dir, id := build(t)
		for i, b := range [][]byte{metaFile, state} {
			if err := os.WriteFile(filepath.Join(dir, "snapshots", id, files[i]), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := openSnapshots(dir, nil)
		if err != nil {
			return
		}
		list, err := s.List()
		if err != nil || len(list) == 0 {
			return
		}
		_, r, err := s.Open(list[0].ID)
		if err != nil {
			return
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		if img, imgErr := meta.DecodeImage(b); err == nil && imgErr == nil && !bytes.Equal(meta.EncodeImage(img), b) {
			t.Fatal("the image has two encodings")
		}
	})
}

// FuzzStore: the controller's log file with any of its bytes changed. Nothing panics: the file is refused, or its
// entries, terms and votes can be asked for.
func FuzzStore(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "raft.db")
	s, err := openStore(dir)
	if err != nil {
		f.Fatal(err)
	}
	s.first = func() error { return nil }
	for i := range uint64(20) {
		if err := s.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: []byte("entry")}); err != nil {
			f.Fatal(err)
		}
	}
	if err := errors.Join(s.DeleteRange(1, 5), s.SetUint64([]byte(keyTerm), 3), s.Set([]byte(keyVoteCand), []byte("1/4")), s.close()); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	used := len(bytes.TrimRight(file, "\x00"))
	f.Add([]byte{0, 0, 20, 1})
	f.Add([]byte{0, 16, 3, 1, 0, 32, 0, 255})
	f.Fuzz(func(t *testing.T, edits []byte) {
		changed := bytes.Clone(file[:used+os.Getpagesize()])
		for ; len(edits) >= 4; edits = edits[4:] {
			changed[int(binary.BigEndian.Uint32(edits)>>8)%used] ^= edits[3]
		}
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStore(dir)
		if err != nil {
			return
		}
		s.first = func() error { return nil }
		for i := range uint64(22) {
			_ = s.GetLog(i, &raft.Log{})
			_, _ = s.termAt(i)
		}
		_, _ = s.GetUint64([]byte(keyVoteTerm))
		_ = s.StoreLog(&raft.Log{Index: s.lastIndex.Load() + 1, Term: 4})
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	})
}
