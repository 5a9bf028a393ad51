package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newClient(t testing.TB, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// consume reads n records of one partition from offset on.
func consume(t testing.TB, addr, topic string, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	cl := newClient(t, addr, append([]kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0)}})}, opts...)...)
	defer cl.Close()
	ctx := testContext(t)
	var out []*kgo.Record
	for len(out) < n {
		fs := cl.PollFetches(ctx)
		for _, e := range fs.Errors() {
			t.Fatalf("%d of %d records: %v", len(out), n, e.Err)
		}
		out = append(out, fs.Records()...)
	}
	return out
}

// TestFranz: all codecs, keys, headers, tombstones, sizes from nothing to a megabyte, through a real client.
func TestFranz(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	for name, codec := range map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			topic := "franz-" + name
			node.topic(topic, 1, nil)
			cl := newClient(t, addr, kgo.ProducerBatchCompression(codec), kgo.ProducerBatchMaxBytes(1_000_000), kgo.ProducerLinger(time.Millisecond))
			ctx := testContext(t)
			var want []*kgo.Record
			for i := range 500 {
				r := &kgo.Record{Topic: topic}
				if i%3 > 0 {
					r.Key = fmt.Append(nil, "key", i)
				}
				if i%5 > 0 {
					r.Value = make([]byte, rng.IntN(2000))
					for j := range r.Value {
						r.Value[j] = byte(rng.Uint32())
					}
				}
				if i%7 == 0 {
					r.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "nil"}}
				}
				if i == 250 {
					r.Value = bytes.Repeat([]byte("large"), 190_000)
				}
				want = append(want, r)
			}
			if err := cl.ProduceSync(ctx, want...).FirstErr(); err != nil {
				t.Fatal(err)
			}
			got := consume(t, addr, topic, len(want))
			for i, r := range got {
				w := want[i]
				if r.Offset != int64(i) || !bytes.Equal(r.Key, w.Key) || !bytes.Equal(r.Value, w.Value) || len(r.Headers) != len(w.Headers) ||
					(r.Value == nil) != (w.Value == nil) || r.Timestamp.UnixMilli() != w.Timestamp.UnixMilli() {
					t.Fatalf("record %d differs: offset %d, key %q, %d bytes", i, r.Offset, r.Key, len(r.Value))
				}
			}
		})
	}
}

// TestFranzManyPartitions: several partitions, pipelined, a fetch session over them, and a long poll that wakes.
func TestFranzManyPartitions(t *testing.T) {
	node, s, addr := startSolo(t, nil)
	node.topic("many", 12, nil)
	ctx := testContext(t)
	consumer := newClient(t, addr, kgo.ConsumeTopics("many"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(5*time.Second))
	producer := newClient(t, addr, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.ProducerLinger(0), kgo.MaxProduceRequestsInflightPerBroker(1))
	const n = 5000
	go func() {
		for i := range n {
			producer.Produce(ctx, &kgo.Record{Topic: "many", Value: fmt.Append(nil, i)}, nil)
			if i%1000 == 0 {
				_ = producer.Flush(ctx)
			}
		}
		_ = producer.Flush(ctx)
	}()
	seen := map[string]bool{}
	next := map[int32]int64{}
	for len(seen) < n {
		fs := consumer.PollFetches(ctx)
		if errs := fs.Errors(); len(errs) > 0 {
			t.Fatalf("%d records: %v", len(seen), errs[0].Err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				t.Fatalf("partition %d: offset %d, want %d", r.Partition, r.Offset, next[r.Partition])
			}
			next[r.Partition]++
			seen[string(r.Value)] = true
		})
	}
	if s.sessions.len() == 0 {
		t.Error("no fetch session")
	}
}

func TestAutoCreate(t *testing.T) {
	_, _, addr := startSolo(t, nil)
	cl := newClient(t, addr, kgo.AllowAutoTopicCreation())
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "auto", Value: []byte("v")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if r := consume(t, addr, "auto", 1); r[0].Offset != 0 {
		t.Errorf("the first record has offset %d", r[0].Offset)
	}
	_, _, strict := startSolo(t, map[string]string{"auto.create.topics.enable": "false"})
	cl = newClient(t, strict, kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(1))
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "auto", Value: []byte("v")}).FirstErr(); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("%v", err)
	}
}

func TestSarama(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	node.topic("sarama", 1, nil)
	for _, codec := range []sarama.CompressionCodec{
		sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD,
	} {
		c := sarama.NewConfig()
		c.Version = sarama.V2_1_0_0
		c.Producer.Return.Successes = true
		c.Producer.RequiredAcks = sarama.WaitForAll
		c.Producer.Compression = codec
		p, err := sarama.NewSyncProducer([]string{addr}, c)
		if err != nil {
			t.Fatal(err)
		}
		var msgs []*sarama.ProducerMessage
		for i := range 100 {
			msgs = append(msgs, &sarama.ProducerMessage{Topic: "sarama", Key: sarama.StringEncoder(fmt.Sprint("k", i)), Value: sarama.StringEncoder(strings.Repeat("v", i))})
		}
		if err := p.SendMessages(msgs); err != nil {
			t.Fatal(codec, err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	c := sarama.NewConfig()
	c.Version = sarama.V2_1_0_0
	cons, err := sarama.NewConsumer([]string{addr}, c)
	if err != nil {
		t.Fatal(err)
	}
	pc, err := cons.ConsumePartition("sarama", 0, sarama.OffsetOldest)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		select {
		case m := <-pc.Messages():
			if m.Offset != int64(i) || string(m.Key) != fmt.Sprint("k", i%100) || len(m.Value) != i%100 {
				t.Fatalf("message %d: offset %d key %s, %d bytes", i, m.Offset, m.Key, len(m.Value))
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("stuck at %d", i)
		}
	}
	if err := errors.Join(pc.Close(), cons.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestKcat(t *testing.T) {
	kcat, err := exec.LookPath("kcat")
	if err != nil {
		t.Skip("kcat is not installed")
	}
	node, _, addr := startSolo(t, nil)
	node.topic("kcat", 1, nil)
	ctx := testContext(t)
	var want bytes.Buffer
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		var in bytes.Buffer
		for i := range 200 {
			fmt.Fprintf(&in, "%s-%d %s\n", codec, i, strings.Repeat("x", i))
		}
		want.Write(in.Bytes())
		cmd := exec.CommandContext(ctx, kcat, "-P", "-b", addr, "-t", "kcat", "-z", codec, "-p", "0", "-X", "enable.idempotence=true")
		cmd.Stdin = &in
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", codec, err, out)
		}
	}
	out, err := exec.CommandContext(ctx, kcat, "-C", "-b", addr, "-t", "kcat", "-p", "0", "-o", "beginning", "-e", "-q").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, want.Bytes()) {
		t.Fatalf("%d bytes, want %d", len(out), want.Len())
	}
}
