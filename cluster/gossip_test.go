package cluster

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func testGossip(t *testing.T, m member, join ...string) *gossip {
	t.Helper()
	m.ClusterAddr = "127.0.0.1:1"
	m.Run = newRun()
	timing := Timing{}.withDefaults()
	timing.GossipProbeInterval, timing.GossipProbeTimeout, timing.GossipSuspicionMaxMult = 100*time.Millisecond, 50*time.Millisecond, 1
	g, err := startGossip(context.Background(), gossipOptions{
		self: m, listen: "127.0.0.1:0", join: join, timing: timing, logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.kill)
	return g
}

// hangs is when a test gives up. It says nothing of how fast a broker is: the machine may be busy.
const hangs = 2 * time.Minute

// until waits for a condition; the limit only ends a test that failed.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(hangs)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (g *gossip) sees(node int32) bool { m, ok := g.member(node); return ok && m.Alive }

func TestGossipFindsAndLoses(t *testing.T) {
	a := testGossip(t, member{Node: 1, Incarnation: 1, Rack: "r1", Expect: 3})
	b := testGossip(t, member{Node: 2, Incarnation: 2}, a.addr)
	c := testGossip(t, member{Node: 3, Incarnation: 3}, a.addr)
	until(t, "all see all", func() bool {
		return a.sees(2) && a.sees(3) && b.sees(1) && b.sees(3) && c.sees(1) && c.sees(2)
	})
	if m, _ := b.member(1); m.Rack != "r1" || m.Expect != 3 || m.GossipAddr != a.addr {
		t.Fatalf("%+v", m)
	}
	if err := a.setTags(map[string]string{tagClusterID: "x"}); err != nil {
		t.Fatal(err)
	}
	until(t, "tags travel", func() bool { m, _ := c.member(1); return m.ClusterID == "x" })
	c.kill()
	until(t, "a silent broker is failed", func() bool { return !a.sees(3) && !b.sees(3) })
	// The same disk at another address, before or after its former self has been given up.
	b.kill()
	b2 := testGossip(t, member{Node: 2, Incarnation: 2}, a.addr)
	until(t, "restarted elsewhere", func() bool { m, ok := a.member(2); return ok && m.Alive && m.GossipAddr == b2.addr })
}

func TestGossipRefusesAnotherClusterAndASecondHolder(t *testing.T) {
	a := testGossip(t, member{Node: 1, Incarnation: 1, ClusterID: "one"})
	other := testGossip(t, member{Node: 2, Incarnation: 2, ClusterID: "two"}, a.addr)
	until(t, "another cluster is refused", func() bool { return other.refusedLately() != nil })
	err := other.refusedLately()
	if !errors.Is(err, ErrWrongCluster) || !strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), "two") {
		t.Fatal(err)
	}
	if a.sees(2) || other.sees(1) {
		t.Fatal("members of two clusters see each other")
	}
	twin := testGossip(t, member{Node: 1, Incarnation: 9, ClusterID: "one"}, a.addr)
	until(t, "a second holder of a node id is refused", func() bool { return twin.refusedLately() != nil })
	if err := twin.refusedLately(); !strings.Contains(err.Error(), a.addr) || !strings.Contains(err.Error(), "node id 1 is used twice") {
		t.Fatal(err)
	}
}

// Tags that could not be sent in time are set all the same, and travel later: a broker that starts beside slow peers starts.
func TestGossipOfTagsIsSlow(t *testing.T) {
	a := testGossip(t, member{Node: 1, Incarnation: 1})
	m := member{Node: 2, Incarnation: 2, ClusterAddr: "127.0.0.1:1", Run: newRun()}
	b, err := startGossip(context.Background(), gossipOptions{
		self: m, listen: "127.0.0.1:0", join: []string{a.addr}, timing: Timing{}.withDefaults(), logger: slog.New(slog.DiscardHandler),
		broadcast: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kill)
	until(t, "they see each other", func() bool { return a.sees(2) && b.sees(1) })
	if err := b.setTags(map[string]string{tagClusterID: "x"}); err != nil {
		t.Fatal(err)
	}
	until(t, "tags travel", func() bool { m, _ := a.member(2); return m.ClusterID == "x" })
}
