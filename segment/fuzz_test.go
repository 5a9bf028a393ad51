package segment

import (
	"bytes"
	"os"
	"testing"

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
