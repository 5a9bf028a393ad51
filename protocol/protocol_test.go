package protocol

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Frames as real clients put them on the wire (franz-go 1.22; librdkafka 2.0, by kcat).
var golden = []struct {
	name, frame  string
	key, version int16
	corr         int32
	client       string
}{
	{"franz ApiVersions", "00000020001200050000000000036b676f00046b676f08756e6b6e6f776e00ffffffff00", ApiVersions, 5, 0, "kgo"},
	{"franz Metadata", "0000002a0003000d0000000100036b676f00020000000000000000000000000000000007676f6c64656e00000000", Metadata, 13, 1, "kgo"},
	{
		"franz Produce", "000000740000000d0000000100036b676f0000ffff000027100201000000000000000000000000000000020000000046000000000000000000000039" +
			"ffffffff026e7dc9600000000000000000018bcfe568000000018bcfe56800ffffffffffffffffffff00000000000000010e00000001027600000000",
		Produce, 13, 1, "kgo",
	},
	{
		"franz Fetch", "0000005a000100120000000100036b676f00000003e8000000010320000000000000000000000002010000000000000000000000000000000200000000" +
			"000000020000000000000000ffffffffffffffffffffffff001000000000010100",
		Fetch, 18, 1, "kgo",
	},
	{"franz Fetch in a session", "00000027000100120000000200036b676f00000000010000000100000001007d320395ffffffff01010100", Fetch, 18, 2, "kgo"},
	{"rdkafka ApiVersions", "000000240012000300000001000772646b61666b61000b6c696272646b61666b6106322e302e3200", ApiVersions, 3, 1, "rdkafka"},
	{"rdkafka Metadata", "0000001e0003000400000002000772646b61666b61000000010006676f6c64656e01", Metadata, 4, 2, "rdkafka"},
	{
		"rdkafka Produce", "000000760000000700000003000772646b61666b61ffffffff00007530000000010006676f6c64656e000000010000000000000045" +
			"000000000000000000000039000000000287141971000000000000000001a2011f2a2b000001a2011f2a2bffffffffffffffffffffffffffff00000001" +
			"0e00000001027600",
		Produce, 7, 3, "rdkafka",
	},
	{
		"rdkafka Fetch", "0000005c0001000b00000004000772646b61666b61ffffffff000001f400000001032000000100000000ffffffff000000010006676f6c64656e" +
			"0000000100000000ffffffff0000000000000000ffffffffffffffff00100000000000000000",
		Fetch, 11, 4, "rdkafka",
	},
}

func TestGoldenFrames(t *testing.T) {
	for _, g := range golden {
		b, err := hex.DecodeString(g.frame)
		if err != nil {
			t.Fatal(g.name, err)
		}
		r := bytes.NewReader(b)
		n, err := ReadFrameSize(r, 1<<20)
		if err != nil {
			t.Fatal(g.name, err)
		}
		f, err := ReadFrame(r, n, nil)
		if err != nil {
			t.Fatal(g.name, err)
		}
		req := kmsg.RequestForKey(g.key)
		req.SetVersion(g.version)
		h, body, err := ParseHeader(f.B, req.IsFlexible())
		if err != nil {
			t.Fatal(g.name, err)
		}
		if h != (Header{g.key, g.version, g.corr, g.client}) {
			t.Errorf("%s: %+v", g.name, h)
		}
		if err := req.ReadFrom(body); err != nil {
			t.Errorf("%s: %v", g.name, err)
		}
		if again := kmsg.NewRequestFormatter(kmsg.FormatterClientID(h.ClientID)).AppendRequest(nil, req, h.CorrelationID); !bytes.Equal(again, b) {
			t.Errorf("%s: encodes to %x", g.name, again)
		}
		f.Release()
	}
}

func TestHeaderAgainstKmsg(t *testing.T) {
	for key, v := range Versions {
		for version := v.Min; version <= v.Max; version++ {
			req := kmsg.RequestForKey(key)
			req.SetVersion(version)
			for _, client := range []string{"", "a client"} {
				b := kmsg.NewRequestFormatter(kmsg.FormatterClientID(client)).AppendRequest(nil, req, 42)
				h, body, err := ParseHeader(b[4:], req.IsFlexible())
				if err != nil || h.Key != key || h.Version != version || h.CorrelationID != 42 || h.ClientID != client {
					t.Fatalf("%d v%d: %+v %v", key, version, h, err)
				}
				if !bytes.Equal(body, req.AppendTo(nil)) {
					t.Fatalf("%d v%d: body differs", key, version)
				}
			}
		}
		if m := kmsg.RequestForKey(key).MaxVersion(); m < v.Max {
			t.Errorf("api %d: kmsg knows versions up to %d, the table has %d", key, m, v.Max)
		}
	}
}

func TestErrorCodesAgainstKerr(t *testing.T) {
	for code, name := range errorNames {
		if code == 0 || code == NotLeaderOrFollower { // kerr has the latter's old name
			continue
		}
		var ke *kerr.Error
		if !errors.As(kerr.ErrorForCode(code), &ke) || ke.Message != name {
			t.Errorf("%d: %s, kerr has %v", code, name, ke)
		}
	}
	if ErrorName(12345) != "ERROR_12345" {
		t.Error(ErrorName(12345))
	}
}

func TestFrameLimits(t *testing.T) {
	size := func(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	for _, n := range []int32{-1, 0, 7, 1001, 1 << 30} {
		if _, err := ReadFrameSize(bytes.NewReader(size(n)), 1000); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d: %v", n, err)
		}
	}
	if n, err := ReadFrameSize(bytes.NewReader(size(1000)), 1000); n != 1000 || err != nil {
		t.Error(n, err)
	}
	if _, err := ReadFrameSize(bytes.NewReader([]byte{0, 0}), 1000); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// TestFrameMemory: a length that is only claimed costs no more than what arrived.
func TestFrameMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := ReadFrame(bytes.NewReader(make([]byte, 1000)), 100<<20, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes for a claim", n)
	}
	// And what arrives is what is read, over every growth.
	for _, n := range []int{8, 4096, 4097, growStep, growStep + 1, 3 * growStep, 20 * growStep} {
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(i * 7)
		}
		f, err := ReadFrame(bytes.NewReader(want[5:]), n, want[:5])
		if err != nil || !bytes.Equal(f.B, want) {
			t.Fatalf("%d: %v", n, err)
		}
		f.Release()
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 3, 0, 12, 0, 0, 0, 1, 0, 1, 'c', 1, 0, 2, 'x', 'y'}, true)
	f.Fuzz(func(t *testing.T, b []byte, flexible bool) {
		h, body, err := ParseHeader(b, flexible)
		if err == nil && len(body) > len(b)-10 {
			t.Fatalf("%+v: body of %d in %d", h, len(body), len(b))
		}
		r := Reader{B: b}
		n := r.Array(flexible, 3)
		if 3*n > len(b) {
			t.Fatalf("an array of %d in %d bytes", n, len(b))
		}
		for range n {
			r.String(flexible)
			r.Bytes(flexible)
			if flexible {
				r.Tags()
			}
		}
	})
}
