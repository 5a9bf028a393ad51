package segment

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// TestFlippedBitsReachNoReader: whatever byte of a log flips after it was closed, a reader gets what was written or
// ErrCorrupt, and a peer too. A flip of what this process wrote itself is met after checkedFor.
func TestFlippedBitsReachNoReader(t *testing.T) {
	build := func() (*crashfs.FS, Options, *model) {
		fs := crashfs.New(7)
		l, o, m := testLog(t, fs, Config{Fsync: true, IndexIntervalBytes: 200, SegmentBytes: 900})
		for range 5 {
			mustAppend(t, l, m, batches(m, 2, 60))
			mustAppend(t, l, m, []NewEntry{{Index: m.next(), Term: m.lastTerm(), Type: Command, Data: []byte("do it")}})
		}
		must(t, l.Close())
		return fs, o, m
	}
	_, o, _ := build()
	l, err := Open(o)
	must(t, err)
	segs := l.Segments()
	if len(segs) < 2 {
		t.Fatalf("%d segments", len(segs))
	}
	must(t, l.Close())
	for i, s := range segs {
		header := l.segs[i].headerSize
		step := int64(1)
		if testing.Short() {
			step = 11
		}
		for pos := int64(0); pos < s.Size; pos += step {
			fs, o, m := build()
			must(t, fs.Flip(s.Path, pos, 1<<(pos%8)))
			l, err := Open(o)
			must(t, err) // after a clean close nothing is read
			if err := l.Scrub(func(int) error { return nil }); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("segment %d, flip at %d: the scrub says %v", i, pos, err)
			}
			met := 0
			for _, e := range m.entries {
				frame, _, err := l.ReadFrames(nil, e.Index, e.Index, 1)
				if errors.Is(err, ErrCorrupt) {
					met++
				} else if err != nil || !bytes.Equal(frame, e.frame) {
					t.Fatalf("segment %d, flip at %d: a peer is sent another entry %d (%v)", i, pos, e.Index, err)
				}
			}
			if met == 0 && pos >= header {
				t.Fatalf("segment %d, flip at %d: no peer met it", i, pos)
			}
			for offset := int64(0); offset < l.NextOffset(); offset++ {
				want := slices.IndexFunc(m.entries, func(e modelEntry) bool { return e.NextOffset > offset })
				rs, err := l.ReadOffsets(offset, l.NextOffset(), 1<<20, true)
				if err != nil && !errors.Is(err, ErrCorrupt) {
					t.Fatalf("segment %d, flip at %d, offset %d: %v", i, pos, offset, err)
				}
				for _, r := range rs {
					if r.First != m.entries[want].Index && offset == m.entries[want].BaseOffset {
						t.Fatalf("segment %d, flip at %d, offset %d: entry %d", i, pos, offset, r.First)
					}
					got := make([]byte, r.Len)
					_, err := r.File.ReadAt(got, r.Pos)
					must(t, err)
					var all []byte
					for _, e := range m.entries[r.First-m.first : r.NextIndex-m.first] {
						all = append(all, e.frame...)
					}
					if !bytes.Equal(got, all) {
						t.Fatalf("segment %d, flip at %d: a consumer is sent other bytes", i, pos)
					}
					want = int(r.NextIndex - m.first)
					r.Release()
				}
			}
			must(t, l.Close())
		}
	}
}

// TestCheckedStretches: what counts as checked, and for how long.
func TestCheckedStretches(t *testing.T) {
	var k checked
	now := time.Unix(1e9, 0)
	at := func(d time.Duration) time.Time { return now.Add(d) }
	k.add(100, 200, now)
	k.add(200, 300, now) // goes on
	k.add(500, 600, now)
	k.add(250, 550, now) // joins
	if fmt.Sprint(k.now) != "[{100 600}]" {
		t.Fatal(k.now)
	}
	for _, c := range []struct {
		from, to int64
		after    time.Duration
		want     bool
	}{
		{100, 600, 0, true},
		{99, 200, 0, false},
		{100, 601, 0, false},
		{300, 300, 0, true},
		{100, 600, checkedFor, true},
		{100, 600, 2*checkedFor - 1, true},
		{100, 600, 2 * checkedFor, false},
	} {
		if got := k.covers(c.from, c.to, at(c.after)); got != c.want {
			t.Errorf("%d..%d after %v: %v", c.from, c.to, c.after, got)
		}
	}
	k.add(0, 50, at(2*checkedFor))
	k.add(40, 100, at(3*checkedFor))
	if !k.covers(0, 100, at(3*checkedFor)) { // half from before
		t.Error("two halves of two periods do not join")
	}
	for i := range int64(3 * maxSpans) {
		k.add(1000+20*i, 1010+20*i, at(3*checkedFor))
	}
	if len(k.now) > maxSpans {
		t.Errorf("%d stretches are remembered", len(k.now))
	}
}

// TestScrubOfALogInUse: appends, truncations, rolls and deletions meanwhile are no damage.
func TestScrubOfALogInUse(t *testing.T) {
	fs := crashfs.New(3)
	l, _, m := testLog(t, fs, Config{Fsync: true, SegmentBytes: 6000, IndexIntervalBytes: 100})
	var stop atomic.Bool
	var scrubs int
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			if err := l.Scrub(func(int) error { return nil }); err != nil {
				t.Error(err)
				return
			}
			scrubs++
		}
	})
	wg.Go(func() {
		for !stop.Load() {
			rs, err := l.ReadOffsets(l.StartOffset(), l.NextOffset(), 1<<20, true)
			if err != nil && !errors.Is(err, ErrNotFound) {
				t.Error(err)
				return
			}
			for _, r := range rs {
				r.Release()
			}
		}
	})
	for i := range 400 {
		es := batches(m, 3, 300)
		mustAppend(t, l, m, es)
		switch i % 5 {
		case 1:
			cut := l.LastIndex() - 1
			must(t, l.TruncateSuffix(cut))
			m.entries = m.entries[:cut-m.first]
		case 3:
			must(t, l.AdvanceStart(l.NextOffset()-40))
		}
	}
	stop.Store(true)
	wg.Wait()
	if scrubs == 0 {
		t.Fatal("no scrub ended")
	}
	must(t, l.Close())
}
