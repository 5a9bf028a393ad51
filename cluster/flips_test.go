package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// flipKinds are the files of one replica: their suffix, and which of several; nil: any.
var flipKinds = []struct {
	name, suffix string
	which        func(files []string) string
}{
	{"closed segment", ".log", func(f []string) string { return f[0] }},
	{"active segment", ".log", func(f []string) string { return f[len(f)-1] }},
	{"index", ".index", nil},
	{"checkpoint", ".checkpoint", nil},
	{"log's state", "state", nil},
	{"high watermark", "high-watermark", nil},
	{"identity", "replica", nil},
}

// TestFlips: one bit of one replica's files flips while its broker is stopped, at random places of each kind of file, in
// many partitions at once. Whatever it was: consumers get what was written, the peers' logs stay as they are, nothing is
// removed, and the replica ends whole and equal to its peers by itself. BALSA_FLIPS says how many places per kind,
// BALSA_SEED replays them.
func TestFlips(t *testing.T) {
	if testing.Short() {
		t.Skip("restarts brokers again and again")
	}
	seed := uint64(envInt("BALSA_SEED", int(rand.Uint32())))
	t.Logf("BALSA_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	var jobs []int // of flipKinds
	for range envInt("BALSA_FLIPS", 1) {
		jobs = append(jobs, rnd.Perm(len(flipKinds))...)
	}
	partitions := int32(min(len(jobs), 100))

	nodes, dirs := testCluster(t)
	topic := createSmallSegments(t, nodes[0], "flips", partitions, 3)
	want := make([][]string, partitions)
	for p := range partitions {
		want[p] = produce(t, nodes, topic, p, 5) // one closed segment and an active one
	}
	whole(t, nodes, topic)
	flips, rebuilt := make([]int, len(flipKinds)), make([]int, len(flipKinds))
	for round := 0; len(jobs) > 0; round++ {
		i := round % len(nodes)
		before := nodes[i].Image().TopicsByID[topic.ID]
		now := jobs[:min(len(jobs), int(partitions))]
		jobs = jobs[len(now):]
		if err := nodes[i].Close(ctxFor(t)); err != nil {
			t.Fatal(err)
		}
		places := make([]string, len(now))
		for p, k := range now {
			id := replicaOn(&before.Partitions[p], nodes[i].self).ID
			places[p] = flipOne(t, rnd, replicaFiles(t, dirs[i], id, flipKinds[k].suffix), flipKinds[k].which)
			flips[k]++
		}
		restart(t, nodes, i)
		verifyAll(t, nodes, topic.ID, want, places) // what is served before all was found
		if err := nodes[i].scrubPass(ctxFor(t)); err != nil {
			t.Fatal(err)
		}
		wholeOrSay(t, nodes, topic.ID, places)
		after := nodes[i].Image().TopicsByID[topic.ID]
		for p, k := range now {
			if replicaOn(&before.Partitions[p], nodes[i].self) != replicaOn(&after.Partitions[p], nodes[i].self) {
				rebuilt[k]++
			}
		}
		for p := range now {
			v := fmt.Sprintf("after round %d", round)
			produceOne(t, nodes, topic, int32(p), v)
			want[p] = append(want[p], v)
			sameFrames(t, nodes, topic, int32(p))
		}
		verifyAll(t, nodes, topic.ID, want, places)
		t.Logf("round %d: %d flips, %d to go", round, len(now), len(jobs))
	}
	for k := range flipKinds {
		t.Logf("%-15s %5d flips, %5d replicas rebuilt, the others mended or not touched by it", flipKinds[k].name, flips[k], rebuilt[k])
	}
}

// flipOne flips a random bit of one of the files.
func flipOne(t *testing.T, rnd *rand.Rand, files []string, which func([]string) string) (place string) {
	t.Helper()
	slices.Sort(files)
	file := files[rnd.IntN(len(files))]
	if which != nil {
		file = which(files)
	}
	fi, err := os.Stat(file)
	if err != nil || fi.Size() == 0 {
		t.Fatalf("%s: %v", file, err)
	}
	pos, bit := rnd.Int64N(fi.Size()), uint(rnd.IntN(8))
	flipBit(t, file, pos, bit)
	return fmt.Sprintf("%s at %d bit %d", filepath.Join(filepath.Base(filepath.Dir(file)), filepath.Base(file)), pos, bit)
}

func envInt(name string, or int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return or
}

// verifyAll reads all partitions from whoever leads, again where it met damage, and compares.
func verifyAll(t *testing.T, nodes []*Node, id [16]byte, want [][]string, places []string) {
	t.Helper()
	topic := nodes[0].Image().TopicsByID[id]
	for p := range want {
		until(t, "read: "+strings.Join(places, ", "), func() bool {
			_, leader := leaderOf(t, nodes, topic, int32(p))
			got, err := consume(leader)
			if !slices.Equal(got, want[p][:min(len(got), len(want[p]))]) || len(got) > len(want[p]) {
				t.Fatalf("partition %d: a consumer was given other records: %v", p, places)
			}
			return err == nil && len(got) == len(want[p])
		})
	}
}

func wholeOrSay(t *testing.T, nodes []*Node, id [16]byte, places []string) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(places, "\n"))
			for _, n := range nodes {
				t.Logf("broker %d: %+v", n.self, n.Damaged(n.self))
			}
		}
	})
	whole(t, nodes, nodes[0].Image().TopicsByID[id])
}
