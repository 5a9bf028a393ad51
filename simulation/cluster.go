//go:build linux

package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/vfs"
)

// Options of a Cluster. Everything random follows Seed; what the Go scheduler does, does not.
type Options struct {
	Seed    uint64
	Brokers int
	Dir     string        // for the real files; on tmpfs for speed
	Latency time.Duration // of each message
	// SyncTime is the most that a sync takes: only where time passes can a crash come between two steps.
	SyncTime time.Duration
	Policy   string // flush.policy of the topics
	Timing   cluster.Timing
	Logger   *slog.Logger // default: none
	// Disk, if set, stands between the brokers and their disks.
	Disk func(vfs.FS) vfs.FS

	config *config.Broker
}

// Cluster is the brokers of one simulation, on one network. It lives inside a synctest bubble.
type Cluster struct {
	o       Options
	logger  *slog.Logger
	net     *Network
	Brokers []*Broker
	expect  int
	began   time.Time

	mu  sync.Mutex
	rng *rand.Rand // of what goroutines draw at times that no seed decides
}

// New makes the brokers and starts them.
func New(o Options) (*Cluster, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{
		o: o, logger: o.Logger, net: NewNetwork(o.Latency), expect: o.Brokers, began: time.Now(),
		rng: rand.New(rand.NewPCG(o.Seed, 1)),
	}
	var err error
	if c.o.config, err = config.NewBroker(map[string]string{"balsa.flush.policy": o.Policy, "log.segment.bytes": "1048576", "log.roll.ms": "240000"}); err != nil {
		return nil, err
	}
	for id := range o.Brokers {
		b := &Broker{ID: int32(id + 1), c: c}
		if b.disk, err = NewDisk(o.Dir, fmt.Sprintf("%d-broker%d", o.Seed, b.ID), c.uint64()); err != nil {
			return nil, err
		}
		c.Brokers = append(c.Brokers, b)
	}
	for _, b := range c.Brokers {
		if err := b.Start(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Close ends every process and removes the real files.
func (c *Cluster) Close() error {
	var errs []error
	for _, b := range c.Brokers {
		errs = append(errs, b.Kill(false), os.RemoveAll(b.disk.Dir()))
	}
	return errors.Join(errs...)
}

// Now is the simulated time since the start.
func (c *Cluster) Now() time.Duration { return time.Since(c.began) }

func (c *Cluster) uint64() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.Uint64()
}

func (c *Cluster) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

func (c *Cluster) between(from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	return from + time.Duration(c.uint64()%uint64(to-from))
}

// up lists the brokers that run.
func (c *Cluster) up() (list []*Broker) {
	for _, b := range c.Brokers {
		if n, _ := b.Node(); n != nil {
			list = append(list, b)
		}
	}
	return list
}

// any is a broker that runs, chosen at random; nil when none does.
func (c *Cluster) any() *cluster.Node {
	up := c.up()
	if len(up) == 0 {
		return nil
	}
	n, _ := up[c.intN(len(up))].Node()
	return n
}

// WaitReady waits until every broker is a working member that all others know, for at most limit of simulated time.
func (c *Cluster) WaitReady(limit time.Duration) error {
	return c.wait(limit, func() error {
		for _, b := range c.Brokers {
			n, _ := b.Node()
			if n == nil {
				return fmt.Errorf("broker %d does not run", b.ID)
			}
			if err := n.Ready(); err != nil {
				return fmt.Errorf("broker %d: %w", b.ID, err)
			}
			for _, o := range c.Brokers {
				if !n.Image().Unfenced(o.ID) || !n.Alive(o.ID) {
					return fmt.Errorf("broker %d does not know broker %d", b.ID, o.ID)
				}
			}
		}
		return nil
	})
}

// wait asks again and again until there is no error, or limit has passed.
func (c *Cluster) wait(limit time.Duration, ok func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// CreateTopic creates a topic on all or three brokers.
func (c *Cluster) CreateTopic(ctx context.Context, name string, partitions int32) (*meta.Topic, error) {
	n := c.any()
	if n == nil {
		return nil, errors.New("no broker runs")
	}
	topics, errs := n.CreateTopics(ctx, []cluster.TopicSpec{{Name: name, Partitions: partitions, ReplicationFactor: 3}}, false)
	return topics[0], errs[0]
}
