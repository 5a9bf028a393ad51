package partition

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
)

// network carries Raft's RPCs between the replicas of one process, entries as the frames that the wire would carry. It
// keeps the rules for what enters Raft (safety rules 1 and 4 to 6) in their shortest form; cluster/transport has the real ones.
type network struct {
	mu    sync.Mutex
	nodes map[raft.ServerAddress]*endpoint
	cut   map[[2]raft.ServerAddress]bool
	chunk int // largest EncodeEntries request, bytes
	delay func() time.Duration
	match map[[2]raft.ServerAddress]uint64
}

func newNetwork() *network {
	return &network{
		nodes: map[raft.ServerAddress]*endpoint{}, cut: map[[2]raft.ServerAddress]bool{},
		match: map[[2]raft.ServerAddress]uint64{}, chunk: 1 << 20,
	}
}

type endpoint struct {
	n      *network
	addr   raft.ServerAddress
	p      *Partition
	ch     chan raft.RPC
	mu     sync.Mutex
	beat   func(raft.RPC)
	once   sync.Once
	closed chan struct{}
}

func (n *network) join(p *Partition) *endpoint {
	e := &endpoint{
		n: n, addr: raft.ServerAddress(p.o.Self.String()), p: p, ch: make(chan raft.RPC, 300),
		closed: make(chan struct{}),
	}
	n.mu.Lock()
	n.nodes[e.addr] = e
	n.mu.Unlock()
	return e
}

var errUnreachable = errors.New("unreachable")

func (n *network) setCut(a, b Replica, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x, y := raft.ServerAddress(a.String()), raft.ServerAddress(b.String())
	n.cut[[2]raft.ServerAddress{x, y}] = cut
	n.cut[[2]raft.ServerAddress{y, x}] = cut
}

func (n *network) reach(from, to raft.ServerAddress) *endpoint {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[[2]raft.ServerAddress{from, to}] {
		return nil
	}
	return n.nodes[to]
}

func (e *endpoint) Consumer() <-chan raft.RPC     { return e.ch }
func (e *endpoint) LocalAddr() raft.ServerAddress { return e.addr }
func (e *endpoint) SetHeartbeatHandler(f func(raft.RPC)) {
	e.mu.Lock()
	e.beat = f
	e.mu.Unlock()
}
func (e *endpoint) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (e *endpoint) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }

func (e *endpoint) Close() error {
	e.once.Do(func() { close(e.closed) })
	e.n.mu.Lock()
	if e.n.nodes[e.addr] == e {
		delete(e.n.nodes, e.addr)
	}
	e.n.mu.Unlock()
	return nil
}

func (e *endpoint) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// ask hands cmd to the endpoint's Raft and waits.
func (e *endpoint) ask(from *endpoint, cmd any, r io.Reader) (any, error) {
	resp := make(chan raft.RPCResponse, 1)
	select {
	case e.ch <- raft.RPC{Command: cmd, Reader: r, RespChan: resp}:
	case <-e.closed:
		return nil, errUnreachable
	case <-from.closed:
		return nil, errUnreachable
	}
	select {
	case a := <-resp:
		if e.n.reach(e.addr, from.addr) == nil {
			return nil, errUnreachable // the answer is lost
		}
		return a.Response, a.Error
	case <-e.closed:
		return nil, errUnreachable
	case <-from.closed:
		return nil, errUnreachable
	}
}

func (e *endpoint) AppendEntries(_ raft.ServerID, to raft.ServerAddress, q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	t := e.n.reach(e.addr, to)
	if t == nil {
		return errUnreachable
	}
	if q.PrevLogEntry == 0 && len(q.Entries) == 0 && q.LeaderCommitIndex == 0 { // a heartbeat
		t.mu.Lock()
		beat := t.beat
		t.mu.Unlock()
		if beat != nil {
			c := *q
			got := make(chan raft.RPCResponse, 1)
			beat(raft.RPC{Command: &c, RespChan: got})
			select {
			case a := <-got:
				if a.Error == nil {
					*resp = *a.Response.(*raft.AppendEntriesResponse)
				}
				return a.Error
			default:
				return errUnreachable
			}
		}
	}
	if e.n.delay != nil {
		time.Sleep(e.n.delay())
	}
	entries, prev, prevTerm := q.Entries, q.PrevLogEntry, q.PrevLogTerm
	for {
		part := *q
		part.PrevLogEntry, part.PrevLogTerm, part.Entries = prev, prevTerm, nil
		if len(entries) > 0 {
			frames, n, err := e.p.EncodeEntries(nil, entries, e.n.chunk)
			if err != nil {
				return err
			}
			if part.Entries, err = t.p.DecodeEntries(entries[0].Index, frames); err != nil {
				return err
			}
			prev, prevTerm = entries[n-1].Index, entries[n-1].Term
			entries = entries[n:]
		}
		t.guard(&part)
		a, err := t.ask(e, &part, nil)
		if err != nil {
			return err
		}
		*resp = *a.(*raft.AppendEntriesResponse)
		if !resp.Success {
			return nil
		}
		e.n.mu.Lock()
		k := [2]raft.ServerAddress{e.addr, to}
		e.n.match[k] = max(e.n.match[k], part.PrevLogEntry+uint64(len(part.Entries)))
		e.n.mu.Unlock()
		if len(entries) == 0 {
			return nil
		}
	}
}

func (e *endpoint) guard(q *raft.AppendEntriesRequest) {
	if first := e.p.FirstIndex(); first > 1 && q.PrevLogEntry < first-1 {
		floor := first - 1
		if end := q.PrevLogEntry + uint64(len(q.Entries)); end <= floor {
			q.Entries, q.PrevLogEntry, q.PrevLogTerm, q.LeaderCommitIndex = nil, 0, 0, 0
		} else if term, ok := e.p.Term(floor); ok {
			q.Entries = q.Entries[floor-q.PrevLogEntry:]
			q.PrevLogEntry, q.PrevLogTerm = floor, term
		}
	}
	q.LeaderCommitIndex = min(q.LeaderCommitIndex, q.PrevLogEntry+uint64(len(q.Entries)))
}

func (e *endpoint) RequestVote(_ raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return voteVia(e, to, q, resp)
}

func (e *endpoint) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return voteVia(e, to, q, resp)
}

func voteVia[Q, R any](e *endpoint, to raft.ServerAddress, q *Q, resp *R) error {
	t := e.n.reach(e.addr, to)
	if t == nil || !t.p.HasConfiguration() {
		return errUnreachable
	}
	c := *q
	a, err := t.ask(e, &c, nil)
	if err == nil {
		*resp = *a.(*R)
	}
	return err
}

func (e *endpoint) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, q *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if e.n.delay != nil {
		time.Sleep(e.n.delay())
	}
	t := e.n.reach(e.addr, to)
	if t == nil {
		return errUnreachable
	}
	_, err := t.ask(e, q, nil)
	return err
}

func (e *endpoint) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, q *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	t := e.n.reach(e.addr, to)
	if t == nil {
		return errUnreachable
	}
	body, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	have, known := t.p.Term(q.LastLogIndex)
	switch {
	case known && have == q.LastLogTerm, q.LastLogIndex <= t.p.Committed():
		*resp = raft.InstallSnapshotResponse{RPCHeader: q.RPCHeader, Term: q.Term, Success: true}
		return nil
	case known:
		return t.p.WipeForSnapshot(q.LastLogIndex, q.LastLogTerm)
	}
	c := *q
	a, err := t.ask(e, &c, bytes.NewReader(body))
	if err == nil {
		*resp = *a.(*raft.InstallSnapshotResponse)
	}
	return err
}

// member is one replica of a test cluster, across its restarts.
type member struct {
	r     Replica
	dir   string
	votes *raft.InmemStore
	p     *Partition // nil while stopped
	live  atomic.Pointer[Partition]
	boot  bool
	dead  bool // its file system is gone, or its replica is meant to fail
	mach  *counter

	mu     sync.Mutex
	events []string
}

type testCluster struct {
	t       *testing.T
	net     *network
	members []*member
	mu      sync.Mutex
	topic   config.Topic
	machine bool
	fs      func(m *member) vfs.FS
	mod     func(*Options)
	sync    *segment.Syncer
	timing  Timing
}

func testTopic() config.Topic {
	return config.Topic{
		SegmentBytes: 1 << 30, SegmentAge: 7 * 24 * time.Hour, IndexIntervalBytes: 4096, RetentionTime: -1,
		RetentionBytes: -1, MaxMessageBytes: 1 << 20, MinInsyncReplicas: 1, CleanupDelete: true, Fsync: true,
	}
}

func newVotes() *raft.InmemStore { return raft.NewInmemStore() }

func newTestCluster(t *testing.T, n int) *testCluster {
	c := &testCluster{
		t: t, net: newNetwork(), topic: testTopic(), sync: segment.NewSyncer(0),
		timing: Timing{Heartbeat: 10 * time.Second, Election: 10 * time.Second, Lease: 5 * time.Second, Commit: time.Second},
	}
	if n == 0 {
		return c // a benchmark brings its own
	}
	dir := t.TempDir()
	for i := range n {
		r := Replica{Node: int32(i + 1), ID: uint64(100 + i)}
		c.members = append(c.members, &member{
			r: r, dir: filepath.Join(dir, fmt.Sprintf("node-%d", i+1), "topic-0"), votes: raft.NewInmemStore(), boot: true,
		})
	}
	t.Cleanup(func() { c.stopAll() })
	return c
}

func (c *testCluster) voters() []Replica {
	var out []Replica
	for _, m := range c.members {
		if m.boot {
			out = append(out, m.r)
		}
	}
	return out
}

func (c *testCluster) options(m *member) Options {
	o := Options{
		Topic: "topic", TopicID: [16]byte{1}, ID: 0, Self: m.r, Dir: m.dir, FS: vfs.OS(), Sync: c.sync, Votes: m.votes,
		NewTransport: func(p *Partition) (raft.Transport, error) { return c.net.join(p), nil },
		Config: func() config.Topic {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.topic
		},
		OnLeader: func(_ *Partition, leading bool, epoch int32) {
			m.mu.Lock()
			m.events = append(m.events, fmt.Sprintf("%v/%d", leading, epoch))
			m.mu.Unlock()
		},
		ReplicaLag: func(r Replica) (time.Duration, uint64, bool) {
			c.net.mu.Lock()
			defer c.net.mu.Unlock()
			x, ok := c.net.match[[2]raft.ServerAddress{raft.ServerAddress(m.r.String()), raft.ServerAddress(r.String())}]
			cut := c.net.cut[[2]raft.ServerAddress{raft.ServerAddress(m.r.String()), raft.ServerAddress(r.String())}]
			return 0, x, ok && !cut
		},
		Timing: c.timing, Logger: slog.New(slog.NewTextHandler(&testWriter{c.t, m.r}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if m.boot {
		o.Bootstrap = c.voters()
	}
	if c.fs != nil {
		o.FS = c.fs(m)
	}
	if c.machine {
		m.mach = &counter{}
		o.Machine = m.mach
	}
	if c.mod != nil {
		c.mod(&o)
	}
	return o
}

// testWriter shows what the replicas log when the test is verbose.
type testWriter struct {
	t *testing.T
	r Replica
}

func (w *testWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Printf("    %s: %s", w.r, b)
	}
	return len(b), nil
}

func (c *testCluster) start(m *member) *Partition {
	c.t.Helper()
	p, err := Open(c.options(m))
	if err != nil {
		c.t.Fatalf("open %s: %v", m.r, err)
	}
	m.p = p
	m.live.Store(p)
	return p
}

func (c *testCluster) startAll() {
	c.t.Helper()
	for _, m := range c.members {
		c.start(m)
	}
}

func (c *testCluster) stop(m *member) {
	c.t.Helper()
	if m.p == nil {
		return
	}
	m.live.Store(nil)
	if err := m.p.Close(); err != nil && !m.dead {
		c.t.Errorf("close %s: %v", m.r, err)
	}
	m.p = nil
}

func (c *testCluster) stopAll() {
	c.t.Helper()
	for _, m := range c.members {
		c.stop(m)
	}
}

// until waits for cond; the clock may be a bubble's.
func (c *testCluster) until(what string, cond func() bool) {
	c.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			for _, m := range c.members {
				if m.p != nil {
					c.t.Logf("%s: %+v", m.r, m.p.Status())
				}
			}
			c.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// leader waits for a serving one, among those that are asked for.
func (c *testCluster) leader(among ...*member) *member {
	c.t.Helper()
	if len(among) == 0 {
		among = c.members
	}
	var found *member
	c.until("a leader", func() bool {
		for _, m := range among {
			p := m.live.Load()
			if p == nil {
				continue
			}
			if _, ok := p.Leading(); ok {
				found = m
				return true
			}
		}
		return false
	})
	return found
}

// leading is the leader right now, or nil.
func (c *testCluster) leading() *Partition {
	for _, m := range c.members {
		if p := m.live.Load(); p != nil {
			if _, ok := p.Leading(); ok {
				return p
			}
		}
	}
	time.Sleep(5 * time.Millisecond)
	return nil
}

// elect makes m the leader.
func (c *testCluster) elect(m *member) {
	c.t.Helper()
	l := c.leader()
	for l != m {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		err := l.p.TransferLeadership(ctx, m.r)
		cancel()
		if err != nil {
			c.t.Logf("transfer: %v", err)
		}
		l = c.leader()
	}
}

// batch of n records; producer < 0: none.
func batch(n int, producer int64, epoch int16, seq int32, value string) record.Batch {
	b := record.Builder{}
	if producer >= 0 {
		b.HasProducer, b.ProducerID, b.ProducerEpoch, b.BaseSequence = true, producer, epoch, seq
	}
	for i := range n {
		b.Add(1000+int64(i), nil, []byte(value))
	}
	return b.Build()
}

func (c *testCluster) append(m *member, b record.Batch) int64 {
	c.t.Helper()
	r := m.p.Append(b, -1, 30*time.Second).Result()
	if r.Err != nil {
		c.t.Fatalf("append on %s: %v", m.r, r.Err)
	}
	return r.BaseOffset
}

// values reads every record of the replica's files below its high watermark, as a consumer would, but of any replica.
func values(t *testing.T, p *Partition) []string {
	t.Helper()
	var out []string
	for at := p.LogStart(); at < p.HighWatermark(); {
		ranges, err := p.log.ReadOffsets(at, p.HighWatermark(), 1<<20, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range ranges {
			b := make([]byte, r.Len)
			if _, err := r.File.ReadAt(b, r.Pos); err != nil {
				t.Fatal(err)
			}
			r.Release()
			for len(b) > 0 {
				x := record.Batch(b[:record.Batch(b).Size()])
				b = b[len(x):]
				err := record.ForEach(x, record.Limits{}, func(r *record.Record) bool {
					if r.Offset >= at {
						out = append(out, fmt.Sprintf("%d=%s", r.Offset, r.Value))
					}
					return true
				})
				if err != nil {
					t.Fatal(err)
				}
				at = x.LastOffset() + 1
			}
		}
	}
	return out
}

// converge waits until all running replicas have the leader's high watermark.
func (c *testCluster) converge() {
	c.t.Helper()
	c.until("the high watermarks to be equal", func() bool {
		l := c.leader()
		end := l.p.log.NextOffset()
		for _, m := range c.members {
			if m.p != nil && (m.p.HighWatermark() != end || m.p.LastIndex() != l.p.LastIndex() || m.p.applied.Load() != l.p.applied.Load()) {
				return false
			}
		}
		return true
	})
}

// sameState compares what the replicas built from the log.
func (c *testCluster) sameState() {
	c.t.Helper()
	var want []byte
	var first *member
	for _, m := range c.members {
		if m.p == nil {
			continue
		}
		_, body, err := m.p.capture(m.p.applied.Load())
		if err != nil {
			c.t.Fatal(err)
		}
		if first == nil {
			first, want = m, body
			continue
		}
		if !bytes.Equal(want, body) {
			c.t.Errorf("the states of %s and %s differ:\n%x\n%x", first.r, m.r, want, body)
		}
	}
}

// counter is a small state machine: it counts records, and commands add to it.
type counter struct {
	mu      sync.Mutex
	records int64
	sum     int64
}

func (c *counter) Apply(e segment.Entry, data []byte) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Type == segment.Batch {
		c.records += int64(record.Batch(data).Count())
		return c.records
	}
	for _, b := range data {
		c.sum += int64(b)
	}
	return c.sum
}

func (c *counter) Snapshot() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Appendf(nil, "%d %d", c.records, c.sum)
}

func (c *counter) Restore(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.records, c.sum = 0, 0
	if len(b) == 0 {
		return nil
	}
	_, err := fmt.Sscanf(string(b), "%d %d", &c.records, &c.sum)
	return err
}

func (c *counter) values() (int64, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.records, c.sum
}
