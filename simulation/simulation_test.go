//go:build linux

package simulation

import (
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsa-broker/balsa/vfs"
)

// tempDir is a folder in memory where there is one.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "balsa-sim-") //nolint:usetesting // memory is faster than a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// startCluster starts brokers a millisecond apart; they end with the bubble.
func startCluster(t *testing.T, o Options) *Cluster {
	t.Helper()
	o.Latency, o.Logger = time.Millisecond, testLogger()
	c, err := New(o)
	if err != nil {
		t.Fatalf("seed %d: %v", o.Seed, err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(heals) // what waits for a time limit of its own gets there before the bubble ends
	})
	if err := c.WaitReady(heals); err != nil {
		t.Fatalf("seed %d: start: %v", o.Seed, err)
	}
	return c
}

func testLogger() *slog.Logger {
	level := slog.LevelInfo
	switch os.Getenv("BALSA_TEST_LOG") {
	case "":
		return slog.New(slog.DiscardHandler)
	case "debug":
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// stalled is, in real time, far more than any simulation takes.
const stalled = 10 * time.Minute

// bubble is synctest.Test, but for one leak: raft leaves the futures that its FSM has not got to when it shuts down
// unanswered, and whoever waits for one with it.
func bubble(t *testing.T, f func(*testing.T)) {
	// A clock that stands still: somebody holds a sync.Mutex that others wait for while he waits for the disk.
	watch := time.AfterFunc(stalled, func() { panic("a simulation does not end") })
	defer watch.Stop()
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		buf := make([]byte, 16<<20)
		for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "synctest bubble") && !strings.Contains(g, "raft.(*deferError).Error") {
				t.Errorf("%v\n%s", p, g)
			}
		}
	}()
	synctest.Test(t, f)
}

func simulate(t *testing.T, p Plan) (r Report) {
	t.Helper()
	p.Dir, p.Logger = tempDir(t), testLogger()
	began := time.Now()
	bubble(t, func(t *testing.T) {
		var err error
		if r, err = Run(p); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%v in %v", r, time.Since(began).Round(time.Millisecond))
	return r
}

// sound is simulate without a violation.
func sound(t *testing.T, p Plan) Report {
	t.Helper()
	r := simulate(t, p)
	if len(r.Bad) > 0 {
		t.Errorf("replay this schedule: BALSA_SEED=%d", p.Seed)
	}
	return r
}

// Without faults everything is acknowledged and read.
func TestCalm(t *testing.T) {
	r := sound(t, Plan{Options: Options{Seed: 1, Brokers: 3, Policy: "fsync"}, Length: time.Minute, MeanGap: time.Hour, Partitions: 4, Pace: time.Second})
	if r.Acked < 100 {
		t.Fatalf("%d records acknowledged", r.Acked)
	}
}

// Disks that say "synced" and are not lose acknowledged records when the power of all goes: the simulation must see it.
func TestLyingDisksAreFound(t *testing.T) {
	r := simulate(t, Plan{
		Options: Options{Seed: 7, Brokers: 3, Policy: "fsync", Disk: func(f vfs.FS) vfs.FS { return lyingFS{f} }},
		Length:  time.Minute, Partitions: 2, Pace: time.Second, Schedule: []Fault{{At: 30 * time.Second, For: time.Second, Kind: PowerAll}},
	})
	if len(r.Bad) == 0 {
		t.Fatal("no violation")
	}
}

// lyingFS syncs no segment.
type lyingFS struct{ vfs.FS }

func (l lyingFS) OpenFile(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	f, err := l.FS.OpenFile(name, flag, perm)
	if err == nil && strings.HasSuffix(name, ".log") {
		f = lyingFile{f}
	}
	return f, err
}

type lyingFile struct{ vfs.File }

func (lyingFile) Sync() error { return nil }

// TestSimulation runs random schedules. By default few and short ones, always the same; BALSA_SIM_HOURS=n runs at least
// n simulated hours under new seeds, BALSA_SEED=s the one schedule of that seed.
func TestSimulation(t *testing.T) {
	if s, err := strconv.ParseUint(os.Getenv("BALSA_SEED"), 10, 64); err == nil {
		sound(t, planOf(s, time.Hour))
		return
	}
	if hours, err := strconv.ParseFloat(os.Getenv("BALSA_SIM_HOURS"), 64); err == nil {
		long(t, hours)
		return
	}
	length := 10 * time.Minute
	if testing.Short() {
		length = 3 * time.Minute
	}
	for seed := range uint64(3) {
		sound(t, planOf(seed, length))
	}
}

// gaps between faults: storms are found among them, and quiet hours.
var gaps = []time.Duration{15 * time.Second, time.Minute, time.Minute, 3 * time.Minute}

// planOf draws the shape of a simulation from its seed.
func planOf(seed uint64, length time.Duration) Plan {
	rng := rand.New(rand.NewPCG(seed, 5))
	p := Plan{
		Options: Options{Seed: seed, Brokers: 3, Policy: "fsync", Latency: time.Duration(rng.Int64N(int64(2 * time.Millisecond)))},
		Length:  length, MeanGap: gaps[rng.IntN(len(gaps))], Partitions: 1 + rng.Int32N(4), Pace: 8 * time.Second,
	}
	if rng.IntN(4) > 0 {
		p.SyncTime = time.Duration(rng.Int64N(int64(8 * time.Millisecond)))
	}
	if rng.IntN(3) == 0 {
		p.Brokers = 5
	}
	if rng.IntN(4) == 0 {
		p.Policy = "replicated"
	}
	if rng.IntN(8) > 0 {
		p.Timing = Slower(4)
	}
	return p
}

// long runs simulations of an hour each until there are enough, and sums them up. It ends at the first violation.
func long(t *testing.T, hours float64) {
	debug.SetGCPercent(400)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	total := Report{Faults: map[Kind]int{}}
	began := time.Now()
	for runs := 1; total.Simulated.Hours() < hours; runs++ {
		// One processor is twice as fast as two, which meet in other orders.
		runtime.GOMAXPROCS(1 + rand.IntN(4)/3)
		r := sound(t, planOf(rand.Uint64N(1e9), time.Hour))
		total.Simulated += r.Simulated
		total.Acked += r.Acked
		total.Operations += r.Operations
		total.Terms += r.Terms
		for k, n := range r.Faults {
			total.Faults[k] += n
		}
		if len(r.Bad) > 0 || t.Failed() {
			return
		}
	}
	faults := 0
	for _, n := range total.Faults {
		faults += n
	}
	t.Logf("%.1f cluster-hours, %d faults %v, %d records acknowledged, %d operations, %d terms, no violation, in %v",
		total.Simulated.Hours(), faults, total.Faults, total.Acked, total.Operations, total.Terms, time.Since(began).Round(time.Second))
}
