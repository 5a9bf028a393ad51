package segment

import (
	"errors"
	"os"
	"testing"

	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// Rule 11: base offset and epoch of a batch lie outside its CRC. They must be those that the frames before it say.
func TestRule11Follows(t *testing.T) {
	m := &model{}
	m.add([]NewEntry{{Index: 1, Term: 1, Type: Noop}})
	m.add(batches(m, 3, 20))
	frames := func(change func(third []byte)) (all []byte) {
		for i, e := range m.entries {
			frame := append([]byte(nil), e.frame...)
			if i == 2 {
				change(frame)
			}
			all = append(all, frame...)
		}
		return all
	}
	none := func(Entry, []byte) error { return nil }
	if err := ParseFrames(1, frames(func([]byte) {}), none); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(third []byte){
		"base offset": func(b []byte) { b[7] ^= 4 },
		"epoch":       func(b []byte) { b[15] ^= 2 },
	} {
		if err := ParseFrames(1, frames(change), none); !errors.Is(err, ErrCorrupt) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

// Rule 21: a term that is no leader epoch is not stored.
func TestRule21TermsFitAnEpoch(t *testing.T) {
	l, _, m := testLog(t, crashfs.New(1), smallConfig())
	for _, term := range []uint64{1 << 31, 1<<32 + 1} {
		if err := l.Append([]NewEntry{{Index: m.next(), Term: term, Type: Noop}}); !errors.Is(err, ErrInvalid) {
			t.Errorf("term %d: %v", term, err)
		}
	}
	must(t, l.Append([]NewEntry{{Index: m.next(), Term: 1<<31 - 1, Type: Noop}}))
	must(t, l.Close())
}

// Rule 12: a log that lacks entries which were durable is not taken for one with a torn tail, and nothing of it is cut:
// what is left is evidence.
func TestRule12ShorterThanDurable(t *testing.T) {
	build := func() (*crashfs.FS, Options, *model, int64) {
		fs := crashfs.New(3)
		l, o, m := testLog(t, fs, Config{Fsync: true})
		mustAppend(t, l, m, batches(m, 3, 60))
		end := l.Size()
		mustAppend(t, l, m, batches(m, 1, 60))
		o.BootID, o.DurableIndex = "boot-2", m.next()-1
		fs = fs.Crash()
		o.FS = fs
		return fs, o, m, end
	}
	path := "/log/" + segmentName(0) + logSuffix
	size := func(fs *crashfs.FS) int64 {
		fi, err := fs.Stat(path)
		must(t, err)
		return fi.Size()
	}
	_, o, m, _ := build()
	l, err := Open(o)
	must(t, err)
	verify(t, l, m)

	fs, o, _, end := build()
	f, err := fs.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	must(t, f.Truncate(end))
	if _, err := Open(o); !errors.Is(err, ErrCorrupt) {
		t.Errorf("the last entry is gone: %v", err)
	}

	fs, o, _, end = build()
	before := size(fs)
	must(t, fs.Flip(path, end-10, 1))
	if _, err := Open(o); !errors.Is(err, ErrCorrupt) || size(fs) != before {
		t.Errorf("a flipped bit below what was durable: %v; %d bytes, then %d", err, before, size(fs))
	}
}
