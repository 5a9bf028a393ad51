package partition

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// sealed is b with its last four bytes made the CRC of the others, so that fuzzing gets behind the check.
func sealed(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	n := len(b) - 4
	return binary.BigEndian.AppendUint32(append([]byte(nil), b[:n]...), crc32.Checksum(b[:n], castagnoli))
}

func testConfiguration() []byte {
	return raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1/1", Address: "1/1"}}})
}

// FuzzDecodeCheckpoint: what is accepted means the same when it is written and read again, and can be told to Raft.
func FuzzDecodeCheckpoint(f *testing.F) {
	f.Add((&checkpoint{index: 3, conf: testConfiguration(), producers: map[int64]*producer{1: {n: 1}}}).encode())
	f.Add((&checkpoint{index: 3, conf: []byte("x"), machine: []byte("m")}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sealed(b)} {
			c, err := decodeCheckpoint(b)
			if err != nil {
				continue
			}
			c.meta("id", int64(len(b)))
			again, err := decodeCheckpoint(c.encode())
			if err != nil || again.index != c.index || again.term != c.term || again.next != c.next || len(again.producers) != len(c.producers) {
				t.Fatalf("%+v became %+v: %v", c, again, err)
			}
		}
	})
}

// FuzzMark: any bytes are a mark or none; a mark written over them is the one that is read.
func FuzzMark(f *testing.F) {
	fsys := crashfs.New(1)
	m := &markFile{fsys: fsys, dir: "/"}
	for i := range uint64(3) {
		must(f, m.write(mark{index: i + 1, term: 2, durable: true}, true))
	}
	b, err := vfs.ReadFile(fsys, "/"+markName, 1<<20)
	must(f, err)
	f.Add(b)
	f.Add(b[:markSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, seal := range []bool{false, true} {
			b = append([]byte(nil), b...)
			for off := 0; seal && off+markSize <= len(b); off += markStride {
				copy(b[off:], sealed(b[off:off+markSize]))
			}
			fsys := crashfs.New(1)
			put(t, fsys, "/"+markName, b)
			m, err := openMark(fsys, "/")
			if err != nil || m.seq == 1<<64-1 {
				continue // a file too large; the last sequence number is one that is never reached
			}
			want := mark{index: 7, term: 3}
			must(t, m.write(want, false))
			if m, err = openMark(fsys, "/"); err != nil || m.last != want {
				t.Fatalf("%+v, %v", m, err)
			}
		}
	})
}

func FuzzDecodeIdentity(f *testing.F) {
	f.Add(identity{partition: 3, self: Replica{1, 2}, emptyOK: true, voteFloor: 9}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, sealed(b)} {
			i, ok := decodeIdentity(b)
			if !ok {
				continue
			}
			if again, ok := decodeIdentity(i.encode()); !ok || again != i {
				t.Fatalf("%+v became %+v", i, again)
			}
		}
	})
}

// FuzzApplyCommand: a committed command moves the log start forward at most to the end, and forgets producers; or it is
// refused.
func FuzzApplyCommand(f *testing.F) {
	f.Add(encodeLogStart(7))
	f.Add(encodeForget([]int64{1, 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := &Partition{next: 10, producers: map[int64]*producer{1: {n: 1}, 2: {n: 1, inflight: []*op{{}}}}}
		p.logStart.Store(3)
		_ = p.applyCommand(b)
		if s := p.logStart.Load(); s < 3 || s > 10 || p.producers[2] == nil {
			t.Fatalf("log start %d, %d producers", s, len(p.producers))
		}
		_, _, _ = parseExt(b)
		_, _ = ParseReplica(string(b))
	})
}

func put(t testing.TB, fsys vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	must(t, err)
	_, err = f.WriteAt(b, 0)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzOpen: a sound log beside side files with any bytes opens with all its entries, or is refused, or is emptied by a
// wipe mark that checks.
func FuzzOpen(f *testing.F) {
	const dir = "/p"
	self := Replica{Node: 1, ID: 1}
	options := func(fsys vfs.FS) Options {
		votes := newVotes()
		_ = votes.SetUint64([]byte(keyCurrentTerm), 2)
		return Options{
			FS: fsys, Dir: dir, Self: self, Votes: votes, Sync: segment.NewSyncer(1), BootID: "b",
			Config: func() config.Topic { return testTopic() },
		}
	}
	id := identity{self: self}
	c := checkpoint{index: 3, term: 2, next: 1, confIndex: 1, conf: testConfiguration()}
	m := mark{index: 4, term: 2, durable: true}
	build := func(t testing.TB) *crashfs.FS {
		fsys := crashfs.New(1)
		must(t, makeDir(fsys, dir))
		must(t, writeIdentity(fsys, dir, id))
		p := &Partition{o: options(fsys), mark: &markFile{}}
		p.o.setDefaults()
		l, err := segment.Open(p.segmentOptions())
		must(t, err)
		must(t, l.Append([]segment.NewEntry{{Index: 1, Term: 1, Type: segment.Configuration, Data: c.conf}}))
		must(t, l.Append([]segment.NewEntry{{Index: 2, Term: 2, Type: segment.Noop}}))
		for i := range uint64(3) {
			b := batch(1, -1, -1, -1, "v")
			must(t, l.Append([]segment.NewEntry{{Index: i + 3, Term: 2, Type: segment.Batch, Data: b}}))
		}
		must(t, l.Close())
		must(t, (&markFile{fsys: fsys, dir: dir}).write(m, true))
		return fsys
	}
	fsys := build(f)
	markBytes, err := vfs.ReadFile(fsys, filepath.Join(dir, markName), 1<<20)
	must(f, err)
	f.Add(markBytes, id.encode(), []byte{}, c.encode(), []byte{})
	f.Add(markBytes, id.encode(), sealed(make([]byte, 12)), []byte{}, c.encode())
	f.Fuzz(func(t *testing.T, mark, id, wipe, ckpt, inst []byte) {
		for _, seal := range []func([]byte) []byte{func(b []byte) []byte { return b }, sealed} {
			fsys := build(t)
			for name, b := range map[string][]byte{
				filepath.Join(dir, markName): mark, filepath.Join(dir, identityName): id, filepath.Join(dir, wipeName): wipe,
				checkpointPath(dir, 3, checkpointSuffix): ckpt, checkpointPath(dir, 9, installSuffix): inst,
			} {
				if len(b) > 0 {
					put(t, fsys, name, seal(b))
				}
			}
			p := &Partition{
				o: options(fsys), producers: map[int64]*producer{}, durable: map[uint64]bool{}, kickC: make(chan struct{}, 1),
			}
			p.o.setDefaults()
			p.logger = p.o.Logger
			err := p.open()
			if p.log == nil {
				continue
			}
			if last := p.log.LastIndex(); err == nil && last != 5 && len(wipe) == 0 && len(inst) == 0 {
				t.Fatalf("opened with entries up to %d", last)
			}
			_ = p.log.Close()
		}
	})
}
