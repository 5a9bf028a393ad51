package partition

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
)

// Rule 15, the gate alone: whatever Raft drops, and in whichever term it stores the rest, what is let in of an epoch is a
// beginning of it: 0, 1, 2, ... without a gap, in the term of the tickets.
func TestRule15GateLetsInABeginning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var g gate
		in := map[uint64][]uint64{}
		terms := map[uint64]uint64{}
		term, epoch := uint64(2), uint64(0)
		for range rapid.IntRange(1, 8).Draw(t, "epochs") {
			epoch++
			terms[epoch] = term
			logTerm := term
			for n := range uint64(rapid.IntRange(0, 12).Draw(t, "appends")) {
				if rapid.IntRange(0, 5).Draw(t, "drop") == 0 {
					continue
				}
				if rapid.IntRange(0, 9).Draw(t, "newTerm") == 0 {
					logTerm++
				}
				if g.admit(ticket{kindBatch, term, epoch, n}, logTerm) {
					if logTerm != term {
						t.Fatalf("ticket of term %d let into term %d", term, logTerm)
					}
					in[epoch] = append(in[epoch], n)
				}
			}
			term = logTerm + uint64(rapid.IntRange(0, 1).Draw(t, "election"))
		}
		for e, ns := range in {
			for i, n := range ns {
				if n != uint64(i) {
					t.Fatalf("epoch %d: %v", e, ns)
				}
			}
		}
	})
}

func TestTicketEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := ticket{
			kind(rapid.IntRange(1, 4).Draw(t, "kind")), rapid.Uint64().Draw(t, "term"), rapid.Uint64().Draw(t, "epoch"),
			rapid.Uint64().Draw(t, "n"),
		}
		var buf [ticketSize]byte
		k, b, own := parseExt(a.put(&buf))
		if !own || k != a.kind || a != b {
			t.Fatalf("%v became %v", a, b)
		}
	})
}

// client is an idempotent producer with five batches in flight, which repeats from the first failed one in order, as
// Kafka's do.
type client struct {
	c     *testCluster
	id    int64
	total int
	acked map[int]int64 // batch -> offset
}

func (k *client) run() error {
	next := 0
	for next < k.total && !k.c.t.Failed() {
		p := k.c.leading()
		if p == nil {
			continue
		}
		var under []*Pending
		for i := next; i < min(next+rememberedBatches, k.total); i++ {
			under = append(under, p.Append(batch(2, k.id, 0, int32(2*i), fmt.Sprintf("%d/%d", k.id, i)), -1, 20*time.Second))
		}
		failed := false
		for i, w := range under {
			r := w.Result()
			switch {
			case r.Err == nil:
				if failed {
					// A later batch stored behind a failed one can only mean that the failed one is stored as well.
					continue
				}
				k.acked[next+i] = r.BaseOffset
			case errors.Is(r.Err, ErrProducerFenced), errors.Is(r.Err, ErrDuplicateSequence):
				return fmt.Errorf("batch %d: %w", next+i, r.Err)
			default:
				failed = true
			}
		}
		done := next
		for ; done < next+len(under); done++ {
			if _, ok := k.acked[done]; !ok {
				break
			}
		}
		if done == next {
			time.Sleep(20 * time.Millisecond)
		}
		next = done
	}
	return nil
}

// checkProducers compares the log, not the answers: of each producer every batch once and in order, and each answer's
// offset right.
func checkProducers(t *testing.T, p *Partition, clients []*client) {
	t.Helper()
	next := map[int64]int32{}
	at := map[string]int64{}
	voids := 0
	err := p.log.Scan(1, func(e segment.Entry) bool {
		if e.Type == segment.Void {
			voids++
		}
		if e.Type != segment.Batch || e.Index > p.applied.Load() {
			return true
		}
		b := record.Batch(e.Header)
		if b.BaseSequence() != next[b.ProducerID()] {
			t.Errorf("entry %d: producer %d has sequence %d, expected %d", e.Index, b.ProducerID(), b.BaseSequence(), next[b.ProducerID()])
		}
		next[b.ProducerID()] = b.BaseSequence() + b.LastOffsetDelta() + 1
		at[fmt.Sprint(b.ProducerID(), "/", b.BaseSequence()/2)] = b.BaseOffset()
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d entries of term %d, %d voids and fences", p.LastIndex(), p.Raft().CurrentTerm(), voids)
	for _, k := range clients {
		if next[k.id] != int32(2*k.total) {
			t.Errorf("producer %d: the log ends at sequence %d of %d", k.id, next[k.id], 2*k.total)
		}
		for i, off := range k.acked {
			if want := at[fmt.Sprint(k.id, "/", i)]; want != off {
				t.Errorf("producer %d batch %d was answered with offset %d and is at %d", k.id, i, off, want)
			}
		}
	}
}

// Rule 15: Raft's own transfers that fail reject single applies and take later ones; elections and step-downs store what
// was queued in another term. The log has no hole and no duplicate.
func TestRule15TicketsUnderFailingTransfers(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCluster(t, 3)
				c.net.delay = func() time.Duration { return time.Duration(rand.IntN(3000)) * time.Microsecond }
				c.startAll()
				c.leader()
				rnd := rand.New(rand.NewPCG(seed, 1))
				clients := make([]*client, 3)
				var wg sync.WaitGroup
				t.Cleanup(wg.Wait)
				for i := range clients {
					clients[i] = &client{c: c, id: int64(i + 1), total: 400, acked: map[int]int64{}}
					wg.Go(func() {
						if err := clients[i].run(); err != nil {
							t.Error(err)
						}
					})
				}
				stop := make(chan struct{})
				go func() {
					wg.Wait()
					close(stop)
				}()
				for running := true; running; {
					l := c.leader()
					to := c.members[rnd.IntN(3)]
					switch []int{0, 0, 0, 0, 1, 1, 1, 1, 3, 3, 3, 2}[rnd.IntN(12)] {
					case 0: // a transfer that fails: the target is cut off
						c.net.setCut(l.r, to.r, true)
						_ = l.p.Raft().LeadershipTransferToServer(to.r.ServerID(), raft.ServerAddress(to.r.String())).Error()
						c.net.setCut(l.r, to.r, false)
					case 1: // one that Raft does without draining
						_ = l.p.Raft().LeadershipTransferToServer(to.r.ServerID(), raft.ServerAddress(to.r.String())).Error()
					case 2: // the leader is cut off, and another elected
						for _, m := range c.members {
							c.net.setCut(l.r, m.r, true)
						}
						time.Sleep(time.Duration(rnd.IntN(15)) * time.Second)
						for _, m := range c.members {
							c.net.setCut(l.r, m.r, false)
						}
					case 3: // an orderly one
						_ = l.p.TransferLeadership(t.Context(), to.r)
					}
					select {
					case <-stop:
						running = false
					case <-time.After(time.Duration(rnd.IntN(20)) * time.Millisecond):
					}
				}
				c.converge()
				c.sameState()
				for _, m := range c.members {
					checkProducers(t, m.p, clients)
				}
				c.stopAll()
			})
		})
	}
}

// Rule 15: appends that Raft dropped and nothing follows are found by the fence, and answered long before their timeout.
func TestRule15FenceFindsDroppedAppends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		p := l.p
		c.append(l, batch(1, 1, 0, 0, "a"))
		// Lose one on its way: give out a ticket and never hand it over.
		o := &op{data: batch(1, 1, 0, 1, "b"), producerID: 1, seq: seqBatch{first: 1, last: 1}, since: time.Now(), deadline: time.Now().Add(time.Minute)}
		w := &Pending{done: make(chan struct{})}
		p.mu.Lock()
		o.ticket = ticket{kindBatch, p.term, p.epoch, p.nextTicket}
		p.nextTicket++
		p.inflight = append(p.inflight, o)
		p.inflightBytes += int64(len(o.data))
		p.producers[1].inflight = append(p.producers[1].inflight, o)
		p.await(o, w)
		p.mu.Unlock()
		p.watched.Store(true)
		p.kick()
		start := time.Now()
		if r := w.Result(); !errors.Is(r.Err, ErrNotLeader) {
			t.Fatalf("%+v", r)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("it took %v", d)
		}
		if got := c.append(l, batch(1, 1, 0, 1, "b")); got != 1 {
			t.Errorf("again: offset %d", got)
		}
		c.stopAll()
	})
}

// Rule 15: an entry that comes without a ticket is stored as a void frame.
func TestRule15EntriesWithoutTicketAreVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1)
		c.startAll()
		l := c.leader()
		f := l.p.Raft().Apply(batch(1, -1, 0, 0, "x"), time.Second)
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
		if typ, _, ok := l.p.log.Type(f.Index()); !ok || typ != segment.Void {
			t.Fatalf("stored as %v", typ)
		}
		if got := c.append(l, batch(1, -1, 0, 0, "y")); got != 0 {
			t.Errorf("offset %d", got)
		}
		c.stopAll()
	})
}

// Before a hand-over appends wait, and after one that failed they go on.
func TestTransferDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3)
		c.startAll()
		l := c.leader()
		var f *member
		for _, m := range c.members {
			if m != l {
				f = m
			}
		}
		for i := range 3 {
			c.append(l, batch(1, 1, 0, int32(i), "a"))
		}
		c.net.setCut(l.r, f.r, true)
		var under []*Pending
		for i := range 5 {
			under = append(under, l.p.Append(batch(1, 1, 0, int32(3+i), "b"), -1, time.Minute))
		}
		err := l.p.TransferLeadership(t.Context(), f.r)
		if err == nil {
			t.Fatal("leadership moved to a replica that is cut off")
		}
		for _, w := range under {
			if r := w.Result(); r.Err != nil {
				t.Errorf("in flight before the transfer: %v", r.Err)
			}
		}
		if got := c.append(l, batch(1, 1, 0, 8, "c")); got != 8 {
			t.Errorf("offset %d", got)
		}
		c.net.setCut(l.r, f.r, false)
		if err := l.p.TransferLeadership(t.Context(), Replica{}); err != nil {
			t.Fatal(err)
		}
		if _, ok := l.p.Leading(); ok {
			t.Error("still leading")
		}
		n := c.leader()
		if got := c.append(n, batch(1, 1, 0, 9, "d")); got != 9 {
			t.Errorf("offset %d", got)
		}
		if err := n.p.TransferLeadership(t.Context(), Replica{Node: 9, ID: 9}); err == nil {
			t.Error("handed over to a stranger")
		}
		c.stopAll()
	})
}
