//go:build integration && linux

package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/integration/harness"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
)

// rssMiB of a process.
func rssMiB(t *testing.T, n *harness.Node) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Pid()))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	must(t, err)
	return kib >> 10
}

// besides runs attack while a neighbour produces and consumes, of whom nothing may be lost, late or wrong; the broker's
// memory is watched all along.
func besides(t *testing.T, c *harness.Cluster, attack func(ctx context.Context)) {
	t.Helper()
	must(t, c.CreateTopic(deadline(t, 20*time.Second), "neighbour", 1, 1, nil))
	load, err := c.StartLoad("neighbour", 1, harness.LoadOptions{Producers: 1, Readers: 1, Pace: time.Millisecond})
	must(t, err)
	must(t, load.WaitAcks(deadline(t, 20*time.Second)))
	n := c.Nodes[0]
	before, peak := rssMiB(t, n), 0
	ctx := deadline(t, 20*time.Second)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				if !n.Running() {
					return
				}
				peak = max(peak, rssMiB(t, n))
			}
		}
	}()
	load.ResetGaps()
	attack(ctx)
	must(t, load.WaitAcks(deadline(t, 10*time.Second)))
	gap := load.Gap(0)
	close(stop)
	<-stopped
	if !n.Running() {
		t.Fatal("the broker died")
	}
	t.Logf("RSS %d MiB before, %d at most; the neighbour's longest gap %v; %d records", before, peak, gap.Round(time.Millisecond), load.History.Count())
	if peak-before >= 64 {
		t.Errorf("RSS grew from %d to %d MiB", before, peak)
	}
	if gap > 5*time.Second { // a stall, not a figure: this machine may be busy
		t.Errorf("the neighbour waited %v", gap)
	}
	must(t, load.Stop(20*time.Second))
	final, err := c.ReadAll(deadline(t, 20*time.Second), "neighbour", 1)
	must(t, err)
	for _, e := range load.History.Check(final) {
		t.Error(e)
	}
	for _, bad := range []string{"panic", "goroutine "} {
		if n.Printed(bad) {
			t.Errorf("the broker's log has %q", bad)
		}
	}
}

// withBatch changes a sound batch of one record and stamps its CRC anew.
func withBatch(change func(b record.Batch) record.Batch) []byte {
	var rb record.Builder
	rb.Add(time.Now().UnixMilli(), []byte("key"), []byte("value"))
	b := change(rb.Build())
	b.StampCRC()
	return b
}

// withPayload is a batch that claims so many records, compressed by codec, in payload.
func withPayload(codec int8, count int32, payload []byte) []byte {
	return withBatch(func(b record.Batch) record.Batch {
		b = append(b[:record.HeaderSize], payload...)
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)-record.Overhead))
		binary.BigEndian.PutUint16(b[21:], uint16(codec))
		binary.BigEndian.PutUint32(b[23:], uint32(count-1))
		binary.BigEndian.PutUint32(b[57:], uint32(count))
		return b
	})
}

// bombs are payloads that expand to so many MiB of zeros, in one legal record but for its size; as small as codecs can.
func bombs(t *testing.T, mib int) map[int8][]byte {
	size := mib << 20
	head := binary.AppendVarint(nil, int64(size)+16)
	head = append(head, 0, 0, 0, 1)
	head = binary.AppendVarint(head, int64(size))
	zeros := make([]byte, 1<<20)
	out := map[int8][]byte{}
	pack := func(codec int8, open func(w io.Writer) io.WriteCloser) {
		var buf bytes.Buffer
		w := open(&buf)
		_, err := w.Write(head)
		must(t, err)
		for range mib {
			_, err := w.Write(zeros)
			must(t, err)
		}
		must(t, w.Close())
		out[codec] = buf.Bytes()
	}
	pack(record.CodecGzip, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
	pack(record.CodecLZ4, func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) })
	pack(record.CodecZstd, func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
		must(t, err)
		return z
	})
	// Snappy gains a factor of 21 at most: a raw block that claims 4 GiB, and xerial blocks of a megabyte each.
	xerial := append([]byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}, 0, 0, 0, 1, 0, 0, 0, 1)
	block := snappy.Encode(nil, zeros)
	for range min(mib, 16) {
		xerial = binary.BigEndian.AppendUint32(xerial, uint32(len(block)))
		xerial = append(xerial, block...)
	}
	out[record.CodecSnappy] = xerial
	return out
}

// TestHostileBatches: every malformed batch and payload is answered with Kafka's error code, and no bomb goes off.
func TestHostileBatches(t *testing.T) {
	c := start(t, harness.Options{Nodes: 1})
	ctx := deadline(t, 28*time.Second)
	must(t, c.CreateTopic(ctx, "target", 1, 1, nil))
	r := newRaw(t, c, "target")
	type attempt struct {
		name  string
		batch []byte
		want  []int16
	}
	corrupt, invalid := []int16{protocol.CorruptMessage}, []int16{protocol.CorruptMessage, protocol.InvalidRecord}
	varint := func(n int64) []byte { return binary.AppendVarint(nil, n) }
	sound := withBatch(func(b record.Batch) record.Batch { return b })
	flipped := bytes.Clone(sound)
	flipped[len(flipped)-1] ^= 1
	tries := []attempt{
		{"wrong CRC", flipped, corrupt},
		{"cut in the header", sound[:30], invalid},
		{"cut in the records", sound[:len(sound)-2], invalid},
		{"one byte", sound[:1], invalid},
		{"nothing", []byte{}, invalid},
		{"two batches", append(bytes.Clone(sound), sound...), invalid},
		{"negative batch length", withLength(sound, -1), invalid},
		{"huge batch length", withLength(sound, 1<<31-1), invalid},
		{"random", randomBytes(5000), append([]int16{protocol.UnsupportedForMessageFormat, protocol.UnsupportedVersion}, invalid...)},
		{"count too high", withPayload(0, 1<<31-1, sound[record.HeaderSize:]), invalid},
		{"negative count", withPayload(0, -5, sound[record.HeaderSize:]), invalid},
		{"negative record length", withPayload(0, 1, varint(-100)), invalid},
		{"huge record length", withPayload(0, 1, varint(1<<31-1)), invalid},
		{"endless varint", withPayload(0, 1, bytes.Repeat([]byte{0xff}, 100)), invalid},
		{"negative key", withPayload(0, 1, append(varint(10), 0, 0, 0, 9, 9, 9, 9, 9, 9, 9)), invalid},
		{"huge key", withPayload(0, 1, append(append(varint(20), 0, 0, 0), append(varint(1<<40), make([]byte, 20)...)...)), invalid},
		{"huge header count", withPayload(0, 1, append(append(varint(12), 0, 0, 0, 1, 1), append(varint(1<<31-1), 0, 0)...)), invalid},
		{"unknown codec", withPayload(7, 1, sound[record.HeaderSize:]), append([]int16{protocol.UnsupportedCompressionType}, invalid...)},
		{"control batch", record.BuildControl(1, 0, time.Now().UnixMilli(), true, 0), invalid},
		{"snappy block of 4 GiB", withPayload(record.CodecSnappy, 1, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3}), invalid},
		{"zstd window of 1 TiB", withPayload(record.CodecZstd, 1, []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0xf0, 1, 0, 0}), append([]int16{protocol.MessageTooLarge}, invalid...)},
	}
	for codec := int8(1); codec <= 4; codec++ {
		tries = append(tries, attempt{fmt.Sprintf("random payload, codec %d", codec), withPayload(codec, 1, randomBytes(3000)), invalid})
	}
	bomb := append([]int16{protocol.MessageTooLarge}, invalid...)
	for _, mib := range []int{128, 300} {
		for codec, payload := range bombs(t, mib) {
			if len(payload) < 1_000_000 {
				tries = append(tries, attempt{fmt.Sprintf("%d MiB bomb, codec %d, %d bytes", mib, codec, len(payload)), withPayload(codec, 1, payload), bomb})
				// Many small records in the end: the count is a lie.
				tries = append(tries, attempt{fmt.Sprintf("%d MiB bomb that claims 2^30 records, codec %d", mib, codec), withPayload(codec, 1<<30, payload), bomb})
			} else {
				t.Logf("%d MiB bomb, codec %d: %d bytes are more than a batch may have", mib, codec, len(payload))
			}
		}
	}
	besides(t, c, func(ctx context.Context) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 4) // at once
		for _, a := range tries {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				code, _, err := r.send(ctx, 1, a.batch)
				if err != nil {
					t.Errorf("%s: %v", a.name, err)
					return
				}
				if !slices.Contains(a.want, code) {
					t.Errorf("%s: %s", a.name, protocol.ErrorName(code))
				}
			})
		}
		wg.Wait()
	})
	// What was refused left nothing.
	if final, err := c.ReadAll(ctx, "target", 1); err != nil || len(final[0]) != 0 {
		t.Errorf("%d records %v", len(final[0]), err)
	}
}

func withLength(batch []byte, n int32) []byte {
	b := bytes.Clone(batch)
	binary.BigEndian.PutUint32(b[8:], uint32(n))
	return b
}

func randomBytes(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// hostileFrames are whole requests, each with its length, for the Kafka port.
func hostileFrames() [][]byte {
	frame := func(body []byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("hostile"))
	out := [][]byte{
		{0xff, 0xff, 0xff, 0xff},             // a negative length
		{0x7f, 0xff, 0xff, 0xff, 0, 0},       // 2 GiB
		{0, 0, 0, 0},                         // nothing
		{0x06, 0x3f, 0xff, 0xff, 0, 0, 0, 9}, // 100 MiB of which 4 bytes come
		[]byte("GET / HTTP/1.1\r\n\r\n"),
		{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, // TLS
	}
	for key := int16(-1); key < 100; key++ {
		for _, version := range []int16{-1, 0, 1, 99} {
			b := binary.BigEndian.AppendUint16(nil, uint16(key))
			b = binary.BigEndian.AppendUint16(b, uint16(version))
			b = append(b, 0, 0, 0, 1, 0xff, 0xff)
			out = append(out, frame(b), frame(append(b, bytes.Repeat([]byte{0x7f, 0xff, 0xff, 0xff}, 20)...)),
				frame(append(b, bytes.Repeat([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}, 20)...)))
		}
		req := kmsg.RequestForKey(key)
		v, ok := protocol.Versions[key]
		if req == nil || !ok {
			continue
		}
		for version := v.Min; version <= v.Max; version++ {
			req.SetVersion(version)
			sound := f.AppendRequest(nil, req, 1)[4:]
			rng := rand.New(rand.NewPCG(uint64(key), uint64(version)))
			for range 4 {
				b := bytes.Clone(sound[:rng.IntN(len(sound)+1)]) // cut
				out = append(out, frame(b))
				b = bytes.Clone(sound) // bytes changed behind the header's first eight
				for range 3 {
					if len(b) > 8 {
						b[8+rng.IntN(len(b)-8)] = byte(rng.Uint32())
					}
				}
				out = append(out, frame(append(b, randomBytes(rng.IntN(30))...)))
			}
		}
	}
	return out
}

// poke sends bytes to an address and reads what comes for a moment.
func poke(addr string, b []byte, halfOpen bool) error {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = nc.Write(b) // a reset is an answer too
	if !halfOpen {
		_ = nc.(*net.TCPConn).CloseWrite()
	}
	_ = nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	_, _ = io.Copy(io.Discard, io.LimitReader(nc, 1<<20))
	return nil
}

// TestHostileFrames: malformed requests in every API and version, and noise on every port of a broker.
func TestHostileFrames(t *testing.T) {
	c := start(t, harness.Options{Nodes: 1})
	n := c.Nodes[0]
	besides(t, c, func(ctx context.Context) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		slots := make(chan struct{}, 32)
		sent := 0
		send := func(addr string, b []byte, halfOpen bool) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if err := poke(addr, b, halfOpen); err != nil {
					t.Errorf("%s: %v", addr, err)
				}
				mu.Lock()
				sent++
				mu.Unlock()
			})
		}
		for i, b := range hostileFrames() {
			send(n.KafkaAddr, b, i%10 == 0)
		}
		for i := range 60 {
			b := randomBytes(1 << (i % 17))
			for _, addr := range []string{n.ClusterAddr, n.GossipAddr, n.HTTPAddr} {
				send(addr, b, i%4 == 0)
				// The port's own first bytes, and then noise.
				send(addr, append([]byte("BALS"), b...), false)
				send(addr, append([]byte{0x7f, 0xff, 0xff, 0xff}, b...), false)
				send(addr, append([]byte("GET /readyz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"), b...), false)
			}
			if u, err := net.Dial("udp", n.GossipAddr); err == nil {
				_, _ = u.Write(b[:min(len(b), 60000)])
				for kind := range byte(20) { // memberlist's message types, compound and compressed among them
					_, _ = u.Write(append([]byte{kind}, b[:min(len(b), 1400)]...))
				}
				_ = u.Close()
			}
		}
		wg.Wait()
		t.Logf("%d hostile connections", sent)
	})
	resp, err := http.Get("http://" + n.HTTPAddr + "/readyz")
	must(t, err)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
}

// TestManyConnections: far more connections than max.connections, half of them open for good, some that send a byte now
// and then. The neighbour, who was there before, does not notice.
func TestManyConnections(t *testing.T) {
	c := start(t, harness.Options{Nodes: 1, Set: []string{"max.connections=300"}})
	n := c.Nodes[0]
	besides(t, c, func(ctx context.Context) {
		var open []net.Conn
		defer func() {
			for _, nc := range open {
				_ = nc.Close()
			}
		}()
		for i := range 3000 {
			nc, err := net.DialTimeout("tcp", n.KafkaAddr, 5*time.Second)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			switch i % 3 {
			case 0: // claims a large frame
				_, _ = nc.Write([]byte{0, 0x10, 0, 0, 0, 3, 0, 1})
			case 1: // a request in single bytes
				_, _ = nc.Write([]byte{0})
			}
			open = append(open, nc)
		}
		for range 20 { // slow loris
			for _, nc := range open {
				_ = nc.SetWriteDeadline(time.Now().Add(time.Second))
				_, _ = nc.Write([]byte{0})
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
		closed := 0
		for _, nc := range open {
			_ = nc.SetReadDeadline(time.Now().Add(time.Millisecond))
			var b [1]byte
			_, err := nc.Read(b[:])
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				closed++
			}
		}
		t.Logf("%d of %d connections were refused", closed, len(open))
		if closed < len(open)-300 {
			t.Errorf("only %d of %d connections were refused", closed, len(open))
		}
	})
	// Their places are free again.
	ctx := deadline(t, 10*time.Second)
	for {
		cl, err := kgo.NewClient(kgo.SeedBrokers(n.KafkaAddr))
		must(t, err)
		pctx, cancel := context.WithTimeout(ctx, time.Second)
		err = cl.Ping(pctx)
		cancel()
		cl.Close()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
