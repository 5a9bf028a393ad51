//go:build linux

package simulation

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
)

// lostPart is a part of a broker's disk that is gone when the broker comes back.
type lostPart struct {
	name string
	lose func(d *Disk) error
	// replaced: the broker's replicas are lost ones, and come back under new ids (safety rule 1).
	replaced bool
}

var lostParts = []lostPart{
	{"log", func(d *Disk) error { return d.lose(func(name string) bool { return name != "replica" }) }, true},
	{"votes", func(d *Disk) error { return os.Remove(filepath.Join(d.Dir(), "votes.db")) }, true},
	{"high watermark", func(d *Disk) error { return d.lose(func(name string) bool { return name == "high-watermark" }) }, false},
	{"metadata", func(d *Disk) error { return os.RemoveAll(filepath.Join(d.Dir(), "controller")) }, false},
	{"disk", func(d *Disk) error { return d.Wipe(4711) }, true},
}

// lose removes the files of all replicas that gone says are lost, durably.
func (d *Disk) lose(gone func(name string) bool) error {
	fs, topics := d.FS(), filepath.Join(d.Dir(), "topics")
	replicas, err := fs.ReadDir(topics)
	if err != nil {
		return err
	}
	lost := 0
	for _, r := range replicas {
		dir := filepath.Join(topics, r.Name())
		files, err := fs.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			if gone(f.Name()) {
				lost++
				err = errors.Join(err, fs.Remove(filepath.Join(dir, f.Name())))
			}
		}
		if err = errors.Join(err, fs.SyncDir(dir)); err != nil {
			return err
		}
	}
	if lost == 0 {
		return errors.New("nothing was there to be lost")
	}
	return nil
}

// TestIdentityMatrix loses one part of one broker's disk, while
//
//	laggard: another replica lacks the newest entries, and the third, which has them all, is away: the two left are a
//	majority of some partitions, and could elect the laggard if the broker that lost something voted under its old name
//	members: every partition is moving from one of its other brokers to the fourth
//
// No acknowledged record is lost, replicas that lost their log or votes come back under new ids and others keep theirs,
// and the cluster is whole again by itself.
func TestIdentityMatrix(t *testing.T) {
	seeds := uint64(1)
	if os.Getenv("BALSA_SIM_HOURS") != "" || os.Getenv("BALSA_CRASH") != "" {
		seeds = 10
	}
	for i, part := range lostParts {
		for j, with := range []string{"laggard", "members"} {
			t.Run(part.name+", "+with, func(t *testing.T) {
				if seeds == 1 && ((i+j)%2 == 0 || testing.Short() && part.name != "votes") {
					t.Skip("a sample; BALSA_CRASH=1 for all")
				}
				for seed := range seeds {
					dir := tempDir(t)
					synctest.Test(t, func(t *testing.T) { losePart(t, dir, part, with, seed) })
				}
			})
		}
	}
}

func losePart(t *testing.T, dir string, part lostPart, with string, seed uint64) {
	c := startCluster(t, Options{Seed: seed, Brokers: 4, Dir: dir, Policy: "fsync"})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	end := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	defer end()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("seed %d: %s: %v", seed, what, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), heals)
	defer cancel()
	const partitions = 8
	topic, err := c.CreateTopic(ctx, "orders", partitions)
	must("create", err)
	writers := make([]*writer, partitions)
	for i := range writers {
		writers[i] = &writer{}
		wg.Go(func() { writers[i].run(c, topic.ID, int32(i), stop) })
	}
	time.Sleep(5 * time.Second)
	victim, laggard := c.Brokers[c.intN(4)], c.Brokers[0]
	for laggard == victim {
		laggard = c.Brokers[c.intN(4)]
	}
	emptied := false
	before := idsOn(c.any(), topic.ID, victim.ID)
	switch with {
	case "laggard":
		must("kill the laggard", laggard.Kill(false))
		time.Sleep(4 * time.Second) // the other replicas go on
		for _, b := range c.Brokers {
			must("kill", b.Kill(false))
		}
		must("lose "+part.name, part.lose(victim.disk))
		must("start the laggard", laggard.Start())
		emptied = c.startLoser(t, victim)
		time.Sleep(20 * time.Second) // they could elect one of themselves
	case "members":
		must("move", c.moveReplicas(ctx, topic.ID, victim.ID))
		time.Sleep(c.between(0, 2*time.Second))
		must("kill", victim.Kill(false))
		must("lose "+part.name, part.lose(victim.disk))
		time.Sleep(c.between(0, 2*time.Second))
		emptied = c.startLoser(t, victim)
	}
	for _, b := range c.Brokers {
		if n, _ := b.Node(); n == nil {
			must("start", b.Start())
		}
	}
	must("whole again", c.wait(heals, func() error { return c.Whole(topic.ID) }))
	time.Sleep(2 * time.Second)
	end()
	img := c.any().Image()
	for i, w := range writers {
		_, mp, _ := img.Lookup(topic.ID, int32(i))
		if lost := w.check(t, c, topic.ID, mp); lost > 0 || mp.Losses > 0 {
			t.Errorf("seed %d: partition %d: %d of %d acknowledged records are lost", seed, i, lost, len(w.acked))
		}
	}
	after := idsOn(c.any(), topic.ID, victim.ID)
	for _, id := range before {
		if kept := slices.Contains(after, id); kept && (part.replaced || emptied) {
			t.Errorf("seed %d: replica %d, which has lost its %s, is still a member", seed, id, part.name)
		} else if !kept && !part.replaced && !emptied {
			t.Errorf("seed %d: replica %d was replaced though nothing of it was lost", seed, id)
		}
	}
}

// startLoser starts a broker that has lost something. Without its part of the metadata's log a broker does not start: it
// might vote for a second controller. Then a person empties its disk.
func (c *Cluster) startLoser(t *testing.T, b *Broker) (emptied bool) {
	t.Helper()
	err := b.Start()
	if err != nil && strings.Contains(err.Error(), "empty data dir") {
		t.Logf("needs a person: %v", err)
		err, emptied = errors.Join(b.disk.Wipe(4712), b.Start()), true
	}
	if err != nil {
		t.Fatal(err)
	}
	return emptied
}

// moveReplicas begins to move each partition from one of its brokers, but not from stays, to one that has none of it.
func (c *Cluster) moveReplicas(ctx context.Context, topic meta.TopicID, stays int32) error {
	n := c.any()
	for _, p := range n.Image().TopicsByID[topic].Partitions {
		var nodes []int32
		for _, r := range p.Replicas {
			nodes = append(nodes, r.Node)
		}
		for _, b := range c.Brokers {
			if from := slices.IndexFunc(nodes, func(id int32) bool { return id != stays }); !slices.Contains(nodes, b.ID) && b.ID != stays {
				nodes[from] = b.ID
				break
			}
		}
		if err := n.SetReplicas(ctx, topic, p.ID, p.Epoch, nodes); err != nil {
			return err
		}
	}
	return nil
}

// idsOn are the ids of a topic's replicas on a broker.
func idsOn(n *cluster.Node, topic meta.TopicID, node int32) (ids []uint64) {
	for _, p := range n.Image().TopicsByID[topic].Partitions {
		for _, r := range slices.Concat(p.Replicas, p.Removing) {
			if r.Node == node {
				ids = append(ids, r.ID)
			}
		}
	}
	return ids
}
