package transport

import (
	"bytes"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// The bytes on the wire, so that a change of the format is one that somebody meant.
func TestGoldenFrames(t *testing.T) {
	r := route{target: 0x0102030405060708, source: 9}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"header":    {appendHeader(nil, header{length: 258, typ: frameCall, flags: 1, kind: 7, id: 3}), "00000102 10 01 07 00 0000000000000003"},
		"heartbeat": {appendHeartbeat(nil, r, 5), "0102030405060708 0000000000000009 0000000000000005"},
		"append": {
			appendAppendPart(nil, appendPart{r, 1, 2, 3, 4, 5}),
			"0102030405060708 0000000000000009 0000000000000001 0000000000000002 0000000000000003 0000000000000004 00000005",
		},
		"append answer": {
			appendAppendAnswer(nil, &raft.AppendEntriesResponse{Term: 1, LastLog: 2, Success: true, NoRetryBackoff: true}),
			"0000000000000001 0000000000000002 03",
		},
		"vote":    {appendVote(nil, voteRequest{r, 1, 2, 3, true}), "0102030405060708 0000000000000009 0000000000000001 0000000000000002 0000000000000003 01"},
		"verdict": {appendVerdict(nil, 6, true), "0000000000000006 01"},
		"snapshot": {appendSnapshot(nil, r, &raft.InstallSnapshotRequest{
			Term: 1, LastLogIndex: 2, LastLogTerm: 3, ConfigurationIndex: 4, Size: 5, SnapshotVersion: 1, Configuration: []byte{0xcc},
		}), "0102030405060708 0000000000000009 0000000000000001 0000000000000002 0000000000000003 0000000000000004 0000000000000005 01 cc"},
		"hello": {
			appendHello(nil, hello{low: 1, high: 1, class: classData, node: 2, incarnation: 3, session: 4, want: 5, cluster: "c", ver: "v"}),
			"00000028 426c7361 01010200 00000002 0000000000000003 0000000000000004 00000005 0001 63 0001 76 0000",
		},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		must(t, err)
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s:\n got %x\nwant %x", name, c.got, want)
		}
	}
}

// FuzzFrames feeds bytes to a connection after its handshake, as the other broker could. Invariants: nothing panics,
// no Raft sees a request without its guards, the reader ends when the bytes do, other connections go on.
func FuzzFrames(f *testing.F) {
	r := route{target: 2, source: 1}
	frame := func(h header, body []byte) []byte {
		h.length = uint32(len(body))
		return append(appendHeader(nil, h), body...)
	}
	f.Add(frame(header{typ: framePing}, []byte("c1")), false)
	f.Add(frame(header{typ: frameHeartbeat, id: 1, kind: 3}, appendHeartbeat(nil, r, 5)), false)
	f.Add(frame(header{typ: frameVote, id: 1, kind: 3}, appendVote(nil, voteRequest{r, 1, 2, 3, true})), false)
	entry, _, _ := (&modelLog{}).EncodeEntries(nil, entries(3, 1, "x"), 1000)
	part := append(appendAppendPart(nil, appendPart{r, 1, 2, 1, 4, 1}), entry...)
	f.Add(append(frame(header{typ: frameAppend, id: 1, kind: 3}, part), frame(header{typ: frameAppend, id: 1, kind: 3, flags: 2}, part)...), false)
	f.Add(frame(header{typ: frameCall, id: 1, kind: 1}, []byte("\x00\x00\x00\x01hello")), false)
	f.Add(frame(header{typ: frameNotify, kind: 1}, []byte("hello")), false)
	f.Add(frame(header{typ: frameAppendAnswer, id: 1}, appendAppendAnswer(nil, &raft.AppendEntriesResponse{Term: 1})), true)
	f.Add(frame(header{typ: frameRefusal, id: 1, kind: 2}, []byte("no")), true)
	f.Add(frame(header{typ: framePartDone, id: 1}, nil), true)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(f, err)
	m, err := New(Options{Node: 2, Listener: l, Resolve: func(int32) (string, bool) { return "", false }})
	must(f, err)
	f.Cleanup(func() { _ = m.Close() })
	m.Handle(1, echo)
	e, err := m.Register(2, 2, &modelLog{})
	must(f, err)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-e.Consumer():
				if q, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
					if q.LeaderCommitIndex > q.PrevLogEntry+uint64(len(q.Entries)) {
						panic("commit index above the request")
					}
					rpc.Respond(&raft.AppendEntriesResponse{Term: q.Term, Success: true}, nil)
					continue
				}
				rpc.Respond(nil, io.ErrNoProgress)
			case <-stop:
				return
			}
		}
	}()
	f.Cleanup(func() { close(stop); <-done })
	f.Fuzz(func(t *testing.T, b []byte, outbound bool) {
		here, there := net.Pipe()
		c := m.newConn(here, classControl, outbound, hello{node: 1})
		if outbound {
			_, err := c.register(&request{expect: frameAppendAnswer, timeout: time.Second, done: func(header, []byte, *buffer, error) {}})
			must(t, err)
		}
		m.wg.Go(c.write)
		drained := make(chan struct{})
		go func() { defer close(drained); _, _ = io.Copy(io.Discard, there) }()
		go func() { _, _ = there.Write(b); _ = there.Close() }()
		if err := c.read(); err == nil {
			t.Fatal("the reader ended without a reason")
		}
		c.fail(io.EOF)
		<-drained
	})
}

func FuzzHello(f *testing.F) {
	f.Add(appendHello(nil, hello{low: 1, high: 1, class: classData, node: 2, cluster: "c", ver: "v", text: "t"})[4:])
	f.Add([]byte("Blsa"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			return
		}
		again, err := parseHello(appendHello(nil, h)[4:])
		if len(h.cluster) <= 1000 && len(h.ver) <= 1000 && len(h.text) <= 1000 && (err != nil || again != h) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

func FuzzSnapshotRequest(f *testing.F) {
	f.Add(appendSnapshot(nil, route{1, 2}, &raft.InstallSnapshotRequest{Size: 5, Configuration: raft.EncodeConfiguration(raft.Configuration{})}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, q, err := parseSnapshot(b)
		if err == nil && !bytes.Equal(appendSnapshot(nil, r, q), b) {
			t.Fatalf("%x became %x", b, appendSnapshot(nil, r, q))
		}
	})
}
