package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
)

// soloNode is a cluster of one broker over real partitions, each a Raft group of one.
type soloNode struct {
	*metaNode // for what these tests do not use
	t         testing.TB
	dir       string
	fs        *faultyFS
	sync      *segment.Syncer

	mu      sync.Mutex
	image   *meta.Image
	parts   map[fetchKey]*partition.Partition
	votes   map[fetchKey]raft.StableStore
	nextID  byte
	nextPID int64
	// away: partitions that behave as if led elsewhere.
	away atomic.Bool
}

func newSolo(t testing.TB) *soloNode {
	n := &soloNode{
		metaNode: newMetaNode(1), t: t, dir: t.TempDir(), fs: &faultyFS{FS: vfs.OS()}, sync: segment.NewSyncer(0),
		parts: map[fetchKey]*partition.Partition{}, votes: map[fetchKey]raft.StableStore{},
		image: &meta.Image{ClusterID: "solo", Brokers: map[int32]*meta.Broker{}, Topics: map[string]*meta.Topic{}, TopicsByID: map[meta.TopicID]*meta.Topic{}},
	}
	t.Cleanup(n.close)
	return n
}

// startSolo serves a soloNode.
func startSolo(t testing.TB, settings map[string]string) (*soloNode, *Server, string) {
	t.Helper()
	n := newSolo(t)
	s, addr := startServer(t, n, settings)
	n.register(addr)
	return n, s, addr
}

func (n *soloNode) register(addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		n.t.Fatal(err)
	}
	p, _ := strconv.Atoi(port)
	n.change(func(img *meta.Image) {
		img.Brokers[1] = &meta.Broker{ID: 1, Listeners: []meta.Listener{{Name: "IN", Host: host, Port: int32(p)}}}
		img.Brokers[2] = &meta.Broker{ID: 2, Rack: "r2", Listeners: []meta.Listener{{Name: "IN", Host: "elsewhere", Port: 9}}}
	})
}

func (n *soloNode) change(f func(*meta.Image)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	next := *n.image
	next.Brokers, next.Topics, next.TopicsByID = maps.Clone(next.Brokers), maps.Clone(next.Topics), maps.Clone(next.TopicsByID)
	next.Version++
	f(&next)
	n.image = &next
}

func (n *soloNode) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.parts {
		if err := p.Close(); err != nil {
			n.t.Error(err)
		}
	}
	clear(n.parts)
}

func (n *soloNode) Image() *meta.Image {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.image
}
func (n *soloNode) Controller() int32 { return 1 }
func (n *soloNode) Alive(int32) bool  { return true }

func (n *soloNode) Partition(t meta.TopicID, p int32) (*partition.Partition, bool) {
	if n.away.Load() {
		return nil, false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	part, ok := n.parts[fetchKey{id: t, partition: p}]
	return part, ok
}

func (n *soloNode) Leader(t meta.TopicID, p int32) (cluster.Leader, bool) {
	if n.away.Load() {
		return cluster.Leader{Node: 2, Epoch: 9}, true
	}
	part, ok := n.Partition(t, p)
	if !ok {
		return cluster.Leader{}, false
	}
	epoch, ok := part.Leading()
	return cluster.Leader{Node: 1, Epoch: epoch}, ok
}

func (n *soloNode) ProducerIDs(context.Context) (int64, int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nextPID += 1000
	return n.nextPID, 1000, nil
}

func (n *soloNode) CreateTopics(ctx context.Context, specs []cluster.TopicSpec, _ bool) ([]*meta.Topic, []error) {
	out, errs := make([]*meta.Topic, len(specs)), make([]error, len(specs))
	for i, s := range specs {
		out[i], errs[i] = n.create(ctx, s)
	}
	return out, errs
}

func (n *soloNode) create(ctx context.Context, s cluster.TopicSpec) (*meta.Topic, error) {
	n.mu.Lock()
	n.nextID++
	t := &meta.Topic{ID: meta.TopicID{n.nextID}, Name: s.Name, Configs: s.Configs}
	exists := n.image.Topics[s.Name] != nil
	n.mu.Unlock()
	if exists {
		return nil, &meta.Error{Code: 36, Message: "exists"}
	}
	for p := range max(s.Partitions, 1) {
		t.Partitions = append(t.Partitions, meta.Partition{ID: p, Replicas: []meta.Replica{{Node: 1, ID: uint64(n.nextID)*1000 + uint64(p)}}})
	}
	for p := range t.Partitions {
		if err := n.open(t, int32(p), true); err != nil {
			return nil, err
		}
	}
	for p := range t.Partitions {
		if err := n.awaitLeader(ctx, t, int32(p)); err != nil {
			return nil, err
		}
	}
	n.change(func(img *meta.Image) { img.Topics[t.Name], img.TopicsByID[t.ID] = t, t })
	return t, nil
}

func (n *soloNode) awaitLeader(ctx context.Context, t *meta.Topic, p int32) error {
	part, _ := n.Partition(t.ID, p)
	for {
		changed := part.Changed()
		if _, ok := part.Leading(); ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *soloNode) open(t *meta.Topic, p int32, bootstrap bool) error {
	key := fetchKey{id: t.ID, partition: p}
	self := partition.Replica{Node: 1, ID: t.Partitions[p].Replicas[0].ID}
	conf, err := config.ResolveTopic(t.Configs, config.Default())
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.votes[key] == nil {
		n.votes[key] = raft.NewInmemStore()
	}
	o := partition.Options{
		Topic: t.Name, TopicID: t.ID, ID: p, Self: self, FS: n.fs, Sync: n.sync, Votes: n.votes[key],
		Dir: filepath.Join(n.dir, fmt.Sprintf("%s-%d", t.Name, p)),
		NewTransport: func(*partition.Partition) (raft.Transport, error) {
			_, tr := raft.NewInmemTransport(raft.ServerAddress(self.String()))
			return tr, nil
		},
		Config: func() config.Topic { return conf },
		Logger: slog.New(slog.DiscardHandler),
		Timing: partition.Timing{Heartbeat: 50 * time.Millisecond, Election: 50 * time.Millisecond, Lease: 25 * time.Millisecond, Commit: 10 * time.Millisecond},
	}
	if bootstrap {
		o.Bootstrap = []partition.Replica{self}
	}
	part, err := partition.Open(o)
	if err != nil {
		return err
	}
	n.parts[key] = part
	return nil
}

// topic makes a topic.
func (n *soloNode) topic(name string, partitions int32, configs map[string]string) *meta.Topic {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	t, err := n.create(ctx, cluster.TopicSpec{Name: name, Partitions: partitions, Configs: configs})
	if err != nil {
		n.t.Fatal(err)
	}
	return t
}

// faultyFS is the real file system, but for files of a folder that cannot be read.
type faultyFS struct {
	vfs.FS
	bad atomic.Pointer[string] // part of the names
}

type faultyFile struct {
	vfs.File
	fs   *faultyFS
	name string
}

func (f *faultyFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{File: file, fs: f, name: name}, nil
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if bad := f.fs.bad.Load(); bad != nil && strings.Contains(f.name, *bad) {
		return 0, errors.New("input/output error")
	}
	return f.File.ReadAt(p, off)
}
