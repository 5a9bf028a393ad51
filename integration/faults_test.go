//go:build integration

package integration

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

const faultPartitions = 4

// underLoad starts three brokers, a topic with RF 3, producers and a reader, runs fault once per round, and then
// holds the whole history and the replicas' files against each other.
func underLoad(t *testing.T, net *harness.Network, n int, fault func(t *testing.T, c *harness.Cluster, round int)) {
	t.Helper()
	begin := time.Now()
	c := start(t, harness.Options{Nodes: 3, Net: net})
	must(t, c.CreateTopic(deadline(t, 30*time.Second), "faults", faultPartitions, 3, nil))
	load, err := c.StartLoad("faults", faultPartitions, harness.LoadOptions{Readers: 1, Pace: 200 * time.Microsecond})
	must(t, err)
	must(t, load.WaitAcks(deadline(t, 20*time.Second)))
	for round := range n {
		fault(t, c, round)
		for _, node := range c.Nodes {
			if !node.Running() {
				must(t, node.Start())
			}
		}
		must(t, c.WaitReady(deadline(t, 30*time.Second)))
		if err := load.WaitAcks(deadline(t, 30*time.Second)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	t.Logf("%v: %d faults, brokers whole again", time.Since(begin).Round(time.Millisecond), n)
	if err := load.Stop(30 * time.Second); err != nil {
		t.Error(err)
	}
	t.Logf("%v: load stopped", time.Since(begin).Round(time.Millisecond))
	verifyHistory(t, c, load)
	t.Logf("%v: end", time.Since(begin).Round(time.Millisecond))
}

func verifyHistory(t *testing.T, c *harness.Cluster, load *harness.Load) {
	t.Helper()
	final, err := c.ReadAll(deadline(t, 60*time.Second), load.Topic, load.Partitions)
	must(t, err)
	for _, e := range load.History.Check(final) {
		t.Error(e)
	}
	t.Logf("%d acknowledged records checked", load.History.Count())
	begin := time.Now()
	waitReplicasEqual(t, c, load.Topic, load.Partitions)
	t.Logf("replicas equal after %v", time.Since(begin).Round(time.Millisecond))
	for _, n := range c.Nodes {
		must(t, n.Stop())
	}
	for p := range load.Partitions {
		limit := int64(len(final[p]))
		if err := c.CompareReplicas(load.Topic, p, limit); err != nil {
			t.Error(err)
		}
	}
}

// waitReplicasEqual waits until every replica holds everything: the in-sync set is the whole set.
func waitReplicasEqual(t *testing.T, c *harness.Cluster, topic string, partitions int32) {
	t.Helper()
	ctx := deadline(t, 60*time.Second)
	for p := range partitions {
		must(t, c.WaitInSync(ctx, topic, p))
	}
	must(t, c.WaitReplicated(ctx, topic, partitions))
}

func leaderNode(t *testing.T, c *harness.Cluster, p int32) *harness.Node {
	t.Helper()
	id, err := c.Leader(deadline(t, 20*time.Second), "faults", p)
	must(t, err)
	return c.Node(id)
}

func TestKillLeader(t *testing.T) {
	underLoad(t, nil, rounds(3), func(t *testing.T, c *harness.Cluster, round int) {
		must(t, leaderNode(t, c, int32(round%faultPartitions)).Kill())
		time.Sleep(500 * time.Millisecond) // the load goes on without it
	})
}

func TestKillFollower(t *testing.T) {
	underLoad(t, nil, rounds(2), func(t *testing.T, c *harness.Cluster, round int) {
		leader := leaderNode(t, c, 0)
		for _, n := range c.Nodes {
			if n != leader {
				must(t, n.Kill())
				break
			}
		}
		time.Sleep(500 * time.Millisecond)
	})
}

func TestKillController(t *testing.T) {
	underLoad(t, nil, rounds(2), func(t *testing.T, c *harness.Cluster, _ int) {
		id, err := c.Controller(deadline(t, 20*time.Second))
		must(t, err)
		must(t, c.Node(id).Kill())
		if _, err := c.Controller(deadline(t, 20*time.Second)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestKillAll(t *testing.T) {
	underLoad(t, nil, rounds(2), func(t *testing.T, c *harness.Cluster, _ int) {
		for _, n := range c.Nodes {
			go func() { _ = n.Kill() }()
		}
		for _, n := range c.Nodes {
			for n.Running() {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(50 * time.Millisecond)
	})
}

func TestFrozenLeader(t *testing.T) {
	underLoad(t, nil, rounds(1), func(t *testing.T, c *harness.Cluster, round int) {
		n := leaderNode(t, c, int32(round%faultPartitions))
		must(t, n.Pause())
		// The others take over while it is frozen.
		ctx := deadline(t, 20*time.Second)
		for {
			id, err := c.LeaderSeenBy(ctx, n, "faults", int32(round%faultPartitions))
			if err == nil && id >= 0 && int(id) != n.ID {
				break
			}
			if ctx.Err() != nil {
				t.Fatal("nobody took over from the frozen leader")
			}
			time.Sleep(20 * time.Millisecond)
		}
		if d, err := time.ParseDuration(os.Getenv("BALSA_FREEZE")); err == nil { // longer than it takes the others
			time.Sleep(d)
		}
		must(t, n.Resume())
	})
}

func TestGracefulRestart(t *testing.T) {
	underLoad(t, nil, rounds(1)*3, func(t *testing.T, c *harness.Cluster, round int) {
		must(t, c.Nodes[round%3].Stop())
	})
}

func TestCutNetwork(t *testing.T) {
	if err := harness.NetworkUnavailable(); err != nil {
		t.Skip(err)
	}
	for _, kind := range []string{"isolated", "link", "one-way", "mute"} {
		t.Run(kind, func(t *testing.T) {
			net, err := harness.NewNetwork()
			must(t, err)
			t.Cleanup(net.Close)
			underLoad(t, net, rounds(1), func(t *testing.T, c *harness.Cluster, round int) {
				n := leaderNode(t, c, int32(round%faultPartitions))
				other := c.Nodes[n.ID%3]
				switch kind {
				case "isolated":
					must(t, net.Isolate(n.ID))
				case "link":
					must(t, net.Cut(n.ID, other.ID))
				case "one-way":
					must(t, net.CutOneWay(n.ID, other.ID))
				case "mute":
					must(t, net.Mute(n.ID))
				}
				time.Sleep(8 * time.Second)
				must(t, net.Heal())
			})
		})
	}
}

func TestAllAddressesChange(t *testing.T) {
	c := start(t, harness.Options{Nodes: 3})
	must(t, c.CreateTopic(deadline(t, 30*time.Second), "faults", 2, 3, nil))
	load, err := c.StartLoad("faults", 2, harness.LoadOptions{Pace: time.Millisecond})
	must(t, err)
	must(t, load.WaitAcks(deadline(t, 20*time.Second)))
	must(t, load.Stop(20*time.Second))
	for _, n := range c.Nodes {
		must(t, n.Stop())
		must(t, n.NewAddresses())
	}
	c.Rejoin()
	must(t, c.Start(deadline(t, 30*time.Second)))
	verifyHistory(t, c, load)
}

func TestLateBrokerTakesPart(t *testing.T) {
	c := start(t, harness.Options{Nodes: 3})
	n, err := c.Add(4)
	must(t, err)
	must(t, n.Start())
	must(t, n.WaitReady(deadline(t, 20*time.Second)))
	must(t, c.CreateTopic(deadline(t, 30*time.Second), "late", 8, 3, nil))
	if got := c.ReplicasOn(deadline(t, 10*time.Second), "late"); got[4] == 0 {
		t.Fatalf("no replica of a new topic on the late broker: %v", got)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	a := start(t, harness.Options{Nodes: 1})
	b := start(t, harness.Options{Nodes: 3})
	// A broker of the one-broker cluster that is told to join the other cluster must say both IDs and not mix.
	must(t, a.Nodes[0].Stop())
	if err := a.Nodes[0].StartJoining(b.Nodes[0].GossipAddr); err != nil {
		t.Fatal(err)
	}
	ctx := deadline(t, 20*time.Second)
	for !a.Nodes[0].Printed("cluster") {
		if ctx.Err() != nil {
			t.Fatal("the refusal was not logged")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got, err := b.Brokers(ctx); err != nil || len(got) != 3 {
		t.Fatal(fmt.Sprint(got), err)
	}
}
