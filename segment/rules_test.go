package segment

import (
	"errors"
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
