package broker

import (
	"bufio"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol/record"
)

// BenchmarkProduceFranz: a real client, one broker, its disk's fsync; records of 100 bytes over 16 partitions.
func BenchmarkProduceFranz(b *testing.B) {
	node, _, addr := startSolo(b, nil)
	node.topic("bench", 16, nil)
	cl := newClient(b, addr, kgo.DefaultProduceTopic("bench"), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(200_000),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(64<<10, true, false, nil)))
	ctx := testContext(b)
	value := make([]byte, 100)
	var failed atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Add(1)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil || failed.Load() > 0 {
		b.Fatal(err, failed.Load())
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkProduceRaw: batches of 1,000 records of 100 bytes, ready made, 32 requests in flight: the broker's share.
func BenchmarkProduceRaw(b *testing.B) {
	node, _, addr := startSolo(b, nil)
	node.topic("bench", 1, map[string]string{"flush.policy": "replicated"})
	for _, records := range []int{1, 10, 1000} {
		b.Run(fmt.Sprint(records), func(b *testing.B) {
			nc, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			defer nc.Close()
			bb := record.Builder{}
			for range records {
				bb.Add(1_700_000_000_000, nil, make([]byte, 100))
			}
			frame := frameOf(produceRequest("bench", [16]byte{}, -1, bb.Build()), 9, 1)
			done := make(chan error, 1)
			slots := make(chan struct{}, 32)
			go func() {
				br := bufio.NewReader(nc)
				c := &rawConn{t: b, Conn: readConn{nc, br}}
				for range b.N {
					_, body := c.frame()
					<-slots
					resp := kmsg.NewPtrProduceResponse()
					resp.SetVersion(9)
					if err := resp.ReadFrom(body[1:]); err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
						done <- fmt.Errorf("%w %+v", err, resp)
						return
					}
				}
				done <- nil
			}()
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				slots <- struct{}{}
				if _, err := nc.Write(frame); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N*records)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

type readConn struct {
	net.Conn
	r *bufio.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// BenchmarkFetch: a megabyte per fetch, from file to socket.
func BenchmarkFetch(b *testing.B) {
	node, _, addr := startSolo(b, nil)
	topic := node.topic("bench", 1, nil)
	c := dialRaw(b, addr)
	for range 20 {
		c.produce(topic, 0, string(make([]byte, 100_000)))
	}
	for _, size := range []int32{1, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			req := fetchOf("bench", topic.ID, 0, 0)
			req.Topics[0].Partitions[0].PartitionMaxBytes = size
			frame := frameOf(req, 13, 1)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if _, err := c.Write(frame); err != nil {
					b.Fatal(err)
				}
				_, body := c.frame()
				n = len(body)
			}
			b.SetBytes(int64(n))
		})
	}
}
