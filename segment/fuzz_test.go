package segment

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// FuzzParseFrames: whatever the bytes, no panic; what is accepted is whole frames one after the other whose
// re-encoding is the same bytes.
func FuzzParseFrames(f *testing.F) {
	m := &model{}
	m.add([]NewEntry{{Index: 5, Term: 2, Type: Noop}, {Index: 6, Term: 2, Type: Configuration, Data: []byte("abc")}})
	m.add(batches(m, 3, 40))
	var all []byte
	for _, e := range m.entries {
		all = append(all, e.frame...)
	}
	f.Add(uint64(5), all)
	f.Add(uint64(5), all[:len(all)-7])
	f.Add(uint64(7), all[2*reservedSize+3:])
	f.Fuzz(func(t *testing.T, first uint64, b []byte) {
		var again []byte
		next := first
		err := ParseFrames(first, b, func(e Entry, frame []byte) error {
			if e.Index != next || e.Size != len(frame) {
				t.Fatalf("entry %+v", e)
			}
			next++
			n := NewEntry{Index: e.Index, Term: e.Term, Type: e.Type, Data: e.Payload}
			if e.Type == Batch {
				n.Data = frame
			}
			again = AppendFrame(again, n, e.BaseOffset)
			return nil
		})
		if err == nil && !bytes.Equal(again, b) {
			t.Fatal("accepted bytes are not reproduced")
		}
	})
}

// FuzzOpen: a log directory with any bytes in its files opens, or does not, without harm; what opens can be read.
func FuzzOpen(f *testing.F) {
	fs := crashfs.New(1)
	l, _, m := testLog(f, fs, Config{Fsync: true, IndexIntervalBytes: 1})
	for range 15 {
		mustAppend(f, l, m, batches(m, 3, 20))
	}
	must(f, l.Close())
	read := func(name string) []byte {
		file, err := fs.OpenFile("/log/"+name, os.O_RDONLY, 0)
		must(f, err)
		n, _ := file.Size()
		b := make([]byte, n)
		_, _ = file.ReadAt(b, 0)
		return b
	}
	f.Add(read(segmentName(0)+logSuffix), read(segmentName(0)+indexSuffix), read("state"))
	f.Add(read(segmentName(0)+logSuffix), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, log, index, state []byte) {
		fs := crashfs.New(1)
		must(t, fs.MkdirAll("/log", 0o755))
		for name, b := range map[string][]byte{segmentName(0) + logSuffix: log, segmentName(0) + indexSuffix: index, "state": state} {
			if len(b) == 0 {
				continue
			}
			file, err := fs.OpenFile("/log/"+name, os.O_RDWR|os.O_CREATE, 0o644)
			must(t, err)
			_, err = file.WriteAt(b, 0)
			must(t, err)
		}
		var out bytes.Buffer
		if _, err := Dump(&out, fs, "/log/"+segmentName(0)+logSuffix, true); err != nil && len(log) > 0 {
			t.Fatal(err)
		}
		l, err := Open(Options{FS: fs, Dir: "/log", Logger: quiet(), BootID: "b", Sync: NewSyncer(1), Config: func() Config { return Config{Fsync: true} }})
		if err != nil {
			return
		}
		_ = l.Scan(l.FirstIndex(), func(Entry) bool { return true })
		_, _ = l.ReadOffsets(l.StartOffset(), l.NextOffset(), 1<<20, true)
		_, _, _ = l.OffsetForTime(1001)
		_, _ = l.MaxTimestamp()
		if next := l.LastIndex() + 1; l.LastIndex() < 1<<62 {
			_ = l.Append([]NewEntry{{Index: next, Term: 1 << 30, Type: Noop}})
		}
		_ = l.Close()
	})
}

// FuzzSideFiles: beside sound segments the index and state files may hold any bytes. The log opens, serves what it held
// and nothing else, and takes more.
func FuzzSideFiles(f *testing.F) {
	build := func(t testing.TB) (*crashfs.FS, Options, *model) {
		fs := crashfs.New(1)
		l, o, m := testLog(t, fs, Config{Fsync: true, IndexIntervalBytes: 1, SegmentBytes: 1500})

		for range 6 {
			mustAppend(t, l, m, batches(m, 3, 50))
		}
		if len(l.Segments()) < 2 {
			t.Fatal("one segment only")
		}
		must(t, l.Close())
		return fs, o, m
	}
	fs, _, m := build(f)
	read := func(name string) []byte {
		b, err := vfs.ReadFile(fs, "/log/"+name, 1<<20)
		must(f, err)
		return b
	}
	names, err := fs.ReadDir("/log")
	must(f, err)
	var indexes []string
	for _, e := range names {
		if strings.HasSuffix(e.Name(), indexSuffix) {
			indexes = append(indexes, e.Name())
		}
	}
	first, last := indexes[0], indexes[len(indexes)-1]
	f.Add(read(first), read(last), read("state"), false)
	f.Add(read(last), read(first), read("state"), true)
	f.Add(read(first)[:100], read(last)[:97], read("state")[:50], false)
	f.Add([]byte{}, []byte{}, []byte{}, true)
	f.Fuzz(func(t *testing.T, closed, active, state []byte, noState bool) {
		fs, o, _ := build(t)
		o.FS = fs
		for name, b := range map[string][]byte{first: closed, last: active, "state": state} {
			must(t, vfs.WriteFile(fs, "/log", "/log/"+name, b))
		}
		if noState {
			must(t, fs.Remove("/log/state"))
		}
		l, err := Open(o)
		if err != nil {
			t.Fatalf("sound segments are refused: %v", err)
		}
		m := m.clone()
		verify(t, l, m)
		for i := range m.nextOffset() {
			rs, err := l.ReadOffsets(i, m.nextOffset(), 1, true)
			must(t, err)
			for _, r := range rs {
				if b := record.Batch(readRange(t, r)); b.BaseOffset() > i || b.LastOffset() < i {
					t.Fatalf("a read at %d gives %d", i, b.BaseOffset())
				}
			}
		}
		mustAppend(t, l, m, batches(m, 2, 50))
		must(t, l.Close())
	})
}
