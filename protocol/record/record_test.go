package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var codecs = []int8{CodecNone, CodecGzip, CodecSnappy, CodecLZ4, CodecZstd}

type rec struct {
	ts         int64
	key, value []byte
	headers    []Header
}

func randomRecs(rng *rand.Rand, n, size int) []rec {
	out := make([]rec, n)
	for i := range out {
		r := rec{ts: 1_700_000_000_000 + rng.Int64N(10_000)}
		if rng.IntN(4) > 0 {
			r.key = fmt.Appendf(nil, "key-%d", i)
		}
		if rng.IntN(8) > 0 {
			r.value = bytes.Repeat([]byte{byte('a' + i%26)}, rng.IntN(size+1))
			for j := range r.value {
				if rng.IntN(3) == 0 {
					r.value[j] = byte(rng.Uint32())
				}
			}
		}
		for h := range rng.IntN(3) {
			hd := Header{Key: fmt.Appendf(nil, "h%d", h)}
			if rng.IntN(2) > 0 {
				hd.Value = []byte("v")
			}
			r.headers = append(r.headers, hd)
		}
		out[i] = r
	}
	return out
}

func build(codec int8, recs []rec) Batch {
	b := Builder{Codec: codec}
	for _, r := range recs {
		b.Add(r.ts, r.key, r.value, r.headers...)
	}
	return b.Build()
}

// kmsgBatch makes the batch with kmsg and kgo's compressor, as an ordinary client does.
func kmsgBatch(t testing.TB, codec int8, recs []rec) []byte {
	t.Helper()
	var payload []byte
	first, last := recs[0].ts, recs[0].ts
	for i, r := range recs {
		last = max(last, r.ts)
		k := kmsg.Record{TimestampDelta64: r.ts - first, OffsetDelta: int32(i), Key: r.key, Value: r.value}
		for _, h := range r.headers {
			k.Headers = append(k.Headers, kmsg.Header{Key: string(h.Key), Value: h.Value})
		}
		body := k.AppendTo(nil)
		k.Length = int32(len(body) - 1)
		payload = k.AppendTo(payload)
	}
	if codec != CodecNone {
		c, err := kgo.DefaultCompressor([]kgo.CompressionCodec{
			{}, kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression(),
		}[codec])
		if err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		out, typ := c.Compress(&buf, payload)
		if int8(typ) != codec {
			t.Fatalf("compressor chose %d", typ)
		}
		payload = bytes.Clone(out)
	}
	rb := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, Attributes: int16(codec), LastOffsetDelta: int32(len(recs) - 1),
		FirstTimestamp: first, MaxTimestamp: last, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: int32(len(recs)), Records: payload, Length: int32(HeaderSize - Overhead + len(payload)),
	}
	b := Batch(rb.AppendTo(nil))
	b.StampCRC()
	return b
}

func compare(t *testing.T, b Batch, want []rec) {
	t.Helper()
	i := 0
	err := ForEach(b, Limits{}, func(r *Record) bool {
		w := want[i]
		if r.Offset != b.BaseOffset()+int64(i) || r.Timestamp != w.ts || !bytes.Equal(r.Key, w.key) || !bytes.Equal(r.Value, w.value) ||
			(r.Key == nil) != (w.key == nil) || (r.Value == nil) != (w.value == nil) || r.NumHeaders != len(w.headers) {
			t.Fatalf("record %d: got %+v, want %+v", i, r, w)
		}
		h := 0
		r.Headers(func(g Header) bool {
			if !bytes.Equal(g.Key, w.headers[h].Key) || !bytes.Equal(g.Value, w.headers[h].Value) || (g.Value == nil) != (w.headers[h].Value == nil) {
				t.Fatalf("record %d header %d: %+v", i, h, g)
			}
			h++
			return true
		})
		i++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if i != len(want) {
		t.Fatalf("%d records, want %d", i, len(want))
	}
}

func TestAgainstKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, codec := range codecs {
		for _, shape := range []struct{ n, size int }{{1, 0}, {1, 10}, {100, 100}, {1000, 50}, {3, 300_000}, {20, 70_000}} {
			recs := randomRecs(rng, shape.n, shape.size)
			theirs := kmsgBatch(t, codec, recs)
			b, err := Check(append(bytes.Clone(theirs), "next"...))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, theirs) {
				t.Fatal("Check returned other bytes")
			}
			compare(t, b, recs)
			info, err := Validate(b, &ValidateOptions{Now: time.Now().UnixMilli()})
			if err != nil {
				t.Fatal(err)
			}
			if info.MaxTimestamp != b.MaxTimestamp() {
				t.Fatalf("max timestamp %d, header %d", info.MaxTimestamp, b.MaxTimestamp())
			}
			// Our own builder's batch, decoded by kmsg and kgo's decompressor.
			ours := build(codec, recs)
			if _, err := Check(ours); err != nil {
				t.Fatal(err)
			}
			compare(t, ours, recs)
			var rb kmsg.RecordBatch
			if err := rb.ReadFrom(ours); err != nil {
				t.Fatal(err)
			}
			payload, err := kgo.DefaultDecompressor().Decompress(rb.Records, kgo.CompressionCodecType(codec))
			if err != nil {
				t.Fatal(err)
			}
			if codec == CodecNone && !bytes.Equal(ours, theirs) {
				t.Fatal("builder and kmsg differ")
			}
			plain := build(CodecNone, recs)
			if !bytes.Equal(payload, plain.Records()) {
				t.Fatalf("codec %d: payload differs", codec)
			}
		}
	}
}

func TestRewrite(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	recs := randomRecs(rng, 300, 400)
	for _, from := range codecs {
		b := build(from, recs)
		b.SetBaseOffset(77)
		before := bytes.Clone(b)
		for _, to := range codecs {
			for _, level := range []int{0, 1, 9} {
				nb, err := Rewrite(b, to, level, Limits{})
				if err != nil {
					t.Fatal(err)
				}
				if nb, err = Check(nb); err != nil {
					t.Fatal(err)
				}
				if nb.Codec() != to {
					t.Fatalf("codec %d", nb.Codec())
				}
				compare(t, nb, recs)
			}
		}
		if !bytes.Equal(before, b) {
			t.Fatal("Rewrite changed its input")
		}
	}
	b := build(CodecNone, recs)
	b.SetLogAppendTime(42)
	if _, err := Check(b); err != nil {
		t.Fatal(err)
	}
	if err := ForEach(b, Limits{}, func(r *Record) bool { return r.Timestamp == 42 }); err != nil {
		t.Fatal(err)
	}
	if !b.LogAppendTime() || b.MaxTimestamp() != 42 {
		t.Fatal("not stamped")
	}
}

func TestCheck(t *testing.T) {
	good := build(CodecNone, []rec{{ts: 1, value: []byte("v")}})
	for name, c := range map[string]struct {
		change func(b Batch) []byte
		err    error
	}{
		"empty":            {func(b Batch) []byte { return nil }, ErrShort},
		"header":           {func(b Batch) []byte { return b[:HeaderSize-1] }, ErrShort},
		"cut":              {func(b Batch) []byte { return b[:len(b)-1] }, ErrShort},
		"magic":            {func(b Batch) []byte { b[16] = 1; return b }, ErrMagic},
		"magic is invalid": {func(b Batch) []byte { b[16] = 0; return b }, ErrInvalid},
		"small":            {func(b Batch) []byte { binary.BigEndian.PutUint32(b[8:], 48); return b }, ErrInvalid},
		"negative":         {func(b Batch) []byte { binary.BigEndian.PutUint32(b[8:], 0xffffffff); return b }, ErrInvalid},
		"huge":             {func(b Batch) []byte { binary.BigEndian.PutUint32(b[8:], 0x7fffffff); return b }, ErrInvalid},
		"flipped":          {func(b Batch) []byte { b[len(b)-1] ^= 1; return b }, ErrCorrupt},
		"more records than offsets": {func(b Batch) []byte {
			binary.BigEndian.PutUint32(b[57:], 2)
			b.StampCRC()
			return b
		}, ErrInvalid},
	} {
		if _, err := Check(c.change(bytes.Clone(good))); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
}

func TestValidateRefuses(t *testing.T) {
	now := int64(1_700_000_000_000)
	three := []rec{{ts: now, key: []byte("k"), value: []byte("v")}, {ts: now + 10, key: []byte("k")}, {ts: now - 10, value: []byte("v")}}
	stamp := func(b Batch, f func(Batch)) Batch { f(b); b.StampCRC(); return b }
	for name, c := range map[string]struct {
		b   Batch
		o   ValidateOptions
		err error
		at  []int32
	}{
		"fine":          {build(0, three), ValidateOptions{}, nil, nil},
		"future":        {build(0, three), ValidateOptions{AfterMax: 5 * time.Millisecond}, ErrTimestamp, []int32{1}},
		"past":          {build(4, three), ValidateOptions{BeforeMax: 5 * time.Millisecond}, ErrTimestamp, []int32{2}},
		"append time":   {build(0, three), ValidateOptions{BeforeMax: 5 * time.Millisecond, LogAppendTime: true}, nil, nil},
		"no key":        {build(1, three), ValidateOptions{Compacted: true}, ErrInvalid, []int32{2}},
		"both":          {build(1, three), ValidateOptions{Compacted: true, AfterMax: time.Millisecond}, ErrInvalid, []int32{1, 2}},
		"large":         {build(0, three), ValidateOptions{MaxBytes: 60}, ErrTooLarge, nil},
		"zstd":          {build(4, three), ValidateOptions{NoZstd: true}, ErrCodec, nil},
		"unknown codec": {stamp(build(0, three), func(b Batch) { b.setAttributes(5) }), ValidateOptions{}, ErrCodec, nil},
		"control":       {BuildControl(1, 0, now, true, 0), ValidateOptions{}, ErrInvalid, nil},
		"stamped":       {stamp(build(0, three), func(b Batch) { b.setAttributes(8) }), ValidateOptions{}, ErrTimestamp, nil},
		"count":         {stamp(build(0, three), func(b Batch) { binary.BigEndian.PutUint32(b[57:], 2) }), ValidateOptions{}, ErrInvalid, nil},
		"no records":    {build(0, nil), ValidateOptions{}, ErrInvalid, nil},
		"sequence":      {stamp(build(0, three), func(b Batch) { b.setProducer(1, 0, -1) }), ValidateOptions{}, ErrInvalid, nil},
		"no producer":   {stamp(build(0, three), func(b Batch) { b.setAttributes(16) }), ValidateOptions{}, ErrInvalid, nil},
	} {
		c.o.Now = now
		_, err := Validate(c.b, &c.o)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
		var at []int32
		if inv, ok := errors.AsType[*InvalidError](err); ok {
			for _, f := range inv.Faults {
				at = append(at, f.Index)
			}
		}
		if fmt.Sprint(at) != fmt.Sprint(c.at) {
			t.Errorf("%s: faults at %v, want %v", name, at, c.at)
		}
	}
}

// compressed makes a batch whose payload is given raw, compressed by compress.
func compressed(codec int8, count int32, payload []byte) Batch {
	b := make(Batch, HeaderSize, HeaderSize+len(payload))
	b = append(b, payload...)
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-Overhead))
	b[16] = 2
	b.setAttributes(int16(codec))
	binary.BigEndian.PutUint32(b[23:], uint32(count-1))
	b.setProducer(-1, -1, -1)
	binary.BigEndian.PutUint32(b[57:], uint32(count))
	b.StampCRC()
	return b
}

// TestBombs: a payload that expands without end is refused, and costs no more memory than a decoder.
func TestBombs(t *testing.T) {
	const size = 256 << 20
	// One record of zeros.
	var head []byte
	head = binary.AppendVarint(head, size)
	head = append(head, 0, 0, 0, 1)
	head = binary.AppendVarint(head, size-20)
	zeros := make([]byte, 1<<20)
	stream := func(w interface {
		Write([]byte) (int, error)
		Close() error
	},
	) {
		_, _ = w.Write(head)
		for range size >> 20 {
			_, _ = w.Write(zeros)
		}
		_ = w.Close()
	}
	payloads := map[int8][]byte{}
	var buf bytes.Buffer
	stream(gzip.NewWriter(&buf))
	payloads[CodecGzip] = bytes.Clone(buf.Bytes())
	buf.Reset()
	lw := lz4.NewWriter(&buf)
	stream(lw)
	payloads[CodecLZ4] = bytes.Clone(buf.Bytes())
	buf.Reset()
	zw, _ := zstd.NewWriter(&buf, zstd.WithWindowSize(8<<20))
	stream(zw)
	payloads[CodecZstd] = bytes.Clone(buf.Bytes())
	buf.Reset()
	stream(&xerialWriter{dst: &buf})
	payloads[CodecSnappy] = bytes.Clone(buf.Bytes())
	zeros = nil

	for codec, p := range payloads {
		b := compressed(codec, 1, p)
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Validate(b, &ValidateOptions{Limits: Limits{MaxDecompressedBytes: 128 << 20}})
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("codec %d: %v", codec, err)
		}
		if grew := after.TotalAlloc - before.TotalAlloc; grew > 48<<20 {
			t.Errorf("codec %d: %d MiB allocated", codec, grew>>20)
		}
		// A reader that wants records whole must not follow the record's length either.
		runtime.ReadMemStats(&before)
		err = ForEach(b, Limits{MaxRecordBytes: 8 << 20}, func(*Record) bool { return true })
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("codec %d: %v", codec, err)
		}
		if grew := after.TotalAlloc - before.TotalAlloc; grew > 48<<20 {
			t.Errorf("codec %d, ForEach: %d MiB allocated", codec, grew>>20)
		}
	}
	// A snappy block that claims 4 GiB.
	claim := binary.AppendUvarint(nil, 1<<32-1)
	if _, err := Validate(compressed(CodecSnappy, 1, append(claim, 0)), &ValidateOptions{}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// TestLargeRecord: a record beyond the window is validated without being held, and read whole by ForEach.
func TestLargeRecord(t *testing.T) {
	recs := []rec{
		{ts: 5, key: []byte("k"), value: bytes.Repeat([]byte("large "), 1<<20), headers: []Header{{Key: []byte("h"), Value: []byte(strings.Repeat("x", 100_000))}, {Key: []byte("n")}}},
		{ts: 6, value: []byte("small")},
		{ts: 7, key: bytes.Repeat([]byte("k"), 200_000)},
	}
	for _, codec := range codecs {
		b := build(codec, recs)
		info, err := Validate(b, &ValidateOptions{Now: 10})
		if err != nil || info.MaxTimestamp != 7 {
			t.Fatalf("codec %d: %v %v", codec, info, err)
		}
		_, err = Validate(b, &ValidateOptions{Now: 10, Compacted: true})
		var inv *InvalidError
		if !errors.As(err, &inv) || len(inv.Faults) != 1 || inv.Faults[0].Index != 1 {
			t.Fatalf("codec %d: %v", codec, err)
		}
		compare(t, b, recs)
		var times []int64
		if err := Scan(b, Limits{}, func(r *Record) bool { times = append(times, r.Offset, r.Timestamp); return true }); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(times) != "[0 5 1 6 2 7]" {
			t.Fatal(times)
		}
	}
}

// TestRewriteIsBounded: what one codec packs well and another does not is refused without being held.
func TestRewriteIsBounded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(rng.Uint32())
	}
	b := Builder{Codec: CodecZstd}
	for range 64 {
		b.Add(1, nil, block)
	}
	batch := b.Build()
	if len(batch) > 4<<20 {
		t.Fatal(len(batch))
	}
	for _, codec := range []int8{CodecNone, CodecGzip, CodecSnappy, CodecLZ4} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Rewrite(batch, codec, 0, Limits{MaxRecordBytes: 8 << 20})
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%d: %v", codec, err)
		}
		if grew := (after.TotalAlloc - before.TotalAlloc) >> 20; grew > 64 {
			t.Errorf("%d: %d MiB", codec, grew)
		}
	}
}

func TestRawSnappyBlock(t *testing.T) {
	recs := randomRecs(rand.New(rand.NewPCG(5, 6)), 50, 100)
	plain := build(CodecNone, recs)
	b := compressed(CodecSnappy, 50, snappy.Encode(nil, plain.Records()))
	binary.BigEndian.PutUint64(b[27:], uint64(recs[0].ts))
	compare(t, b, recs)
}

// FuzzBatch: no input makes the package panic, hang, or see a batch differently on its two paths.
func FuzzBatch(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	for _, codec := range codecs {
		f.Add([]byte(build(codec, randomRecs(rng, 10, 30))))
		f.Add([]byte(build(codec, randomRecs(rng, 2, 100_000))))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= HeaderSize { // get past the frame
			b = bytes.Clone(b)
			b[16] = 2
			binary.BigEndian.PutUint32(b[8:], uint32(len(b)-Overhead))
			Batch(b).StampCRC()
		}
		batch, err := Check(b)
		if err != nil {
			return
		}
		limits := Limits{MaxRecordBytes: 1 << 20, MaxDecompressedBytes: 8 << 20}
		_, verr := Validate(batch, &ValidateOptions{Limits: limits})
		n := int32(0)
		ferr := ForEach(batch, limits, func(r *Record) bool {
			r.Headers(func(Header) bool { return true })
			n++
			return true
		})
		if ferr == nil && n != batch.Count() {
			t.Fatalf("%d of %d records", n, batch.Count())
		}
		if verr == nil && ferr != nil && !errors.Is(ferr, ErrTooLarge) {
			t.Fatalf("Validate took what ForEach refuses: %v", ferr)
		}
		if verr == nil {
			for _, codec := range codecs {
				nb, err := Rewrite(batch, codec, 0, limits)
				if errors.Is(err, ErrTooLarge) {
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if _, err := Validate(nb, &ValidateOptions{Limits: limits}); err != nil {
					t.Fatalf("after Rewrite: %v", err)
				}
			}
		}
	})
}

// FuzzRecord: parseRecord agrees with kmsg's reader on every input that both take.
func FuzzRecord(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Record
		if !parseRecord(b, &r) {
			return
		}
		var k kmsg.Record
		if err := k.ReadFrom(append(binary.AppendVarint(nil, int64(len(b))), b...)); err != nil {
			return // kmsg takes fewer forms of a varint
		}
		if int64(k.OffsetDelta) != int64(r.OffsetDelta) || k.TimestampDelta64 != r.TimestampDelta || !bytes.Equal(k.Key, r.Key) || !bytes.Equal(k.Value, r.Value) || len(k.Headers) != r.NumHeaders {
			t.Fatalf("%+v\n%+v", k, r)
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	rng := rand.New(rand.NewPCG(9, 10))
	recs := make([]rec, 1000)
	for i := range recs {
		v := make([]byte, 100)
		for j := range v {
			v[j] = "abcdefghijklmnop"[rng.IntN(16)]
		}
		recs[i] = rec{ts: 1_700_000_000_000 + int64(i/10), value: v}
	}
	for _, codec := range codecs {
		b.Run([]string{"none", "gzip", "snappy", "lz4", "zstd"}[codec], func(b *testing.B) {
			batch := build(codec, recs)
			o := &ValidateOptions{Now: 1_700_000_000_000, AfterMax: time.Hour}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Check(batch); err != nil {
					b.Fatal(err)
				}
				if _, err := Validate(batch, o); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
		})
	}
}
