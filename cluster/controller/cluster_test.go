package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fast are timings for tests; the elections of hidden ones would last for ever.
var (
	fast   = Timing{Heartbeat: 300 * time.Millisecond, Commit: 10 * time.Millisecond}
	hidden = Timing{Heartbeat: time.Hour}
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// net of brokers on loopback, each with its Mux.
type testNet struct {
	t  *testing.T
	mu sync.Mutex
	at map[int32]string
}

type testBroker struct {
	*Controller
	net  *testNet
	self Member
	dir  string
	mux  *transport.Mux
	opt  func(*Options)
	stop sync.Once
}

func newNet(t *testing.T) *testNet { return &testNet{t: t, at: map[int32]string{}} }

func (n *testNet) resolve(node int32) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, ok := n.at[node]
	return a, ok
}

func (n *testNet) peers() (ids []int32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.at {
		ids = append(ids, id)
	}
	return ids
}

func (n *testNet) start(m Member, dir string, timing Timing, opt func(*Options)) *testBroker {
	n.t.Helper()
	b, err := n.tryStart(m, dir, timing, opt)
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

func (n *testNet) tryStart(m Member, dir string, timing Timing, opt func(*Options)) (*testBroker, error) {
	n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	if os.Getenv("BALSA_TEST_LOG") != "" {
		logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", m.Node)
	}
	mux, err := transport.New(transport.Options{Node: m.Node, Incarnation: m.Incarnation, Listener: l, Resolve: n.resolve, Logger: logger})
	if err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.at[m.Node] = l.Addr().String()
	n.mu.Unlock()
	o := Options{Dir: Dir(dir), Node: m.Node, Incarnation: m.Incarnation, Mux: mux, Timing: timing, Logger: logger, Peers: n.peers}
	if opt != nil {
		opt(&o)
	}
	c, err := Open(o)
	if err != nil {
		_ = mux.Close()
		return nil, err
	}
	b := &testBroker{Controller: c, net: n, self: m, dir: dir, mux: mux, opt: opt}
	n.t.Cleanup(b.kill)
	return b, nil
}

// kill stops a broker without handing anything over.
func (b *testBroker) kill() {
	b.stop.Do(func() {
		if err := errors.Join(b.Close(), b.mux.Close()); err != nil {
			b.net.t.Errorf("stop broker %d: %v", b.self.Node, err)
		}
	})
}

func (b *testBroker) restart(timing Timing) *testBroker {
	b.kill()
	return b.net.start(b.self, b.dir, timing, b.opt)
}

func (b *testBroker) propose(c meta.Command) any {
	b.net.t.Helper()
	result, err := b.Propose(testContext(b.net.t), c)
	if err != nil {
		b.net.t.Fatalf("%T on broker %d: %v", c, b.self.Node, err)
	}
	return result
}

func (b *testBroker) register() {
	b.net.t.Helper()
	b.propose(registration(b.self))
}

func registration(m Member) meta.RegisterBroker {
	return meta.RegisterBroker{Broker: meta.Broker{ID: m.Node, Incarnation: m.Incarnation, ClusterAddr: fmt.Sprint("h", m.Node)}}
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func members(nodes ...int32) (ms []Member) {
	for _, n := range nodes {
		ms = append(ms, Member{Node: n, Incarnation: uint64(1000 + n)})
	}
	return ms
}

// startThree founds a cluster of brokers 1 to 3.
func startThree(t *testing.T, opt func(*Options)) []*testBroker {
	n, ms := newNet(t), members(1, 2, 3)
	var bs []*testBroker
	for _, m := range ms {
		bs = append(bs, n.start(m, t.TempDir(), fast, opt))
	}
	for _, b := range bs {
		if err := b.Bootstrap(t.Context(), ms, ""); err != nil {
			t.Fatal(err)
		}
	}
	leaderOf(t, bs)
	return bs
}

func leaderOf(t *testing.T, bs []*testBroker) *testBroker {
	t.Helper()
	var leader *testBroker
	eventually(t, "a controller", func() bool {
		for _, b := range bs {
			if b.IsLeader() {
				leader = b
				return true
			}
		}
		return false
	})
	return leader
}

func others(bs []*testBroker, not *testBroker) (list []*testBroker) {
	for _, b := range bs {
		if b != not {
			list = append(list, b)
		}
	}
	return list
}

func topic(name string, nodes ...int32) meta.CreateTopic {
	c := meta.CreateTopic{Name: name, Partitions: [][]int32{nodes}}
	copy(c.ID[:], name)
	return c
}

// One broker leads at once, without waiting for an election timeout: here it would be an hour.
func TestSingleBroker(t *testing.T) {
	n, m := newNet(t), members(1)[0]
	b := n.start(m, t.TempDir(), hidden, nil)
	if b.HasState() || b.Image().ClusterID != "" {
		t.Error("an empty broker has state")
	}
	if err := b.Bootstrap(t.Context(), []Member{m}, "cid"); err != nil {
		t.Fatal(err)
	}
	b.register()
	b.propose(topic("a", 1))
	if err := b.Bootstrap(t.Context(), []Member{m}, "other"); !errors.Is(err, ErrHasState) {
		t.Errorf("a second bootstrap: %v", err)
	}
	if id := b.Image().ClusterID; id != "cid" {
		t.Errorf("cluster ID %q", id)
	}
	version := b.Image().Version

	b = b.restart(hidden)
	if err := b.WaitVersion(testContext(t), version); err != nil {
		t.Fatal(err)
	}
	eventually(t, "leadership", b.IsLeader)
	if b.Image().Topics["a"] == nil || b.Image().ClusterID != "cid" {
		t.Error("the metadata is gone")
	}
	if node, ok := b.Leader(); node != 1 || !ok {
		t.Errorf("leader %d %v", node, ok)
	}
	var refused *meta.Error
	if _, err := b.Propose(testContext(t), topic("a", 1)); err != nil {
		t.Errorf("the same request again: %v", err)
	}
	_, err := b.Propose(testContext(t), meta.CreateTopic{ID: meta.TopicID{9}, Name: "a", Partitions: [][]int32{{1}}})
	if !errors.As(err, &refused) || !errors.Is(err, meta.ErrTopicExists) {
		t.Errorf("%v", err)
	}
}

func TestThreeBrokers(t *testing.T) {
	bs := startThree(t, nil)
	id := leaderOf(t, bs).Image().ClusterID
	next := int64(0)
	for i, b := range bs {
		// From each of them, also where it must be forwarded; with the result in the own image.
		b.register()
		name := fmt.Sprint("t", i)
		got, ok := b.propose(topic(name, b.self.Node)).(*meta.Topic)
		if !ok || got.Name != name || b.Image().Topics[name] == nil {
			t.Errorf("%v, in the image: %v", got, b.Image().Topics[name])
		}
		ids := b.propose(meta.AllocateProducerIDs{Node: b.self.Node}).(meta.ProducerIDs)
		// A block is skipped when an answer was lost on the way and the request repeated; none is given out twice.
		if ids.First < next || ids.First%meta.ProducerIDBlock != 0 {
			t.Errorf("%+v, given out up to %d", ids, next)
		}
		next = ids.First + int64(ids.Count)
		if _, err := b.Propose(testContext(t), meta.DeleteTopic{ID: meta.TopicID{9}}); !errors.Is(err, meta.ErrUnknownTopicID) {
			t.Errorf("%v", err)
		}
		if b.Image().ClusterID != id || id == "" {
			t.Errorf("cluster ID %q, on the leader %q", b.Image().ClusterID, id)
		}
	}

	// The leader dies: another goes on, and the dead one catches up when it is back.
	old := leaderOf(t, bs)
	old.kill()
	rest := others(bs, old)
	rest[0].propose(topic("later", 1))
	if leaderOf(t, rest) == old {
		t.Fatal("the dead one leads")
	}
	rest[1].propose(topic("evenlater", 1))
	back := old.restart(fast)
	if err := back.WaitVersion(testContext(t), rest[1].Image().Version); err != nil {
		t.Fatal(err)
	}
	same(t, back, rest[0])

	// All die and come back.
	all := []*testBroker{back, rest[0], rest[1]}
	version := rest[1].Image().Version
	for _, b := range all {
		b.kill()
	}
	for i, b := range all {
		all[i] = b.restart(fast)
	}
	for _, b := range all {
		if err := b.WaitVersion(testContext(t), version); err != nil {
			t.Fatal(err)
		}
	}
	same(t, all[0], all[1])
	same(t, all[0], all[2])
}

func same(t *testing.T, a, b *testBroker) {
	t.Helper()
	eventually(t, fmt.Sprintf("brokers %d and %d have the same image", a.self.Node, b.self.Node), func() bool {
		return string(meta.EncodeImage(a.Image())) == string(meta.EncodeImage(b.Image()))
	})
}

func TestProposeEndsWithItsContext(t *testing.T) {
	bs := startThree(t, nil)
	leader := leaderOf(t, bs)
	rest := others(bs, leader)
	leader.kill()
	rest[0].kill()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := rest[1].Propose(ctx, topic("x", 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	ended := make(chan error)
	go func() {
		_, err := rest[1].Propose(t.Context(), topic("x", 1))
		ended <- err
	}()
	rest[1].kill()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

// A broker that joins late gets the metadata by a snapshot, as a member without a vote.
func TestSnapshotToNewMember(t *testing.T) {
	small := func(o *Options) { o.Timing.TrailingLogs = 1 }
	n, m := newNet(t), members(1)[0]
	first := n.start(m, t.TempDir(), fast, small)
	if err := first.Bootstrap(t.Context(), []Member{m}, ""); err != nil {
		t.Fatal(err)
	}
	first.register()
	for i := range 20 {
		first.propose(topic(fmt.Sprint("t", i), 1))
	}
	if err := first.raft.Load().Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if first.store.firstIndex.Load() < 10 {
		t.Fatal("the log was not compacted")
	}

	m2 := members(2)[0]
	second := n.start(m2, t.TempDir(), fast, small)
	registered := make(chan error)
	go func() {
		// It follows no leader yet: it asks around.
		_, err := second.Propose(testContext(t), registration(m2))
		registered <- err
	}()
	eventually(t, "registration", func() bool { return first.Image().Brokers[2] != nil })
	if changed, err := first.Reconcile(testContext(t), []Member{m, m2}); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if err := <-registered; err != nil {
		t.Fatal(err)
	}
	same(t, first, second)
	if second.snapshots.newest().Index == 0 {
		t.Error("there was no snapshot")
	}
	// One voter stays one: two survive less.
	if changed, err := first.Reconcile(testContext(t), []Member{m, m2}); changed || err != nil {
		t.Error(changed, err)
	}
	// Its log begins behind the snapshot: raft must find the snapshot's term there, or, when a leader repeats the first
	// append, it is sent the snapshot for ever.
	first.propose(topic("behind", 1))
	same(t, first, second)
	var l raft.Log
	s := second.snapshots.newest()
	if err := second.store.GetLog(s.Index, &l); err != nil || l.Index != s.Index || l.Term != s.Term {
		t.Errorf("%+v %v", l, err)
	}
	// What came by snapshot is there after a restart, and goes on.
	second = second.restart(fast)
	first.propose(topic("more", 1))
	second.propose(topic("evenmore", 2))
	same(t, first, second)
	if err := second.Campaign(); err == nil {
		t.Error("a member without a vote stands for election")
	}
}

// A cluster grows from one voter to three, keeps three, and replaces one whose disk is gone.
func TestReconcile(t *testing.T) {
	n, ms := newNet(t), members(1, 2, 3, 4)
	var bs []*testBroker
	for _, m := range ms {
		bs = append(bs, n.start(m, t.TempDir(), fast, nil))
	}
	if err := bs[0].Bootstrap(t.Context(), ms[:1], ""); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, b := range bs {
		wg.Go(func() { _, _ = b.Propose(testContext(t), registration(b.self)) })
	}
	settle := func(alive []Member, ok func(map[Member]bool) bool) {
		t.Helper()
		eventually(t, fmt.Sprint("members settle: ", bs[0].Members()), func() bool {
			leader := leaderOf(t, bs)
			voters := map[Member]bool{}
			before := leader.Members()
			for _, m := range before {
				voters[m.Member] = m.Voter
			}
			count := 0
			for _, v := range voters {
				if v {
					count++
				}
			}
			changed, err := leader.Reconcile(testContext(t), alive)
			return !changed && err == nil && count == 3 && ok(voters)
		})
	}
	settle(ms, func(v map[Member]bool) bool { return len(v) == 4 })
	wg.Wait()
	for _, b := range bs[1:] {
		same(t, bs[0], b)
	}

	// Broker 2 comes back with an empty disk. As long as it is not known to be dead the id is its old self's.
	old := bs[1]
	old.kill()
	fresh := Member{Node: 2, Incarnation: 77}
	bs[1] = n.start(fresh, t.TempDir(), fast, nil)
	if _, err := bs[1].Propose(testContext(t), registration(fresh)); !errors.Is(err, meta.ErrDuplicateBroker) {
		t.Errorf("another disk took the id of a living broker: %v", err)
	}
	leaderOf(t, bs).propose(meta.FenceBroker{ID: 2, Incarnation: ms[1].Incarnation})
	wg.Go(func() { _, _ = bs[1].Propose(testContext(t), registration(fresh)) })
	alive := []Member{ms[0], fresh, ms[2], ms[3]}
	settle(alive, func(v map[Member]bool) bool {
		_, gone := v[ms[1]]
		_, here := v[fresh]
		return !gone && here && len(v) == 4
	})
	wg.Wait()
	same(t, bs[0], bs[1])
}

// Rule 1: a broker that lost its disk is not taken for the member it was.
func TestWipedDisk(t *testing.T) {
	bs := startThree(t, nil)
	for _, b := range bs {
		b.register()
	}
	leader := leaderOf(t, bs)
	rest := others(bs, leader)
	victim, witness := rest[0], rest[1]
	same(t, leader, victim)
	victim.kill()

	// Only the controller's folder is gone: the member file says that there was one.
	if err := os.RemoveAll(Dir(victim.dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := victim.net.tryStart(victim.self, victim.dir, fast, nil); !errors.Is(err, ErrLost) {
		t.Fatalf("a member without its log starts: %v", err)
	}
	// All is gone: it is another incarnation, and nobody's frames for the old one reach it.
	fresh := victim.net.start(Member{Node: victim.self.Node, Incarnation: 77}, t.TempDir(), fast, nil)
	leader.kill()
	// Of the three members one is left: no majority, so no leader, however long the fresh one is there.
	ctx, cancel := context.WithTimeout(t.Context(), 6*fast.Heartbeat)
	defer cancel()
	if _, err := witness.Propose(ctx, topic("x", 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one of three members made progress: %v", err)
	}
	if fresh.HasState() || witness.IsLeader() || fresh.IsLeader() {
		t.Error("the wiped broker voted")
	}
	// With the dead one back there is a majority.
	leader.restart(fast)
	witness.propose(topic("x", 1))
}

func TestOnLeader(t *testing.T) {
	n, m := newNet(t), members(1)[0]
	events := make(chan bool, 10)
	b := n.start(m, t.TempDir(), hidden, func(o *Options) { o.OnLeader = func(l bool) { events <- l } })
	if err := b.Bootstrap(t.Context(), []Member{m}, ""); err != nil {
		t.Fatal(err)
	}
	if !<-events || b.Image().ClusterID == "" {
		t.Error("told too early")
	}
	b.kill()
	if <-events {
		t.Error("told twice")
	}
}

func TestDataDirOfAnother(t *testing.T) {
	n, m := newNet(t), members(1)[0]
	b := n.start(m, t.TempDir(), hidden, nil)
	if err := b.Bootstrap(t.Context(), []Member{m}, ""); err != nil {
		t.Fatal(err)
	}
	b.register()
	b.kill()
	if _, err := n.tryStart(members(2)[0], b.dir, hidden, nil); !errors.Is(err, ErrLost) {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(b.dir, "controller.member")); err != nil {
		t.Fatal(err)
	}
	b = n.start(m, b.dir, hidden, nil) // as after a crash right behind the first entry
	b.kill()
	if got, err := wasMember(Dir(b.dir)); err != nil || got != string(m.ServerID()) {
		t.Errorf("%q %v", got, err)
	}
}

// A crash between the two writes of a bootstrap leaves a term alone; the next start may found a cluster all the same.
func TestHalfABootstrap(t *testing.T) {
	dir, m := t.TempDir(), members(1)[0]
	if err := os.MkdirAll(Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	s := openTestStore(t, Dir(dir))
	if err := errors.Join(s.SetUint64([]byte(keyTerm), 1), s.close()); err != nil {
		t.Fatal(err)
	}
	b := newNet(t).start(m, dir, hidden, nil)
	if err := b.Bootstrap(t.Context(), []Member{m}, ""); err != nil {
		t.Fatal(err)
	}
	b.register()
}
