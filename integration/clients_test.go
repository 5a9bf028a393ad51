//go:build integration

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/balsa-broker/balsa/integration/harness"
	"github.com/balsa-broker/balsa/protocol/record"
)

// sample is what every client sends: keys, headers, a tombstone, an empty value, one byte and close to a mebibyte.
func sample() []*kgo.Record {
	big := bytes.Repeat([]byte("balsa floats "), 78_000)
	return []*kgo.Record{
		{Key: []byte("k0"), Value: []byte("first"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "empty"}}},
		{Key: []byte("k1"), Value: nil},
		{Key: nil, Value: []byte{}},
		{Value: []byte("x")},
		{Key: []byte("big"), Value: big},
		{Key: []byte("last"), Value: []byte("end")},
	}
}

// checkSample reads a topic with one partition from its start and compares.
func checkSample(t *testing.T, c *harness.Cluster, topic string, want []*kgo.Record) {
	t.Helper()
	cl, err := c.Client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0)}}))
	must(t, err)
	defer cl.Close()
	ctx := deadline(t, 20*time.Second)
	var got []*kgo.Record
	for len(got) < len(want) {
		fs := cl.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d of %d records: %v", len(got), len(want), err)
		}
		for _, e := range fs.Errors() {
			t.Fatal(e)
		}
		got = append(got, fs.Records()...)
	}
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i, r := range got {
		w := want[i]
		if r.Offset != int64(i) {
			t.Errorf("record %d has offset %d", i, r.Offset)
		}
		if !bytes.Equal(r.Key, w.Key) || (r.Key == nil) != (w.Key == nil) || !bytes.Equal(r.Value, w.Value) || (r.Value == nil) != (w.Value == nil) {
			t.Errorf("record %d differs: key %q, %d bytes of value", i, r.Key, len(r.Value))
		}
		if len(r.Headers) != len(w.Headers) {
			t.Errorf("record %d: headers %v", i, r.Headers)
		}
		for j := range min(len(r.Headers), len(w.Headers)) {
			if r.Headers[j].Key != w.Headers[j].Key || !bytes.Equal(r.Headers[j].Value, w.Headers[j].Value) {
				t.Errorf("record %d: header %v", i, r.Headers[j])
			}
		}
	}
}

func TestClients(t *testing.T) {
	c := start(t, harness.Options{Nodes: 1})
	ctx := deadline(t, 120*time.Second)
	checks := map[string][]*kgo.Record{}

	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		topic := "kgo-" + name
		must(t, c.CreateTopic(ctx, topic, 1, 1, nil))
		cl, err := c.Client(kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codec), kgo.ProducerBatchMaxBytes(1<<20))
		must(t, err)
		must(t, cl.ProduceSync(ctx, sample()...).FirstErr())
		cl.Close()
		checks[topic] = sample()
	}

	for name, codec := range map[string]sarama.CompressionCodec{
		"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP, "snappy": sarama.CompressionSnappy,
		"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
	} {
		topic := "sarama-" + name
		must(t, c.CreateTopic(ctx, topic, 1, 1, nil))
		produceSarama(t, c, topic, codec)
		checks[topic] = sample()
		consumeSarama(t, c, topic, len(sample()))
	}

	if _, err := exec.LookPath("kcat"); err != nil {
		t.Log("kcat is not installed (Debian: apt-get install kcat): its part is skipped")
	} else {
		for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
			topic := "kcat-" + codec
			must(t, c.CreateTopic(ctx, topic, 1, 1, nil))
			kcat(t, c, "k0=one\nk1=two\nk2=three\n", "-P", "-t", topic, "-K", "=", "-z", codec, "-H", "h=v")
			h := []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}
			checks[topic] = []*kgo.Record{
				{Key: []byte("k0"), Value: []byte("one"), Headers: h},
				{Key: []byte("k1"), Value: []byte("two"), Headers: h},
				{Key: []byte("k2"), Value: []byte("three"), Headers: h},
			}
			if got := kcat(t, c, "", "-C", "-t", topic, "-e", "-q", "-f", "%o %k=%s %h\n"); got != "0 k0=one h=v\n1 k1=two h=v\n2 k2=three h=v\n" {
				t.Errorf("kcat read %q", got)
			}
		}
		// A tombstone, and a topic that producing creates.
		kcat(t, c, "gone=\n", "-P", "-t", "kcat-auto", "-K", "=", "-Z")
		checks["kcat-auto"] = []*kgo.Record{{Key: []byte("gone"), Value: nil}}
	}

	for topic, want := range checks {
		t.Run(topic, func(t *testing.T) { checkSample(t, c, topic, want) })
	}
	// All of it survives a restart, graceful and not.
	must(t, c.Nodes[0].Stop())
	must(t, c.Start(deadline(t, 20*time.Second)))
	must(t, c.Nodes[0].Kill())
	must(t, c.Start(deadline(t, 20*time.Second)))
	for topic, want := range checks {
		t.Run(topic+"-after-restart", func(t *testing.T) { checkSample(t, c, topic, want) })
	}
}

func produceSarama(t *testing.T, c *harness.Cluster, topic string, codec sarama.CompressionCodec) {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.MaxVersion
	cfg.Producer.RequiredAcks = sarama.WaitForAll
	cfg.Producer.Return.Successes = true
	cfg.Producer.Compression = codec
	cfg.Producer.MaxMessageBytes = 1_048_588
	p, err := sarama.NewSyncProducer(c.Bootstrap(), cfg)
	must(t, err)
	defer p.Close()
	for i, r := range sample() {
		m := &sarama.ProducerMessage{Topic: topic}
		if r.Key != nil {
			m.Key = sarama.ByteEncoder(r.Key)
		}
		if r.Value != nil {
			m.Value = sarama.ByteEncoder(r.Value)
		}
		for _, h := range r.Headers {
			m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		_, off, err := p.SendMessage(m)
		must(t, err)
		if off != int64(i) {
			t.Fatalf("sarama: record %d got offset %d", i, off)
		}
	}
}

func consumeSarama(t *testing.T, c *harness.Cluster, topic string, n int) {
	t.Helper()
	cfg := sarama.NewConfig()
	cfg.Version = sarama.MaxVersion
	cons, err := sarama.NewConsumer(c.Bootstrap(), cfg)
	must(t, err)
	defer cons.Close()
	pc, err := cons.ConsumePartition(topic, 0, sarama.OffsetOldest)
	must(t, err)
	defer pc.Close()
	ctx := deadline(t, 20*time.Second)
	for i := range n {
		select {
		case m := <-pc.Messages():
			if m.Offset != int64(i) {
				t.Fatalf("sarama read offset %d, want %d", m.Offset, i)
			}
		case e := <-pc.Errors():
			t.Fatal(e)
		case <-ctx.Done():
			t.Fatalf("sarama read %d of %d records", i, n)
		}
	}
}

func kcat(t *testing.T, c *harness.Cluster, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kcat", append([]string{"-b", strings.Join(c.Bootstrap(), ",")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kcat %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// TestSegmentHoldsTheBytesSent sends hand-made batches and finds them in the segment file, but for base offset and
// leader epoch.
func TestSegmentHoldsTheBytesSent(t *testing.T) {
	c := start(t, harness.Options{Nodes: 1})
	ctx := deadline(t, 30*time.Second)
	must(t, c.CreateTopic(ctx, "raw", 1, 1, nil))
	cl, err := c.Client(kgo.MaxVersions(kversion.V3_7_0())) // later ones name topics by ID
	must(t, err)
	defer cl.Close()
	var sent [][]byte
	for i := range 5 {
		var b kmsg.RecordBatch
		b.Magic = 2
		b.PartitionLeaderEpoch = -1
		b.FirstTimestamp = time.Now().UnixMilli()
		b.MaxTimestamp = b.FirstTimestamp
		b.ProducerID, b.ProducerEpoch, b.FirstSequence = -1, -1, -1
		n := i + 1
		b.NumRecords, b.LastOffsetDelta = int32(n), int32(n-1)
		for j := range n {
			r := kmsg.Record{OffsetDelta: int32(j), Key: fmt.Appendf(nil, "k%d", j), Value: bytes.Repeat([]byte{byte(j)}, 10*i)}
			body := r.AppendTo(nil)
			r.Length = int32(len(body) - 1) // the length's own varint of 0 is one byte
			b.Records = r.AppendTo(b.Records)
		}
		raw := b.AppendTo(nil)
		batch := record.Batch(raw)
		raw[8], raw[9], raw[10], raw[11] = byte((len(raw)-12)>>24), byte((len(raw)-12)>>16), byte((len(raw)-12)>>8), byte(len(raw)-12)
		batch.StampCRC()
		sent = append(sent, raw)
		req := kmsg.NewPtrProduceRequest()
		req.Version = 9
		req.Acks, req.TimeoutMillis = -1, 5000
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic = "raw"
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = raw
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := cl.Broker(1).Request(ctx, req)
		must(t, err)
		if p := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatalf("batch %d: error code %d %v", i, p.ErrorCode, p.ErrorMessage)
		}
	}
	must(t, c.Nodes[0].Stop())
	files, err := filepath.Glob(filepath.Join(c.Nodes[0].Dir, "topics", "raw-0-*", "*.log"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("segment files: %v", files)
	}
	b, err := os.ReadFile(files[0])
	must(t, err)
	var found [][]byte
	for len(b) >= 17 {
		size := 12 + int(record.Batch(b).Length())
		if size <= 12 || size > len(b) {
			break
		}
		if b[16] == 2 {
			var k kmsg.RecordBatch
			must(t, k.ReadFrom(b[:size]))
			if want := int64(len(found) * (len(found) + 1) / 2); k.FirstOffset != want {
				t.Errorf("batch %d has base offset %d, want %d", len(found), k.FirstOffset, want)
			}
			found = append(found, b[:size])
		}
		b = b[size:]
	}
	if len(found) != len(sent) {
		t.Fatalf("%d batches in the segment, %d sent", len(found), len(sent))
	}
	for i := range sent {
		if !bytes.Equal(found[i][8:12], sent[i][8:12]) || !bytes.Equal(found[i][16:], sent[i][16:]) {
			t.Errorf("batch %d is not what was sent", i)
		}
	}
}
