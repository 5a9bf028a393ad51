package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// modelLog is a raft.LogStore and a Group in memory.
type modelLog struct {
	mu        sync.Mutex
	logs      []raft.Log // contiguous
	floor     uint64     // FirstIndex-1 when it is above 0 or the log is empty
	floorTerm uint64
	committed uint64
	noConfig  bool
	wiped     int
	stored    int           // entries
	stores    int           // calls
	hold      chan struct{} // StoreLogs waits for it
	decodeErr error
}

func (l *modelLog) FirstIndex() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.logs) == 0 {
		return 0
	}
	return l.logs[0].Index
}

func (l *modelLog) LastIndex() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.logs) == 0 {
		return 0
	}
	return l.logs[len(l.logs)-1].Index
}

func (l *modelLog) Term(i uint64) (uint64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i == l.floor && i > 0 {
		return l.floorTerm, true
	}
	if g := l.atLocked(i); g != nil {
		return g.Term, true
	}
	return 0, false
}

func (l *modelLog) atLocked(i uint64) *raft.Log {
	if len(l.logs) == 0 || i < l.logs[0].Index || i > l.logs[len(l.logs)-1].Index {
		return nil
	}
	return &l.logs[i-l.logs[0].Index]
}

func (l *modelLog) Committed() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed
}

func (l *modelLog) HasConfiguration() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.noConfig
}

// Each entry: index (8), term (8), type (1), length (4), data.
func (l *modelLog) EncodeEntries(buf []byte, entries []*raft.Log, maxBytes int) ([]byte, int, error) {
	start, n := len(buf), 0
	for _, e := range entries {
		if n > 0 && len(buf)-start+21+len(e.Data) > maxBytes {
			break
		}
		buf = binary.BigEndian.AppendUint64(buf, e.Index)
		buf = binary.BigEndian.AppendUint64(buf, e.Term)
		buf = append(buf, byte(e.Type))
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(e.Data)))
		buf = append(buf, e.Data...)
		n++
	}
	return buf, n, nil
}

func (l *modelLog) DecodeEntries(first uint64, b []byte) ([]*raft.Log, error) {
	l.mu.Lock()
	err := l.decodeErr
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var out []*raft.Log
	for len(b) > 0 {
		if len(b) < 21 || len(b)-21 < int(binary.BigEndian.Uint32(b[17:])) {
			return nil, errors.New("model: short entry")
		}
		n := int(binary.BigEndian.Uint32(b[17:]))
		out = append(out, &raft.Log{
			Index: binary.BigEndian.Uint64(b), Term: binary.BigEndian.Uint64(b[8:]), Type: raft.LogType(b[16]), Data: b[21 : 21+n],
		})
		b = b[21+n:]
	}
	return out, nil
}

func (l *modelLog) WipeForSnapshot(uint64, uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logs, l.floor, l.floorTerm, l.committed = nil, 0, 0, 0
	l.wiped++
	return nil
}

// store is the raft.LogStore's face of the model.
type store struct{ *modelLog }

func (s store) FirstIndex() (uint64, error) { return s.modelLog.FirstIndex(), nil }
func (s store) LastIndex() (uint64, error)  { return s.modelLog.LastIndex(), nil }
func (s store) IsMonotonic() bool           { return true }

func (s store) GetLog(i uint64, out *raft.Log) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.atLocked(i); g != nil {
		*out = *g
		return nil
	}
	if i == s.floor && i > 0 {
		*out = raft.Log{Index: i, Term: s.floorTerm, Type: raft.LogNoop}
		return nil
	}
	return raft.ErrLogNotFound
}

func (s store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

func (s store) StoreLogs(logs []*raft.Log) error {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range logs {
		if n := len(s.logs); n > 0 && s.logs[n-1].Index+1 != l.Index {
			return fmt.Errorf("model: entry %d behind %d", l.Index, s.logs[n-1].Index)
		}
		c := *l
		c.Data = append([]byte(nil), l.Data...)
		s.logs = append(s.logs, c)
		s.stored++
	}
	s.stores++
	return nil
}

func (s store) DeleteRange(lo, hi uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.logs) == 0 {
		return nil
	}
	first, last := s.logs[0].Index, s.logs[len(s.logs)-1].Index
	switch {
	case lo <= first && hi >= last:
		s.logs = nil
	case hi >= last:
		s.logs = s.logs[:lo-first]
	case lo <= first:
		s.floor, s.floorTerm = hi, s.logs[hi-first].Term
		s.logs = append([]raft.Log(nil), s.logs[hi-first+1:]...)
	default:
		return errors.New("model: hole")
	}
	return nil
}

// fsm keeps what was applied.
type fsm struct {
	mu   sync.Mutex
	data []string
	log  *modelLog
	n    int
	keep bool
}

func (f *fsm) Apply(l *raft.Log) any {
	f.mu.Lock()
	f.n++
	if f.keep {
		f.data = append(f.data, string(l.Data))
	}
	f.mu.Unlock()
	f.log.mu.Lock()
	f.log.committed = max(f.log.committed, l.Index)
	f.log.mu.Unlock()
	return nil
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fsmSnapshot(append([]string(nil), f.data...)), nil
}

func (f *fsm) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = nil
	for len(b) > 0 {
		n := binary.BigEndian.Uint32(b)
		f.data, b = append(f.data, string(b[4:4+n])), b[4+n:]
	}
	f.n = len(f.data)
	return r.Close()
}

func (f *fsm) applied() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.data...)
}

type fsmSnapshot []string

func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	for _, d := range s {
		if _, err := sink.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(d))), d...)); err != nil {
			return errors.Join(err, sink.Cancel())
		}
	}
	return sink.Close()
}
func (fsmSnapshot) Release() {}

// network is the brokers of a test on loopback.
type network struct {
	t     testing.TB
	mu    sync.Mutex
	addrs map[int32]string
}

func newNetwork(t testing.TB) *network { return &network{t: t, addrs: map[int32]string{}} }

func (n *network) resolve(node int32) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.addrs[node]
	return a, ok
}

func (n *network) mux(node int32, change func(*Options)) *Mux {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(n.t, err)
	o := Options{
		Node: node, Incarnation: uint64(node) + 0x1000, ClusterID: func() string { return "c1" }, Version: "test",
		Listener: l, Resolve: n.resolve, Logger: testLog(n.t),
	}
	if change != nil {
		change(&o)
	}
	m, err := New(o)
	must(n.t, err)
	n.mu.Lock()
	n.addrs[node] = l.Addr().String()
	n.mu.Unlock()
	n.t.Cleanup(func() { _ = m.Close() })
	return m
}

func testLog(t testing.TB) *slog.Logger {
	if !testing.Verbose() {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition, and fails after ten seconds.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// member is one replica with its Raft.
type member struct {
	id   raft.ServerID
	m    *Mux
	e    *Endpoint
	log  *modelLog
	fsm  *fsm
	raft *raft.Raft
	snap *raft.InmemSnapshotStore
}

func raftConfig(id raft.ServerID) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = id
	c.HeartbeatTimeout, c.ElectionTimeout = 300*time.Millisecond, 300*time.Millisecond
	c.LeaderLeaseTimeout, c.CommitTimeout = 150*time.Millisecond, 50*time.Millisecond
	c.MaxAppendEntries = 256
	c.BatchApplyCh = true
	c.SnapshotThreshold = 1 << 62
	c.TrailingLogs = 1
	c.Logger = hclog.NewNullLogger()
	return c
}

// group makes one Raft group with a replica on each Mux; replica ids are base, base+1, ...
func group(t testing.TB, muxes []*Mux, base uint64, change func(*raft.Config)) []*member {
	t.Helper()
	var servers []raft.Server
	for i, m := range muxes {
		a := Address(m.o.Node, base+uint64(i))
		servers = append(servers, raft.Server{ID: raft.ServerID(a), Address: a})
	}
	var out []*member
	for i, m := range muxes {
		out = append(out, join(t, m, base+uint64(i), &modelLog{}, servers, change))
	}
	return out
}

func join(t testing.TB, m *Mux, replica uint64, log *modelLog, servers []raft.Server, change func(*raft.Config)) *member {
	t.Helper()
	a := Address(m.o.Node, replica)
	r := &member{id: raft.ServerID(a), m: m, log: log, fsm: &fsm{log: log, keep: true}, snap: raft.NewInmemSnapshotStore()}
	var err error
	r.e, err = m.Register(m.o.Node, replica, r.log)
	must(t, err)
	c := raftConfig(r.id)
	if change != nil {
		change(c)
	}
	stable := raft.NewInmemStore()
	if len(servers) > 0 {
		must(t, raft.BootstrapCluster(c, store{r.log}, stable, r.snap, r.e, raft.Configuration{Servers: servers}))
	}
	r.raft, err = raft.NewRaft(c, r.fsm, store{r.log}, stable, r.snap, r.e)
	must(t, err)
	t.Cleanup(r.stop)
	return r
}

func (r *member) stop() {
	f := r.raft.Shutdown()
	_ = r.e.Close()
	_ = f.Error()
}

func leader(t testing.TB, ms []*member) *member {
	t.Helper()
	var l *member
	eventually(t, "a leader", func() bool {
		for _, m := range ms {
			if m.raft.State() == raft.Leader && m.raft.VerifyLeader().Error() == nil {
				l = m
				return true
			}
		}
		return false
	})
	return l
}
