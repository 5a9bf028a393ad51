package transport

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"
)

// inboxSize is the capacity of the channel that Raft consumes: above the window of a pipeline.
const inboxSize = 256

// maxQueued is how many requests of a group wait for their turn before they reach that channel.
const maxQueued = 512

// Endpoint is one replica's raft.Transport.
type Endpoint struct {
	m       *Mux
	node    int32
	replica uint64
	addr    raft.ServerAddress
	group   Group

	ctx       context.Context
	cancel    context.CancelFunc
	consumer  chan raft.RPC
	heartbeat atomic.Pointer[func(raft.RPC)]
	term      atomic.Uint64 // the term in which Raft's own goroutine last took an AppendEntries
	requests  serialQueue[*inbound]
	answers   serialQueue[*pendingAnswer]

	targets sync.Map // raft.ServerAddress -> *target

	mu        sync.Mutex
	followers map[uint64]*follower
	entrySize int // of late, on average: for the size of the next buffer
}

var (
	_ raft.Transport   = (*Endpoint)(nil)
	_ raft.WithPreVote = (*Endpoint)(nil)
	_ raft.WithClose   = (*Endpoint)(nil)
)

// Register makes a replica reachable. Its raft.ServerID and ServerAddress must be Address(nodeID, replicaID). The group
// must be able to answer from here on; requests wait for NewRaft.
//
// Raft closes the endpoint itself, but only after its goroutines have ended, and these may wait for a lost broker: to
// stop a group at once call raft.Shutdown, then Endpoint.Close, then wait for the future of Shutdown.
func (m *Mux) Register(nodeID int32, replicaID uint64, g Group) (*Endpoint, error) {
	if nodeID != m.o.Node {
		return nil, fmt.Errorf("transport: replica %d/%d does not belong to broker %d", nodeID, replicaID, m.o.Node)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, ErrClosed
	}
	if _, ok := m.endpoints[replicaID]; ok {
		return nil, fmt.Errorf("transport: replica %d is registered already", replicaID)
	}
	e := &Endpoint{
		m: m, node: nodeID, replica: replicaID, addr: Address(nodeID, replicaID), group: g,
		consumer: make(chan raft.RPC, inboxSize), followers: map[uint64]*follower{}, entrySize: 1 << 10,
	}
	e.ctx, e.cancel = context.WithCancel(m.ctx)
	e.requests = serialQueue[*inbound]{f: e.process, max: maxQueued, wg: &m.wg}
	e.answers = serialQueue[*pendingAnswer]{f: e.answer, max: 1 << 30, wg: &m.wg} // bounded by requests and consumer
	m.endpoints[replicaID] = e
	return e, nil
}

// Address is a replica's raft.ServerAddress, and as a string its raft.ServerID.
func Address(node int32, replica uint64) raft.ServerAddress {
	return raft.ServerAddress(strconv.FormatInt(int64(node), 10) + "/" + strconv.FormatUint(replica, 10))
}

// ParseAddress is its inverse.
func ParseAddress(a raft.ServerAddress) (node int32, replica uint64, err error) {
	n, r, ok := strings.Cut(string(a), "/")
	n64, err1 := strconv.ParseInt(n, 10, 32)
	replica, err2 := strconv.ParseUint(r, 10, 64)
	if !ok || err1 != nil || err2 != nil || n64 < 0 {
		return 0, 0, fmt.Errorf("transport: %q is not the address of a replica (node/id)", a)
	}
	return int32(n64), replica, nil
}

// Close unregisters the replica and fails what is under way for it.
func (e *Endpoint) Close() error {
	e.m.mu.Lock()
	if e.m.endpoints[e.replica] == e {
		delete(e.m.endpoints, e.replica)
	}
	e.m.mu.Unlock()
	e.cancel()
	return nil
}

func (e *Endpoint) Consumer() <-chan raft.RPC                               { return e.consumer }
func (e *Endpoint) LocalAddr() raft.ServerAddress                           { return e.addr }
func (e *Endpoint) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (e *Endpoint) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }

func (e *Endpoint) SetHeartbeatHandler(cb func(raft.RPC)) { e.heartbeat.Store(&cb) }

// follower is what this replica, as a leader, knows of one other.
type follower struct {
	inFlight *semaphore.Weighted

	mu       sync.Mutex
	lastBeat time.Time
	term     uint64 // progress is of this term
	match    uint64
	caughtUp time.Time
	// When the follower matches markIndex it has had what was the leader's whole log at markTime.
	markIndex uint64
	markTime  time.Time
}

func (e *Endpoint) follower(replica uint64) *follower {
	e.mu.Lock()
	defer e.mu.Unlock()
	f, ok := e.followers[replica]
	if !ok {
		f = &follower{inFlight: semaphore.NewWeighted(e.m.o.MaxFollowerBytes)}
		e.followers[replica] = f
	}
	return f
}

// sent notes that an AppendEntries goes out while the leader's log ends at last.
func (f *follower) sent(term, last uint64, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if term != f.term {
		f.term, f.match, f.caughtUp, f.markTime = term, 0, time.Time{}, time.Time{}
	}
	if f.markTime.IsZero() {
		f.markIndex, f.markTime = last, now
	}
}

// matched notes that the follower's log equals the leader's up to end.
func (f *follower) matched(term, end uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if term != f.term {
		return
	}
	f.match = max(f.match, end)
	if !f.markTime.IsZero() && f.match >= f.markIndex {
		f.caughtUp, f.markTime = f.markTime, time.Time{}
	}
}

// Progress tells how far a follower is in this leadership: match is the highest index known to equal the leader's; last
// is when the follower had all that the leader's log held then (zero: never). ok is false when it has not answered yet.
func (e *Endpoint) Progress(target uint64) (match uint64, last time.Time, ok bool) {
	e.mu.Lock()
	f := e.followers[target]
	e.mu.Unlock()
	if f == nil {
		return 0, time.Time{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.match, f.caughtUp, f.match > 0 || !f.caughtUp.IsZero()
}

// target is what an address that Raft names stands for.
type target struct {
	peer     *peer
	route    route
	follower *follower
}

// target resolves an address; the answer never changes.
func (e *Endpoint) target(a raft.ServerAddress) (*target, error) {
	if t, ok := e.targets.Load(a); ok {
		return t.(*target), nil
	}
	node, replica, err := ParseAddress(a)
	if err != nil {
		return nil, err
	}
	p, err := e.m.peer(node)
	if err != nil {
		return nil, err
	}
	t := &target{peer: p, route: route{target: replica, source: e.replica}, follower: e.follower(replica)}
	e.targets.Store(a, t)
	return t, nil
}

// await is peer.await for this endpoint's RPCs.
func (e *Endpoint) await(p *peer) (*link, error) {
	return p.await(context.Background(), e.ctx.Done(), e.m.o.ConnectWait, false)
}

// ask sends a small request on the control connection and waits for the answer.
func (e *Endpoint) ask(a raft.ServerAddress, h header, expect frameType, body func(route) []byte) ([]byte, error) {
	t, err := e.target(a)
	if err != nil {
		return nil, err
	}
	return e.askTarget(t, h, expect, body)
}

func (e *Endpoint) askTarget(t *target, h header, expect frameType, body func(route) []byte) ([]byte, error) {
	l, err := e.await(t.peer)
	if err != nil {
		return nil, err
	}
	w := make(waiter, 1)
	id, err := l.control.register(&request{expect: expect, timeout: e.m.o.RPCTimeout, done: w.done})
	if err != nil {
		return nil, err
	}
	h.id = id
	if err := l.control.send(h, body(t.route)); err != nil {
		l.control.forget(id)
		return nil, err
	}
	select {
	case res := <-w:
		return res.body, res.err
	case <-e.ctx.Done():
		l.control.forget(id)
		return nil, ErrClosed
	}
}

// RequestVote implements raft.Transport.
func (e *Endpoint) RequestVote(_ raft.ServerID, a raft.ServerAddress, q *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	b, err := e.ask(a, header{typ: frameVote, kind: uint8(q.ProtocolVersion)}, frameVoteAnswer, func(r route) []byte {
		return appendVote(nil, voteRequest{r, q.Term, q.LastLogIndex, q.LastLogTerm, q.LeadershipTransfer})
	})
	if err != nil {
		return err
	}
	resp.Term, resp.Granted, err = parseVerdict(b)
	return err
}

// RequestPreVote implements raft.WithPreVote.
func (e *Endpoint) RequestPreVote(_ raft.ServerID, a raft.ServerAddress, q *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	b, err := e.ask(a, header{typ: framePreVote, kind: uint8(q.ProtocolVersion)}, framePreVoteAnswer, func(r route) []byte {
		return appendVote(nil, voteRequest{route: r, term: q.Term, lastIndex: q.LastLogIndex, lastTerm: q.LastLogTerm})
	})
	if err != nil {
		return err
	}
	resp.Term, resp.Granted, err = parseVerdict(b)
	return err
}

// TimeoutNow implements raft.Transport.
func (e *Endpoint) TimeoutNow(_ raft.ServerID, a raft.ServerAddress, q *raft.TimeoutNowRequest, _ *raft.TimeoutNowResponse) error {
	_, err := e.ask(a, header{typ: frameTimeoutNow, kind: uint8(q.ProtocolVersion)}, frameTimeoutNowAnswer,
		func(r route) []byte { return appendRoute(nil, r) })
	return err
}

// isHeartbeat: Raft's heartbeats carry nothing but the term.
func isHeartbeat(q *raft.AppendEntriesRequest) bool {
	return q.PrevLogEntry == 0 && q.PrevLogTerm == 0 && len(q.Entries) == 0 && q.LeaderCommitIndex == 0
}

// AppendEntries implements raft.Transport.
func (e *Endpoint) AppendEntries(_ raft.ServerID, a raft.ServerAddress, q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	t, err := e.target(a)
	if err != nil {
		return err
	}
	if isHeartbeat(q) {
		return e.beat(t, q, resp)
	}
	l, err := e.await(t.peer)
	if err != nil {
		return err
	}
	type outcome struct {
		resp raft.AppendEntriesResponse
		err  error
	}
	ch := make(chan outcome, 1)
	id, err := e.sendAppend(l.data, t, q, func(resp raft.AppendEntriesResponse, err error) { ch <- outcome{resp, err} })
	if err != nil {
		return err
	}
	select {
	case o := <-ch:
		if o.err == nil {
			*resp = o.resp
		}
		return o.err
	case <-e.ctx.Done():
		l.data.forget(id)
		return ErrClosed
	}
}

// beat sends a heartbeat. One that comes at its regular interval may wait to be gathered with those of other groups;
// one out of turn verifies the leadership, and somebody waits for it.
func (e *Endpoint) beat(t *target, q *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	h := header{typ: frameHeartbeat, kind: uint8(q.ProtocolVersion)}
	if t.follower.regular(time.Now()) {
		h.flags |= flagLazy
	}
	b, err := e.askTarget(t, h, frameHeartbeatAnswer, func(r route) []byte {
		return appendHeartbeat(make([]byte, 0, heartbeatSize), r, q.Term)
	})
	if err != nil {
		return err
	}
	return parseAppendAnswer(b, resp)
}

// regularBeat: Raft's regular heartbeats are a tenth to a fifth of its heartbeat timeout apart, which is 10 s with many
// groups. With a shorter one every heartbeat counts as urgent, which is right, if dearer.
const regularBeat = 900 * time.Millisecond

// regular says whether the last heartbeat was so long ago that this one is not out of turn.
func (f *follower) regular(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	regular := now.Sub(f.lastBeat) > regularBeat
	f.lastBeat = now
	return regular
}
