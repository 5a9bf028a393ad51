package broker

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
)

func randomFetch(rng *rand.Rand, version int16) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(version)
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = rng.Int32(), rng.Int32(), rng.Int32()
	req.IsolationLevel = int8(rng.IntN(2))
	if version >= 7 {
		req.SessionID, req.SessionEpoch = rng.Int32(), rng.Int32()
	}
	if version >= 11 {
		req.Rack = "rack"
	}
	name := func(i int) (string, [16]byte) {
		if version >= 13 {
			return "", [16]byte{byte(i), 1, 2}
		}
		return fmt.Sprintf("topic-%d", i), [16]byte{}
	}
	for i := range rng.IntN(4) {
		t := kmsg.NewFetchRequestTopic()
		t.Topic, t.TopicID = name(i)
		for range rng.IntN(5) {
			p := kmsg.NewFetchRequestTopicPartition()
			p.Partition, p.FetchOffset, p.PartitionMaxBytes = rng.Int32(), rng.Int64(), rng.Int32()
			if version >= 9 {
				p.CurrentLeaderEpoch = rng.Int32()
			}
			if version >= 12 {
				p.LastFetchedEpoch = rng.Int32()
			}
			if version >= 17 {
				p.ReplicaDirectoryID = [16]byte{9}
			}
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	if version >= 7 {
		for i := range rng.IntN(3) {
			t := kmsg.NewFetchRequestForgottenTopic()
			t.Topic, t.TopicID = name(i)
			t.Partitions = []int32{rng.Int32(), rng.Int32()}
			req.ForgottenTopics = append(req.ForgottenTopics, t)
		}
	}
	return req
}

// checkFetch compares our decoding with kmsg's.
func checkFetch(t *testing.T, req *kmsg.FetchRequest, f *fetchRequest) {
	t.Helper()
	if f.maxWaitMillis != req.MaxWaitMillis || f.minBytes != req.MinBytes || f.maxBytes != req.MaxBytes ||
		f.readCommitted != (req.IsolationLevel == 1) || f.sessionID != req.SessionID || f.sessionEpoch != req.SessionEpoch {
		t.Fatalf("%+v\n%+v", req, f)
	}
	i := 0
	for _, rt := range req.Topics {
		for _, p := range rt.Partitions {
			want := fetchPart{
				fetchKey: fetchKey{rt.TopicID, rt.Topic, p.Partition}, currentEpoch: p.CurrentLeaderEpoch, offset: p.FetchOffset,
				lastFetchedEpoch: p.LastFetchedEpoch, maxBytes: p.PartitionMaxBytes,
			}
			if f.parts[i] != want {
				t.Fatalf("%+v, want %+v", f.parts[i], want)
			}
			i++
		}
	}
	j := 0
	for _, rt := range req.ForgottenTopics {
		for _, p := range rt.Partitions {
			if f.forgotten[j] != (fetchKey{rt.TopicID, rt.Topic, p}) {
				t.Fatalf("%+v", f.forgotten[j])
			}
			j++
		}
	}
	if i != len(f.parts) || j != len(f.forgotten) {
		t.Fatalf("%d of %d partitions, %d of %d forgotten", len(f.parts), i, len(f.forgotten), j)
	}
}

func TestDecodeFetchAgainstKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for version := int16(4); version <= 18; version++ {
		for range 200 {
			req := randomFetch(rng, version)
			f, err := decodeFetch(req.AppendTo(nil), version)
			if err != nil {
				t.Fatal(version, err)
			}
			checkFetch(t, req, f)
		}
	}
}

// FuzzDecodeFetch: no panic; what we take, kmsg takes, and reads the same.
func FuzzDecodeFetch(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 2))
	for version := int16(4); version <= 18; version++ {
		f.Add(version, randomFetch(rng, version).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, version int16, b []byte) {
		version = 4 + int16(uint16(version)%15)
		got, err := decodeFetch(b, version)
		if err != nil {
			return
		}
		req := kmsg.NewPtrFetchRequest()
		req.SetVersion(version)
		if err := req.ReadFrom(b); err != nil {
			return // kmsg reads the known tags too, and may find them wrong
		}
		checkFetch(t, req, got)
	})
}

// TestFetchResponseAgainstKmsg: what we encode by hand, with records from files, is what kmsg decodes, in every
// version, both by copy and by sendfile.
func TestFetchResponseAgainstKmsg(t *testing.T) {
	s, _ := startServer(t, newMetaNode(1, 2), nil)
	dir := t.TempDir()
	content := make([]byte, 3<<20)
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range content {
		content[i] = byte(rng.Uint32())
	}
	path := filepath.Join(dir, "f.log")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := vfs.OS().OpenFile(path, os.O_RDONLY, fs.FileMode(0))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	server, client := tcpPair(t)
	k := newConn(s, server, "IN", "test")
	defer k.kill()
	rack := "r1"
	for _, size := range []int{100, 10_000, 1 << 20} {
		for version := int16(4); version <= 18; version++ {
			released := 0
			ranges := func(n int) (out []segment.Range, all []byte) {
				for range n {
					pos, l := rng.IntN(1<<20), 1+rng.IntN(size)
					out = append(out, segment.Range{File: file, Pos: int64(pos), Len: l, Release: func() { released++ }})
					all = append(all, content[pos:pos+l]...)
				}
				return out, all
			}
			c := &fetchCall{s: s, k: k, req: &fetchRequest{readCommitted: version%2 == 0}, version: version, full: true, hints: hintSet{s: s, listener: "IN", on: version >= 16}}
			var want [][]byte
			parts := make([]fetchPart, 6)
			for i := range parts {
				p := &parts[i]
				p.partition = int32(i)
				if version >= 13 {
					p.id = [16]byte{byte(1 + i/3)}
				} else {
					p.name = fmt.Sprint("t", i/3)
				}
				r := fetchResult{part: p}
				r.read.HighWatermark, r.read.LastStableOffset, r.read.LogStartOffset = int64(100+i), int64(90+i), int64(i)
				var all []byte
				switch i {
				case 1:
					r.code = protocol.NotLeaderOrFollower
					r.leader, r.hasHint = cluster.Leader{Node: 2, Epoch: 7}, version >= 16
					if r.hasHint {
						c.hints.brokers = []endpoint{{id: 2, host: "in", port: 1002, rack: &rack}}
					}
				case 2:
					r.read.Diverging, r.read.DivergingEpoch, r.read.DivergingEnd = version >= 12, 3, 33
				default:
					r.read.Ranges, all = ranges(1 + i%3)
					r.read.Bytes = len(all)
				}
				want = append(want, all)
				c.results = append(c.results, r)
			}
			req := &request{requestContext: requestContext{header: protocol.Header{Key: protocol.Fetch, Version: version, CorrelationID: 77}}}
			sent := make(chan error, 1)
			go func() { sent <- k.sendFetch(req, c) }()
			rc := &rawConn{t: t, Conn: client}
			fr := kmsg.NewPtrFetchRequest()
			resp := rc.read(fr, version).(*kmsg.FetchResponse)
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			i := 0
			for _, rt := range resp.Topics {
				for _, p := range rt.Partitions {
					if rt.Topic != parts[i].name || rt.TopicID != parts[i].id || p.Partition != parts[i].partition {
						t.Fatalf("v%d: partition %d is %q %v %d", version, i, rt.Topic, rt.TopicID, p.Partition)
					}
					if !bytes.Equal(p.RecordBatches, want[i]) {
						t.Fatalf("v%d: partition %d: %d bytes, want %d", version, i, len(p.RecordBatches), len(want[i]))
					}
					hw := int64(100 + i)
					if i == 1 {
						hw = -1
						if version >= 16 && (p.CurrentLeader.LeaderID != 2 || p.CurrentLeader.LeaderEpoch != 7) {
							t.Fatalf("v%d: %+v", version, p.CurrentLeader)
						}
					}
					if p.HighWatermark != hw || p.ErrorCode != c.results[i].code {
						t.Fatalf("v%d: %+v", version, p)
					}
					if i == 2 && version >= 12 && (p.DivergingEpoch.Epoch != 3 || p.DivergingEpoch.EndOffset != 33) {
						t.Fatalf("v%d: %+v", version, p.DivergingEpoch)
					}
					if (p.AbortedTransactions == nil) != (version%2 == 1) {
						t.Fatalf("v%d: aborted %v", version, p.AbortedTransactions)
					}
					i++
				}
			}
			if i != len(parts) {
				t.Fatalf("v%d: %d partitions", version, i)
			}
			if version >= 16 && (len(resp.Brokers) != 1 || resp.Brokers[0].Port != 1002 || *resp.Brokers[0].Rack != rack) {
				t.Fatalf("v%d: %+v", version, resp.Brokers)
			}
			if k.broken {
				t.Fatal("broken")
			}
		}
	}
}

func tcpPair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ch := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		ch <- c
	}()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	server = <-ch
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return server, client
}

// TestShortFile: a range that the file does not hold costs the connection, never a wrong answer.
func TestShortFile(t *testing.T) {
	s, _ := startServer(t, newMetaNode(1), nil)
	path := filepath.Join(t.TempDir(), "f.log")
	if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := vfs.OS().OpenFile(path, os.O_RDONLY, fs.FileMode(0))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, n := range []int{2000, 1 << 20} {
		server, client := tcpPair(t)
		k := newConn(s, server, "IN", "test")
		go k.sendPieces([]byte("header"), []piece{{upTo: 6, ranges: []segment.Range{{File: file, Len: n}}}})
		got, _ := io.ReadAll(client)
		if len(got) > 6+1000 {
			t.Errorf("%d bytes", len(got))
		}
	}
}
