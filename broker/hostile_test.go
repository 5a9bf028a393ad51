package broker

import (
	"bytes"
	"encoding/binary"
	"net"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
)

// TestHostileFrames: whatever a client sends, at worst its own connection is closed.
func TestHostileFrames(t *testing.T) {
	_, addr := startServer(t, newMetaNode(1), nil)
	size := func(n int32, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(n)), rest...)
	}
	request := func(key, version int16, body ...byte) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		b = append(b, 0, 0, 0, 1, 0xff, 0xff)
		b = append(b, body...)
		return size(int32(len(b)), b...)
	}
	for name, b := range map[string][]byte{
		"http":                 []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"tls":                  {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"negative size":        size(-5),
		"huge size":            size(1<<31 - 1),
		"tiny size":            size(3, 1, 2, 3),
		"unknown api":          request(999, 0),
		"negative api":         request(-1, 0),
		"broker api":           request(4, 0),
		"old version":          request(1, 0),
		"new version":          request(3, 99),
		"negative version":     request(18, -1),
		"produce v2":           request(0, 2),
		"empty produce":        request(0, 9),
		"empty fetch":          request(1, 12),
		"cut metadata":         request(3, 1, 0, 0),
		"metadata array":       request(3, 1, 0x7f, 0xff, 0xff, 0xff),
		"produce array":        request(0, 3, 0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff),
		"fetch array":          request(1, 4, append(make([]byte, 17), 0x7f, 0xff, 0xff, 0xff)...),
		"long client id":       size(12, 0, 3, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 'x', 'y'),
		"large admin frame":    append(size(50<<20), request(3, 1, bytes.Repeat([]byte{0}, 100)...)[4:]...),
		"endless tags":         request(3, 9, 0xff, 0xff, 0xff, 0xff, 0x0f),
		"negative string":      request(3, 1, 0, 0, 0, 1, 0x80, 0),
		"half frame, then end": size(100, 0, 3, 0, 1, 0, 0, 0, 1),
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, addr)
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
			if name == "half frame, then end" {
				_ = c.Conn.(*net.TCPConn).CloseWrite()
			}
			c.closed()
		})
	}
	// The neighbours did not notice.
	c := dialRaw(t, addr)
	if resp := c.ask(kmsg.NewPtrApiVersionsRequest(), 3).(*kmsg.ApiVersionsResponse); resp.ErrorCode != 0 {
		t.Fatal(resp.ErrorCode)
	}
}

// TestArrayBomb: an array of the most elements that a frame can claim takes bounded memory.
func TestArrayBomb(t *testing.T) {
	_, addr := startServer(t, newMetaNode(1), nil)
	b := binary.BigEndian.AppendUint32(nil, 0)
	b = append(b, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff)
	n := defaultMaxBytes - 64
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = append(b, make([]byte, n)...)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c := dialRaw(t, addr)
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	c.closed()
	runtime.ReadMemStats(&after)
	if grew := (after.TotalAlloc - before.TotalAlloc) >> 20; grew > 64 {
		t.Errorf("%d MiB", grew)
	}
}

func TestConnectionLimits(t *testing.T) {
	s, addr := startServer(t, newMetaNode(1), map[string]string{"max.connections": "3"})
	var open []*rawConn
	for range 3 {
		c := dialRaw(t, addr)
		c.ask(kmsg.NewPtrApiVersionsRequest(), 0)
		open = append(open, c)
	}
	dialRaw(t, addr).closed()
	_ = open[0].Close()
	for s.Connections() == 3 { // until the server noticed
		runtime.Gosched()
	}
	dialRaw(t, addr).ask(kmsg.NewPtrApiVersionsRequest(), 0)
}

func TestConnectionLimitPerIP(t *testing.T) {
	_, addr := startServer(t, newMetaNode(1), map[string]string{"max.connections.per.ip": "1"})
	c := dialRaw(t, addr)
	c.ask(kmsg.NewPtrApiVersionsRequest(), 0)
	dialRaw(t, addr).closed()
	c.ask(kmsg.NewPtrApiVersionsRequest(), 0)
}

func TestIdleConnectionIsClosed(t *testing.T) {
	_, addr := startServer(t, newMetaNode(1), map[string]string{"connections.max.idle.ms": "50"})
	c := dialRaw(t, addr)
	c.ask(kmsg.NewPtrApiVersionsRequest(), 0)
	c.closed()
}

// TestBudget: requests beyond the bytes that the broker takes wait, and are answered.
func TestBudget(t *testing.T) {
	_, addr := startServer(t, newMetaNode(1), map[string]string{
		"queued.max.request.bytes": "100000", "socket.request.max.bytes": "1500", "message.max.bytes": "1000",
		"balsa.connection.max.inflight.requests": strconv.Itoa(4),
	})
	done := make(chan struct{})
	for range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			c := dialRaw(t, addr)
			for range 50 {
				req := kmsg.NewPtrMetadataRequest()
				for range 20 {
					rt := kmsg.NewMetadataRequestTopic()
					name := string(bytes.Repeat([]byte{'x'}, 40))
					rt.Topic = &name
					req.Topics = append(req.Topics, rt)
				}
				c.ask(req, 4)
			}
		}()
	}
	for range 8 {
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatal("stuck")
		}
	}
	c := dialRaw(t, addr)
	_, _ = c.Write(binary.BigEndian.AppendUint32(nil, 1501))
	c.closed()
}

// TestProduceBombs: payloads that expand to gigabytes, from several clients at once, are refused; the broker's memory does
// not follow them, and who comes by time to a large record that is legal does not hold it either.
func TestProduceBombs(t *testing.T) {
	node, _, addr := startSolo(t, nil)
	topic := node.topic("t", 1, nil)
	bomb := func(zeros int) []byte {
		var head []byte
		head = binary.AppendVarint(head, int64(zeros)+1+1+1+1+int64(len(binary.AppendVarint(nil, int64(zeros))))+1)
		head = append(head, 0, 0, 0, 1) // attributes, deltas, null key
		head = binary.AppendVarint(head, int64(zeros))
		var buf bytes.Buffer
		w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(head)
		block := make([]byte, 1<<20)
		for range zeros >> 20 {
			_, _ = w.Write(block)
		}
		_, _ = w.Write([]byte{0}) // no headers
		_ = w.Close()
		b := batchOf(4, "x")[:record.HeaderSize]
		b = append(b, buf.Bytes()...)
		binary.BigEndian.PutUint32(b[8:], uint32(len(b)-record.Overhead))
		record.Batch(b).StampCRC()
		return b
	}
	small, large := bomb(96<<20), bomb(600<<20)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	done := make(chan int16, 4)
	for range 4 {
		go func() {
			c := dialRaw(t, addr)
			done <- c.ask(produceRequest("t", topic.ID, -1, large), 9).(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode
		}()
	}
	for range 4 {
		if code := <-done; code != protocol.MessageTooLarge {
			t.Errorf("%s", protocol.ErrorName(code))
		}
	}
	c := dialRaw(t, addr)
	if p := c.ask(produceRequest("t", topic.ID, -1, small), 9).(*kmsg.ProduceResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 {
		t.Errorf("%+v", p)
	}
	if p := c.ask(listOffsets("t", 1, 0), 4).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]; p.ErrorCode != 0 || p.Offset != 0 {
		t.Errorf("%+v", p)
	}
	runtime.ReadMemStats(&after)
	if grew := int64(after.Sys-before.Sys) >> 20; grew > 64 {
		t.Errorf("the process grew by %d MiB", grew)
	}
}
