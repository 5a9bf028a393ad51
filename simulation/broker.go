//go:build linux

package simulation

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// Broker is one broker of a simulation: a machine with a disk, on which lives of its process follow one another.
type Broker struct {
	ID     int32
	c      *Cluster
	disk   *Disk
	boots  int
	skew   atomic.Int64 // of its wall clock, nanoseconds
	paused gate
	busy   atomic.Bool // a fault has it down
	fuse   atomic.Pointer[fuse]

	mu   sync.Mutex
	node *cluster.Node // nil while it is down
	host *Host
	down chan struct{} // closed when the life that node was ends

	slow     atomic.Int64 // a sync takes up to this, nanoseconds
	failSync atomic.Int64 // so many syncs fail
}

func (b *Broker) ip() string { return fmt.Sprintf("10.0.0.%d", b.ID) }

// Node is the running process, nil while there is none. down is closed when it ends.
func (b *Broker) Node() (n *cluster.Node, down <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.node, b.down
}

// Start runs the process on what the disk holds.
func (b *Broker) Start() error {
	host := b.c.net.Host(b.ip())
	gossip, err := host.Gossip(b.ip() + ":7946")
	if err != nil {
		return err
	}
	b.disk.FS().SetHook(b.disturb)
	fs := vfs.FS(b.disk.FS())
	if b.c.o.Disk != nil {
		fs = b.c.o.Disk(fs)
	}
	var join []string
	for _, o := range b.c.Brokers {
		if o != b {
			join = append(join, o.ip()+":7946")
		}
	}
	n, err := cluster.Start(context.Background(), cluster.Options{
		NodeID: b.ID, DataDir: b.disk.Dir(), FS: fs, ClusterListen: b.ip() + ":9300", GossipListen: b.ip() + ":7946",
		Join: join, BootstrapExpect: b.c.expect, Version: "simulated", Timing: b.c.o.Timing, Config: b.c.o.config,
		Listeners: []meta.Listener{{Name: "PLAINTEXT", Host: b.ip(), Port: 9092}},
		Logger:    b.c.logger.With("on", b.ID),
		Now:       func() time.Time { return time.Now().Add(time.Duration(b.skew.Load())) },
		Listen:    host.Listen, Dial: host.Dial, GossipTransport: gossip, BootID: fmt.Sprintf("%d-%d", b.ID, b.boots),
	})
	if err != nil {
		host.Kill(false)
		_ = gossip.Shutdown()
		return fmt.Errorf("start broker %d: %w", b.ID, err)
	}
	b.mu.Lock()
	b.node, b.host, b.down = n, host, make(chan struct{})
	b.mu.Unlock()
	return nil
}

// end takes the running life out of sight.
func (b *Broker) end() (*cluster.Node, *Host) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, h := b.node, b.host
	if n != nil {
		close(b.down)
	}
	b.node, b.host = nil, nil
	return n, h
}

// die ends the running life at this instant; the caller must still Kill the node, whose goroutines run on against dead
// files and connections. nil: none runs.
func (b *Broker) die(power bool) (*cluster.Node, error) {
	n, h := b.end()
	if n == nil {
		return nil, nil
	}
	h.Kill(power)
	if power {
		b.boots++
	}
	err := b.disk.Kill(power)
	b.paused.open()
	return n, err
}

// Kill is kill -9, or, with power, the loss of power of the machine. On return nothing of the old life runs any more.
func (b *Broker) Kill(power bool) error {
	n, err := b.die(power)
	if n != nil {
		n.Kill()
	}
	return err
}

// fuse has a broker die in the middle of what it does: at the ops-th change of a file from now.
type fuse struct {
	ops   atomic.Int64
	power bool
	gone  chan error    // capacity 1: it has died
	node  *cluster.Node // readable after gone
}

// dieAt has the broker die at its ops-th change of a file, or after limit, and returns the life that ended.
func (b *Broker) dieAt(ops int64, power bool, limit time.Duration) (*cluster.Node, error) {
	f := &fuse{power: power, gone: make(chan error, 1)}
	f.ops.Store(ops)
	b.fuse.Store(f)
	select {
	case err := <-f.gone:
		return f.node, err
	case <-time.After(limit):
	}
	if b.fuse.CompareAndSwap(f, nil) {
		return b.die(power)
	}
	return f.node, <-f.gone
}

// burn is called at each change of a file.
func (b *Broker) burn() {
	f := b.fuse.Load()
	if f == nil || f.ops.Add(-1) != 0 || !b.fuse.CompareAndSwap(f, nil) {
		return
	}
	var err error
	f.node, err = b.die(f.power)
	f.gone <- err
}

// Stop is a graceful stop.
func (b *Broker) Stop(ctx context.Context) error {
	n, h := b.end()
	if n == nil {
		return nil
	}
	// What a failing disk or a cut link makes of it is no business of the caller's: it stops.
	err := n.Close(ctx)
	b.c.logger.Info("broker stopped", "node", b.ID, "err", err)
	h.Kill(false)
	return b.disk.Next()
}

// disturb is the disk's hook.
func (b *Broker) disturb(op crashfs.Op, name string) error {
	b.paused.wait()
	if op != crashfs.OpRead {
		b.burn()
	}
	if op != crashfs.OpSync && op != crashfs.OpSyncDir {
		return nil
	}
	if d := b.c.o.SyncTime + time.Duration(b.slow.Load()); d > 0 {
		time.Sleep(b.c.between(0, d))
	}
	if op == crashfs.OpSync && b.failSync.Load() > 0 && strings.Contains(name, "/topics/") {
		b.failSync.Add(-1)
		return syscall.EIO
	}
	return nil
}

// gate holds who waits while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut == nil {
		g.shut = make(chan struct{})
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

func (g *gate) wait() {
	g.mu.Lock()
	c := g.shut
	g.mu.Unlock()
	if c != nil {
		<-c
	}
}
