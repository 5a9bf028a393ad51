package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// makeBatch builds a batch of n records as far as segment looks at it: the records' bytes are opaque.
func makeBatch(n int, ts int64, body []byte) []byte {
	b := make([]byte, record.HeaderSize+len(body))
	copy(b[record.HeaderSize:], body)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-record.Overhead))
	b[16] = 2
	binary.BigEndian.PutUint32(b[23:], uint32(n-1))
	binary.BigEndian.PutUint64(b[27:], uint64(ts))
	binary.BigEndian.PutUint64(b[35:], uint64(ts))
	binary.BigEndian.PutUint64(b[43:], math.MaxUint64)
	binary.BigEndian.PutUint32(b[57:], uint32(n))
	record.Batch(b).StampCRC()
	return b
}

// model is the log as a slice: what a Log must look like. entries[i] has index first+i.
type model struct {
	first    uint64 // 0: never held anything
	base     int64  // offset before entries[0]
	prevTerm uint64
	start    int64
	entries  []modelEntry
}

type modelEntry struct {
	Entry
	frame []byte
	ts    int64
}

func (m *model) next() uint64 {
	if m.first == 0 {
		return 0
	}
	return m.first + uint64(len(m.entries))
}

func (m *model) nextOffset() int64 {
	if n := len(m.entries); n > 0 {
		return m.entries[n-1].NextOffset
	}
	return m.base
}

func (m *model) lastTerm() uint64 {
	if n := len(m.entries); n > 0 {
		return m.entries[n-1].Term
	}
	return m.prevTerm
}

// add appends to the model what Append is given.
func (m *model) add(es []NewEntry) {
	for _, e := range es {
		if m.first == 0 {
			m.first = e.Index
		}
		off := m.nextOffset()
		me := modelEntry{frame: AppendFrame(nil, e, off), ts: -1}
		me.Entry = Entry{Index: e.Index, Term: e.Term, Type: e.Type, BaseOffset: off, NextOffset: off, Size: len(me.frame)}
		if e.Type == Batch {
			me.NextOffset += int64(record.Batch(e.Data).LastOffsetDelta()) + 1
			me.Header = me.frame[:record.HeaderSize]
			me.ts = record.Batch(e.Data).MaxTimestamp()
		} else {
			me.Payload = me.frame[reservedSize:]
		}
		m.entries = append(m.entries, me)
	}
}

func (m *model) truncate(first uint64) {
	if first < m.next() {
		m.entries = m.entries[:max(first, m.first)-m.first]
		m.start = min(m.start, m.nextOffset())
	}
}

// clone copies the slice, not the entries.
func (m *model) clone() *model {
	c := *m
	c.entries = append([]modelEntry(nil), m.entries...)
	return &c
}

// genEntries draws what Raft might append: batches and reserved frames, a no-op at the start of a term.
func genEntries(t *rapid.T, m *model, most int) []NewEntry {
	n := rapid.IntRange(1, most).Draw(t, "n")
	index, term := m.next(), m.lastTerm()
	if index == 0 {
		index = 1
	}
	var es []NewEntry
	for range n {
		e := NewEntry{Index: index, Term: term, Type: Batch}
		switch k := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case term == 0 || k == 0:
			term += uint64(rapid.IntRange(1, 2).Draw(t, "dterm"))
			e.Type, e.Term = Noop, term
		case k == 1:
			e.Type = Type(rapid.IntRange(int(Noop), int(Command)).Draw(t, "type"))
			e.Data = rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "payload")
		default:
			size := rapid.OneOf(rapid.IntRange(0, 100), rapid.IntRange(0, 1500)).Draw(t, "size")
			body := bytes.Repeat([]byte{byte(index), 2, 0x82}, size/3)
			ts := 1000 + int64(rapid.IntRange(0, 200).Draw(t, "ts"))
			e.Data = makeBatch(rapid.IntRange(1, 5).Draw(t, "records"), ts, body)
		}
		es = append(es, e)
		index++
	}
	return es
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func smallConfig() Config { return Config{SegmentBytes: 4000, IndexIntervalBytes: 150, Fsync: true} }

// must fails the test; it works for testing.T and rapid.T.
func must(t rapid.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// verify compares everything that can be asked of l with the model.
func verify(t rapid.TB, l *Log, m *model) {
	t.Helper()
	if got, want := l.NextOffset(), m.nextOffset(); got != want {
		t.Fatalf("next offset %d, want %d", got, want)
	}
	first := l.FirstIndex()
	if m.first == 0 {
		if first != 0 || l.LastIndex() != 0 {
			t.Fatalf("indexes %d..%d of an empty log", first, l.LastIndex())
		}
		return
	}
	if l.LastIndex() != m.next()-1 {
		t.Fatalf("last index %d, want %d", l.LastIndex(), m.next()-1)
	}
	if first < m.first || first > m.next() {
		t.Fatalf("first index %d, model %d to %d", first, m.first, m.next()-1)
	}
	if got := l.StartOffset(); got != m.start {
		t.Fatalf("start offset %d, want %d", got, m.start)
	}
	checkTerm := func(i uint64, want uint64) {
		if got, ok := l.Term(i); i > 0 && (!ok || got != want) {
			t.Fatalf("term of %d: %d %v, want %d", i, got, ok, want)
		}
	}
	if first == m.first {
		checkTerm(first-1, m.prevTerm)
	} else {
		checkTerm(first-1, m.entries[first-1-m.first].Term)
	}
	live := m.entries[first-m.first:]
	maxTS, maxOff := int64(-1), int64(-1)
	for _, e := range live {
		checkTerm(e.Index, e.Term)
		typ, payload, ok := l.Type(e.Index)
		if !ok || typ != e.Type || typ == Configuration && !bytes.Equal(payload, e.Payload) {
			t.Fatalf("type of %d: %v %v %q, want %v %q", e.Index, typ, ok, payload, e.Type, e.Payload)
		}
		if e.ts > maxTS {
			maxTS, maxOff = e.ts, e.BaseOffset
		}
	}
	i := first
	must(t, l.Scan(first, func(e Entry) bool {
		sameEntry(t, e, live[i-first].Entry)
		i++
		return true
	}))
	if i != m.next() {
		t.Fatalf("scan ended at %d, want %d", i, m.next())
	}
	if ts, off := l.MaxTimestamp(); ts != maxTS || off != maxOff {
		t.Fatalf("max timestamp %d at %d, want %d at %d", ts, off, maxTS, maxOff)
	}
	if len(live) > 0 {
		verifyEpochs(t, l, live)
	}
	for _, e := range append([]modelEntry{}, live...) {
		got, err := l.Entry(e.Index)
		must(t, err)
		sameEntry(t, got, e.Entry)
	}
}

func verifyEpochs(t rapid.TB, l *Log, live []modelEntry) {
	t.Helper()
	last := live[len(live)-1]
	if e, off := l.EpochEnd(math.MaxInt32); e != int32(last.Term) || off != last.NextOffset {
		t.Fatalf("last epoch %d ends at %d, want %d, %d", e, off, last.Term, last.NextOffset)
	}
	for i, e := range live[1:] {
		if prev := live[i]; e.Term != prev.Term {
			if got, off := l.EpochEnd(int32(prev.Term)); got != int32(prev.Term) || off != e.BaseOffset {
				t.Fatalf("epoch %d: %d ends at %d, want %d", prev.Term, got, off, e.BaseOffset)
			}
		}
		if e.Type == Batch {
			if got, ok := l.EpochAt(e.NextOffset - 1); !ok || got != int32(e.Term) {
				t.Fatalf("epoch at %d: %d %v, want %d", e.NextOffset-1, got, ok, e.Term)
			}
		}
	}
}

func sameEntry(t rapid.TB, got, want Entry) {
	t.Helper()
	if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || got.BaseOffset != want.BaseOffset ||
		got.NextOffset != want.NextOffset || got.Size != want.Size || !bytes.Equal(got.Header, want.Header) ||
		!bytes.Equal(got.Payload, want.Payload) {
		t.Fatalf("entry\n got %+v\nwant %+v", got, want)
	}
}

func readRange(t rapid.TB, r Range) []byte {
	t.Helper()
	b := make([]byte, r.Len)
	if n, err := r.File.ReadAt(b, r.Pos); n < len(b) {
		t.Fatalf("read range: %v", err)
	}
	r.Release()
	return b
}

// verifyReads compares one read by index and one by offset with the model.
func verifyReads(t *rapid.T, l *Log, m *model) {
	first := l.FirstIndex()
	if first == 0 || first == m.next() {
		return
	}
	from := rapid.Uint64Range(first, m.next()-1).Draw(t, "from")
	to := rapid.Uint64Range(from, m.next()+3).Draw(t, "to")
	maxBytes := rapid.IntRange(0, 6000).Draw(t, "maxBytes")
	r, err := l.ReadIndexes(from, to, maxBytes)
	must(t, err)
	if r.First != from || r.Last < from || r.Last > to || r.NextIndex != r.Last+1 {
		t.Fatalf("range %d..%d of %d..%d", r.First, r.Last, from, to)
	}
	var want []byte
	for i := r.First; i <= r.Last; i++ {
		want = append(want, m.entries[i-m.first].frame...)
	}
	if r.Len > maxBytes && r.Last > r.First {
		t.Fatalf("%d bytes in %d entries, %d allowed", r.Len, r.Last-r.First+1, maxBytes)
	}
	if r.Last < min(to, m.next()-1) && !endsSegment(l, r.Last) {
		if e := m.entries[r.NextIndex-m.first]; r.Len+e.Size <= maxBytes {
			t.Fatalf("range ends at %d though entry %d of %d bytes fits in %d - %d", r.Last, r.NextIndex, e.Size, maxBytes, r.Len)
		}
	}
	got := readRange(t, r)
	if !bytes.Equal(got, want) {
		t.Fatalf("bytes of entries %d..%d differ", r.First, r.Last)
	}
	must(t, ParseFrames(r.First, got, func(e Entry, frame []byte) error {
		sameEntry(t, e, m.entries[e.Index-m.first].Entry)
		return nil
	}))
	verifyOffsets(t, l, m, maxBytes)
	verifyTimes(t, l, m)
}

func endsSegment(l *Log, index uint64) bool {
	for _, s := range l.Segments() {
		if s.LastIndex == index {
			return true
		}
	}
	return false
}

func verifyOffsets(t *rapid.T, l *Log, m *model, maxBytes int) {
	off := rapid.Int64Range(m.start-1, m.nextOffset()+1).Draw(t, "offset")
	limit := rapid.Int64Range(m.start, m.nextOffset()).Draw(t, "limit")
	minOne := rapid.Bool().Draw(t, "minOne")
	rs, err := l.ReadOffsets(off, limit, maxBytes, minOne)
	if off < m.start || off > m.nextOffset() {
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("read at %d of %d..%d: %v", off, m.start, m.nextOffset(), err)
		}
		return
	}
	must(t, err)
	if len(rs) > maxRanges {
		t.Fatalf("%d ranges", len(rs))
	}
	var got, want []byte
	stretches, inside := 0, false
	for _, e := range m.entries {
		switch {
		case e.Type != Batch || endsSegment(l, e.Index-1):
			inside = false
		}
		if e.Type != Batch || e.NextOffset <= off {
			continue
		}
		if e.NextOffset > limit || len(want)+e.Size > maxBytes && (!minOne || len(want) > 0) {
			break
		}
		if !inside {
			if stretches++; stretches > maxRanges {
				break
			}
			inside = true
		}
		want = append(want, e.frame...)
	}
	for _, r := range rs {
		got = append(got, readRange(t, r)...)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read at %d, limit %d, %d bytes, minOne %v: got %d bytes in %d ranges, want %d", off, limit, maxBytes,
			minOne, len(got), len(rs), len(want))
	}
}

func verifyTimes(t *rapid.T, l *Log, m *model) {
	ts := int64(rapid.IntRange(990, 1210).Draw(t, "time"))
	off, ok, err := l.OffsetForTime(ts)
	must(t, err)
	for _, e := range m.entries {
		if e.Index >= l.FirstIndex() && e.NextOffset > m.start && e.ts >= ts {
			if !ok || off != e.BaseOffset {
				t.Fatalf("time %d: offset %d %v, want %d", ts, off, ok, e.BaseOffset)
			}
			return
		}
	}
	if ok {
		t.Fatalf("time %d: offset %d, want none", ts, off)
	}
}

// TestTruncateSuffix: exactly the entries from first on go, whatever segment they are in, and stay gone after a kill
// and after a clean restart; what is appended next follows.
func TestTruncateSuffix(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		m := &model{}
		o := Options{FS: vfs.OS(), Dir: dir, Logger: quiet(), Config: smallConfig}
		l, err := Open(o)
		must(rt, err)
		for range rapid.IntRange(1, 6).Draw(rt, "appends") {
			es := genEntries(rt, m, 8)
			m.add(es)
			must(rt, l.Append(es))
		}
		first := rapid.Uint64Range(1, m.next()+1).Draw(rt, "first")
		must(rt, l.TruncateSuffix(first))
		m.truncate(first)
		verify(rt, l, m)
		if rapid.Bool().Draw(rt, "clean") {
			must(rt, l.Close())
		}
		l, err = Open(o)
		must(rt, err)
		verify(rt, l, m)
		es := genEntries(rt, m, 8)
		m.add(es)
		must(rt, l.Append(es))
		verify(rt, l, m)
		must(rt, l.Close())
	})
}

// TestModel runs random operations on a log and on a slice; they must agree.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{}
		now := time.UnixMilli(1_000_000)
		o := Options{
			FS: vfs.OS(), Dir: t.TempDir() + "/new", Logger: quiet(), Now: func() time.Time { return now },
			Config: func() Config { c := smallConfig(); c.SegmentAge = time.Hour; return c },
		}
		l, err := Open(o)
		must(rt, err)
		reopen := func(rt *rapid.T) {
			l, err = Open(o)
			must(rt, err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				es := genEntries(rt, m, 12)
				m.add(es)
				must(rt, l.Append(es))
			},
			"truncate": func(rt *rapid.T) {
				if m.first == 0 {
					rt.Skip()
				}
				first := rapid.Uint64Range(max(l.FirstIndex(), m.next()-min(m.next(), 20)), m.next()).Draw(rt, "first")
				must(rt, l.TruncateSuffix(first))
				m.truncate(first)
			},
			"advance": func(rt *rapid.T) {
				off := rapid.Int64Range(m.start, m.nextOffset()).Draw(rt, "offset")
				must(rt, l.AdvanceStart(off))
				m.start = off
			},
			"roll": func(*rapid.T) { must(rt, l.Roll()) },
			"age":  func(*rapid.T) { now = now.Add(40 * time.Minute) },
			"reset": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "seldom") > 0 {
					rt.Skip()
				}
				*m = model{first: m.next() + 5, base: m.nextOffset() + 3, prevTerm: m.lastTerm() + 1}
				m.start = m.base
				must(rt, l.Reset(m.first, m.base, m.prevTerm))
			},
			"close": func(rt *rapid.T) {
				must(rt, l.Close())
				reopen(rt)
				if r := l.Recovery(); !r.Clean && m.first != 0 {
					rt.Fatalf("not clean: %+v", r)
				}
			},
			"kill": func(rt *rapid.T) {
				reopen(rt)
				if r := l.Recovery(); r.TornBytes != 0 {
					rt.Fatalf("%+v", r)
				}
			},
			"read": func(rt *rapid.T) { verifyReads(rt, l, m) },
			"":     func(rt *rapid.T) { verify(rt, l, m) },
		})
		must(rt, l.Close())
	})
}

// Rule 21: Raft's own entries take an index and a frame and no offset, and the leader epoch fits an int32.
func TestRule21OwnEntriesTakeNoOffset(t *testing.T) {
	l, _, _ := testLog(t, crashfs.New(1), Config{Fsync: true})
	must(t, l.Append([]NewEntry{
		{Index: 2, Term: 1, Type: Barrier},
		{Index: 3, Term: 1, Type: Configuration, Data: []byte("servers")},
		{Index: 4, Term: 1, Type: Void},
	}))
	if l.NextOffset() != 0 || l.LastIndex() != 4 {
		t.Fatalf("next offset %d, last index %d", l.NextOffset(), l.LastIndex())
	}
	must(t, l.Append([]NewEntry{{Index: 5, Term: 1, Type: Batch, Data: makeBatch(2, 1, nil)}}))
	if e, err := l.Entry(5); err != nil || e.BaseOffset != 0 || e.NextOffset != 2 {
		t.Fatalf("%+v %v", e, err)
	}
	must(t, l.Append([]NewEntry{{Index: 6, Term: math.MaxInt32, Type: Noop}}))
	if err := l.Append([]NewEntry{{Index: 7, Term: math.MaxInt32 + 1, Type: Noop}}); !errors.Is(err, ErrInvalid) {
		t.Fatalf("a term that is no leader epoch: %v", err)
	}
}
