//go:build linux

package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/cluster"
)

// Kind of a fault.
type Kind string

// The faults. What each does stands at its case in Cluster.inflict.
const (
	Kill      Kind = "kill"
	KillAll   Kind = "kill all"
	Power     Kind = "power loss"
	PowerAll  Kind = "power loss of all"
	Stop      Kind = "graceful restart"
	Pause     Kind = "pause"
	CutLink   Kind = "cut link"
	CutOneWay Kind = "cut link one way"
	Isolate   Kind = "isolate"
	Deafen    Kind = "isolate one way"
	Delay     Kind = "slow link"
	Reset     Kind = "reset connections"
	SlowDisk  Kind = "slow disk"
	FullDisk  Kind = "full disk"
	FailSync  Kind = "failed fsync"
	Wipe      Kind = "wipe"
	Transfer  Kind = "transfer leadership"
	Skew      Kind = "clock skew"
	Delete    Kind = "delete records"
	Flip      Kind = "flipped bit"
)

// weights say how often each kind comes. Those that lose what is not synced at a majority are left out under the
// policy `replicated`, which does not survive them.
var weights = []struct {
	kind   Kind
	weight int
	fsync  bool // only under fsync
}{
	{Kill, 6, false},
	{KillAll, 1, false},
	{Power, 4, false},
	{PowerAll, 1, true},
	{Stop, 2, false},
	{Pause, 4, false},
	{CutLink, 4, false},
	{CutOneWay, 4, false},
	{Isolate, 4, false},
	{Deafen, 2, false},
	{Delay, 3, false},
	{Reset, 4, false},
	{SlowDisk, 3, false},
	{FullDisk, 2, false},
	{FailSync, 2, false},
	{Wipe, 1, false},
	{Transfer, 4, false},
	{Skew, 2, false},
	{Delete, 3, false},
	{Flip, 3, false},
}

// Fault is one fault of a schedule.
type Fault struct {
	At, For time.Duration // since the start; how long
	Kind    Kind
	A, B    int    // brokers, as positions
	Seed    uint64 // of what else is drawn for it
}

func (f Fault) String() string {
	return fmt.Sprintf("%v %s: broker %d, %d, for %v", f.At.Round(time.Millisecond), f.Kind, f.A+1, f.B+1, f.For.Round(time.Millisecond))
}

// Schedule makes the faults of a simulation: always the same for a seed.
func Schedule(seed uint64, brokers int, policy string, length, meanGap time.Duration) []Fault {
	rng := rand.New(rand.NewPCG(seed, 2))
	sum := 0
	for _, w := range weights {
		sum += w.weight
	}
	var out []Fault
	for at := time.Duration(0); ; {
		// Most come one after the other, some on the heels of the one before.
		gap := time.Duration(rng.ExpFloat64() * float64(meanGap))
		if rng.IntN(3) == 0 {
			gap = time.Duration(rng.ExpFloat64() * float64(2*time.Second))
		}
		if at += gap; at >= length {
			return out
		}
		f := Fault{At: at, A: rng.IntN(brokers), B: rng.IntN(brokers - 1), Seed: rng.Uint64()}
		if f.B >= f.A {
			f.B++
		}
		f.For = time.Duration(rng.ExpFloat64() * float64(8*time.Second))
		f.For = min(f.For+50*time.Millisecond, time.Minute)
		pick := rng.IntN(sum)
		weak := int(seed % uint64(brokers))
		for _, w := range weights {
			if pick -= w.weight; pick < 0 {
				if w.fsync && policy != "fsync" {
					break
				}
				f.Kind = w.kind
				if f.Kind == Wipe || f.Kind == Flip || f.Kind == Power && policy != "fsync" {
					f.A = weak // damage that nobody has met yet is a copy lost: only ever of one broker
				}
				out = append(out, f)
				break
			}
		}
	}
}

// Nemesis carries a schedule out.
type Nemesis struct {
	c    *Cluster
	load *Load
	wg   sync.WaitGroup

	mu     sync.Mutex
	counts map[Kind]int
	log    []string
	errs   []string
}

// StartNemesis begins the schedule; Wait returns when the last fault has been undone.
func (c *Cluster) StartNemesis(load *Load, schedule []Fault) *Nemesis {
	n := &Nemesis{c: c, load: load, counts: map[Kind]int{}}
	began := time.Now()
	n.wg.Go(func() {
		for _, f := range schedule {
			time.Sleep(time.Until(began.Add(f.At)))
			n.wg.Go(func() { n.inflict(f) })
		}
	})
	return n
}

// Wait returns when all faults are undone.
func (n *Nemesis) Wait() { n.wg.Wait() }

// Counts of the faults that were carried out, by kind.
func (n *Nemesis) Counts() map[Kind]int { return n.counts }

// Log says what was done when; Errors what should not have happened to the brokers themselves.
func (n *Nemesis) Log() []string    { return n.log }
func (n *Nemesis) Errors() []string { return n.errs }

func (n *Nemesis) note(f Fault, format string, args ...any) {
	line := fmt.Sprintf("%12v %s: ", n.c.Now().Round(time.Millisecond), f.Kind) + fmt.Sprintf(format, args...)
	n.mu.Lock()
	n.log = append(n.log, line)
	n.mu.Unlock()
	n.c.logger.Info("nemesis", "does", line)
}

func (n *Nemesis) failed(err error) {
	n.mu.Lock()
	n.errs = append(n.errs, fmt.Sprintf("%v: %v", n.c.Now(), err))
	n.mu.Unlock()
}

// inflict does one fault, waits, and undoes it. A broker that another fault has down or is about to bring back is
// left alone.
func (n *Nemesis) inflict(f Fault) {
	c := n.c
	a, b := c.Brokers[f.A], c.Brokers[f.B]
	rng := rand.New(rand.NewPCG(f.Seed, 3))
	count := func() {
		n.mu.Lock()
		n.counts[f.Kind]++
		n.mu.Unlock()
	}
	during := func(undo func(), format string, args ...any) {
		count()
		n.note(f, format+", for %v", append(args, f.For.Round(time.Millisecond))...)
		time.Sleep(f.For)
		undo()
		n.note(f, "over")
	}
	links := func(do func(from, to string), pairs ...[2]string) {
		for _, p := range pairs {
			do(p[0], p[1])
		}
	}
	var out, in [][2]string
	for _, o := range c.Brokers {
		if o != a {
			out, in = append(out, [2]string{a.ip(), o.ip()}), append(in, [2]string{o.ip(), a.ip()})
		}
	}
	cut := func(pairs ...[2]string) func() {
		links(c.net.Cut, pairs...)
		return func() { links(c.net.Heal, pairs...) }
	}
	switch f.Kind {
	case Kill, Power:
		if f.Kind == Power && c.o.Policy != "fsync" {
			// What only the others have is not to be in their caches alone when the next power goes.
			if err := c.Whole(n.load.Topic.ID); err != nil {
				n.note(f, "left out: %v", err)
				return
			}
		}
		n.crash([]*Broker{a}, f, rng, count)
	case KillAll, PowerAll:
		all := append([]*Broker{a}, slices.DeleteFunc(slices.Clone(c.Brokers), func(b *Broker) bool { return b == a })...)
		n.crash(all, f, rng, count)
	case Stop:
		n.down(a, f, count, func(b *Broker) error {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			return b.Stop(ctx)
		})
	case Pause:
		// The process stands still for all others: nothing is heard of it, nothing gets on its disk. Its own timers go on.
		undo := cut(slices.Concat(in, out)...)
		a.paused.close()
		during(func() {
			a.paused.open()
			undo()
		}, "broker %d", a.ID)
	case CutLink:
		during(cut([2]string{a.ip(), b.ip()}, [2]string{b.ip(), a.ip()}), "between %d and %d", a.ID, b.ID)
	case CutOneWay:
		during(cut([2]string{a.ip(), b.ip()}), "from %d to %d", a.ID, b.ID)
	case Isolate:
		during(cut(slices.Concat(in, out)...), "broker %d", a.ID)
	case Deafen:
		pairs, what := in, "hears"
		if rng.IntN(2) == 0 {
			pairs, what = out, "reaches"
		}
		during(cut(pairs...), "broker %d %s nobody", a.ID, what)
	case Delay:
		extra := time.Duration(rng.Int64N(int64(600 * time.Millisecond)))
		c.net.Delay(a.ip(), b.ip(), extra)
		during(func() { c.net.Delay(a.ip(), b.ip(), 0) }, "from %d to %d by %v", a.ID, b.ID, extra)
	case Reset:
		count()
		for range 1 + rng.IntN(4) {
			n.note(f, "%d ends between %d and %d", c.net.Reset(a.ip(), b.ip()), a.ID, b.ID)
			time.Sleep(time.Duration(rng.Int64N(int64(2 * time.Second))))
		}
	case SlowDisk:
		most := time.Duration(rng.Int64N(int64(3 * time.Second)))
		a.slow.Store(int64(most))
		during(func() { a.slow.Store(0) }, "broker %d, a sync takes up to %v", a.ID, most)
	case FullDisk:
		left := rng.Int64N(256 << 10)
		a.disk.Fill(left)
		during(func() { a.disk.Fill(-1) }, "broker %d, %d bytes left", a.ID, left)
	case FailSync:
		syncs := 1 + rng.Int64N(3)
		a.failSync.Store(syncs)
		count()
		n.note(f, "broker %d, %d of them", a.ID, syncs)
		time.Sleep(f.For)
		a.failSync.Store(0)
		// What stopped for it starts again with the broker.
		n.down(a, f, nil, func(b *Broker) error { return b.Kill(false) })
	case Wipe:
		if err := c.Whole(n.load.Topic.ID); err != nil {
			n.note(f, "left out: %v", err)
			return
		}
		n.down(a, f, count, func(b *Broker) error {
			if err := b.Kill(false); err != nil {
				return err
			}
			return b.disk.Wipe(rng.Uint64())
		})
	case Transfer:
		part := int32(rng.IntN(len(n.load.Topic.Partitions)))
		l, node, _, _ := c.leader(n.load.Topic.ID, part)
		if l == nil {
			return
		}
		p, ok := node.Partition(n.load.Topic.ID, part)
		if !ok {
			return
		}
		voters := p.Status().Voters
		if len(voters) == 0 {
			return
		}
		to := voters[rng.IntN(len(voters))]
		count()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		n.note(f, "partition %d from %d to %d: %v", part, l.ID, to.Node, p.TransferLeadership(ctx, to))
	case Delete:
		part := int32(rng.IntN(len(n.load.Topic.Partitions)))
		if start, err := n.load.deleteRecords(part, rng.Float64()); start >= 0 {
			count()
			n.note(f, "partition %d below %d: %v", part, start, err)
		}
	case Flip:
		files := a.disk.Files()
		if len(files) == 0 {
			return
		}
		name := files[rng.IntN(len(files))]
		off, err := a.disk.Flip(name, rng)
		if err == nil {
			count()
			n.note(f, "broker %d: %s at %d", a.ID, strings.TrimPrefix(name, a.disk.Dir()), off)
		}
	case Skew:
		skew := time.Duration(rng.Int64N(int64(20*time.Minute))) - 10*time.Minute
		a.skew.Store(int64(skew))
		count()
		n.note(f, "broker %d by %v", a.ID, skew)
	}
}

// take claims the brokers that no other fault has down.
func take(brokers ...*Broker) (taken []*Broker) {
	for _, b := range brokers {
		if b.busy.CompareAndSwap(false, true) {
			taken = append(taken, b)
		}
	}
	return taken
}

// crash kills brokers at one instant: now, or in the middle of what the first of them does.
func (n *Nemesis) crash(brokers []*Broker, f Fault, rng *rand.Rand, count func()) {
	taken := take(brokers...)
	if len(taken) == 0 {
		return
	}
	count()
	power := f.Kind == Power || f.Kind == PowerAll
	var dead []*cluster.Node
	for i, b := range taken {
		var node *cluster.Node
		var err error
		if ops := rng.Int64N(40) - 10; i == 0 && ops > 0 {
			node, err = b.dieAt(ops, power, 15*time.Second)
		} else {
			node, err = b.die(power)
		}
		if err != nil {
			n.failed(fmt.Errorf("%s of broker %d: %w", f.Kind, b.ID, err))
		}
		n.note(f, "broker %d is down", b.ID)
		dead = append(dead, node)
	}
	for i, node := range dead {
		after := rng.Int64N(int64(f.For))
		n.wg.Go(func() {
			if node != nil {
				node.Kill()
			}
			n.restart(taken[i], f, after)
		})
	}
}

// down ends one broker that is free, keeps it down, and starts it again.
func (n *Nemesis) down(b *Broker, f Fault, count func(), end func(*Broker) error) {
	if len(take(b)) == 0 {
		return
	}
	if count != nil {
		count()
	}
	if err := end(b); err != nil {
		n.failed(fmt.Errorf("%s of broker %d: %w", f.Kind, b.ID, err))
	}
	n.note(f, "broker %d is down", b.ID)
	n.restart(b, f, int64(f.For))
}

func (n *Nemesis) restart(b *Broker, f Fault, after int64) {
	time.Sleep(max(time.Duration(after), 100*time.Millisecond))
	n.note(f, "broker %d starts", b.ID)
	if err := b.Start(); err != nil {
		n.failed(err)
	}
	b.busy.Store(false)
}
