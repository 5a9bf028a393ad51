package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
)

// ErrNeedsRecovery: the local replica lost power under flush policy replicated, and waits to be brought back (safety rule 13).
var ErrNeedsRecovery = errors.New("needs-recovery")

const (
	recoveryCall  = 2 * time.Second // one broker's answer
	proposalsOnce = 64              // under way at a time
)

// recoveryLoop brings back partitions whose replicas lost power without having synced. Each broker asks for its own
// unclean replicas, the commands in the metadata decide; every step is repeated until it took. It acts on metadata of
// this run only: what a broker had when it stopped may tell of a choice that was carried out since.
func (n *Node) recoveryLoop(ctx context.Context) {
	for sleep(ctx, n.timing.Recovery) {
		if !n.registered.Load() {
			continue
		}
		img := n.Image()
		n.carryOut(img)
		resting := n.replicas.resting(img)
		n.ask(ctx, resting)
		if ctx.Err() == nil {
			n.settle(ctx, resting)
		}
	}
}

// inquiry is one partition with an unclean replica here.
type inquiry struct {
	r       *replica
	t       *meta.Topic
	p       *meta.Partition
	present []meta.Replica
	heard   map[uint64]stand
}

func newInquiry(img *meta.Image, r *replica, t *meta.Topic, p *meta.Partition) *inquiry {
	return &inquiry{r: r, t: t, p: p, present: present(img, p), heard: make(map[uint64]stand)}
}

// resting lists the local replicas that are unclean.
func (rs *replicas) resting(img *meta.Image) (out []*inquiry) {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	for _, r := range rs.byID {
		if r.unclean == nil || r.busy {
			continue
		}
		if t, p, ok := img.Lookup(r.key.topic, r.key.part); ok {
			out = append(out, newInquiry(img, r, t, p))
		}
	}
	return out
}

// ask asks the brokers of the partitions' replicas how these stand, one call per broker.
func (n *Node) ask(ctx context.Context, all []*inquiry) {
	type ask struct {
		ids []uint64
		of  []*inquiry
	}
	asks := make(map[int32]*ask)
	for _, q := range all {
		for _, r := range q.present {
			if asks[r.Node] == nil {
				asks[r.Node] = &ask{}
			}
			asks[r.Node].ids, asks[r.Node].of = append(asks[r.Node].ids, r.ID), append(asks[r.Node].of, q)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for node, a := range asks {
		wg.Go(func() {
			var payload []byte
			for _, id := range a.ids {
				payload = binary.AppendUvarint(payload, id)
			}
			b, err := n.standingsOf(ctx, node, payload)
			if err != nil {
				return
			}
			stands, err := decodeStands(b)
			if err != nil || len(stands) != len(a.ids) {
				n.log.Warn("Asking how replicas stand", "node", node, "err", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for i, s := range stands {
				a.of[i].heard[a.ids[i]] = s
			}
		})
	}
	wg.Wait()
}

func (n *Node) standingsOf(ctx context.Context, node int32, payload []byte) ([]byte, error) {
	if node == n.self {
		return n.answerStandings(payload)
	}
	ctx, cancel := context.WithTimeout(ctx, recoveryCall)
	defer cancel()
	return n.call(ctx, node, kindRecovery, payload)
}

// answerStandings says how local replicas stand.
func (n *Node) answerStandings(payload []byte) ([]byte, error) {
	var out []byte
	for r := (&reader{b: payload}); len(r.b) > 0; {
		id := r.uvarint()
		if r.bad {
			return nil, errMalformed
		}
		out = n.replicas.stand(id).encode(out)
	}
	return out, nil
}

func (rs *replicas) stand(id uint64) stand {
	rs.mu.RLock()
	r := rs.byID[id]
	if r == nil || r.busy {
		rs.mu.RUnlock()
		return stand{}
	}
	unclean := r.unclean
	rs.mu.RUnlock()
	if unclean != nil {
		return stand{state: standRests, Standing: *unclean}
	}
	p := r.partition()
	if p == nil {
		return stand{}
	}
	switch p.Status().State {
	case "leader":
		return stand{state: standLeads, Standing: p.Standing()}
	case "follower", "candidate":
		return stand{state: standRuns, Standing: p.Standing()}
	}
	return stand{}
}

// settle draws the conclusions, and says in each replica's error what is waited for.
func (n *Node) settle(ctx context.Context, asked []*inquiry) {
	slots := make(chan struct{}, proposalsOnce)
	var wg sync.WaitGroup
	for _, q := range asked {
		j := judge(q.present, q.heard)
		cmd, why := n.conclude(q, j)
		n.replicas.needsRecovery(q.r, why)
		if cmd == nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := n.propose(ctx, memberTimeout, cmd); err != nil && ctx.Err() == nil {
				n.log.Info("Bringing back a partition after a loss of power", "topic", q.t.Name, "partition", q.p.ID, "err", err)
			}
		})
	}
	wg.Wait()
}

// conclude says what this broker proposes for a partition, and what its replica waits for.
func (n *Node) conclude(q *inquiry, j judgement) (meta.Command, string) {
	if c := q.p.Recovery; c != nil {
		s := q.heard[c.Replica]
		if s.state == standUnheard || !s.end().Before(c.Last) {
			return nil, fmt.Sprintf("the partition goes on from the log of broker %d, which is not ready", c.Loss.Node)
		}
		// It lost more since it was chosen, and has not begun: to be chosen anew.
	}
	switch j.do {
	case recoveryReplace:
		if _, removing, _ := q.p.Find(q.r.self.ID); removing {
			return nil, "it is being removed"
		}
		return meta.ReplaceReplica{Topic: q.t.ID, Partition: q.p.ID, Epoch: q.p.Epoch, ID: q.r.self.ID},
			"a majority is whole, it is replaced"
	case recoveryElect:
		return nil, "the others are whole and elect a leader"
	case recoveryWait:
		return nil, waitsFor(j)
	}
	if n.topicConfig(q.t).Fsync {
		return nil, "too few replicas are whole, and the topic is not `replicated`: an operator decides, see `balsa partition recover`"
	}
	for id, s := range q.heard { // one proposes
		if s.state == standRests && id < q.r.self.ID {
			return nil, "too few replicas are whole, the best log is being chosen"
		}
	}
	return n.choice(q, j), "too few replicas are whole, the best log is being chosen"
}

func waitsFor(j judgement) string {
	if len(j.missing) == 0 {
		return "no replica has a log"
	}
	names := make([]string, len(j.missing))
	for i, r := range j.missing {
		names[i] = fmt.Sprint(r.Node)
	}
	return "too few replicas are whole, and the longest log may be on broker " + strings.Join(names, ", ") + ", which was not heard"
}

// choice is the command to go on from the best log.
func (n *Node) choice(q *inquiry, j judgement) meta.ChooseReplica {
	term := j.term
	if l, ok := n.leaders.get(partitionKey{q.t.ID, q.p.ID}); ok && l.epoch >= 0 {
		term = max(term, uint64(l.epoch)+1)
	}
	loss := j.loss
	loss.At = n.opt.Now().UnixMilli()
	return meta.ChooseReplica{Topic: q.t.ID, Partition: q.p.ID, Epoch: q.p.Epoch, ID: j.best.ID, Term: term, Last: j.last, Loss: loss}
}

// needsRecovery keeps what an unclean replica waits for.
func (rs *replicas) needsRecovery(r *replica, why string) {
	rs.mu.Lock()
	changed := r.unclean != nil && r.waits != why
	if changed {
		r.waits = why
		r.err = fmt.Errorf("%w: %w", ErrNeedsRecovery, &partition.Unclean{Standing: *r.unclean})
	}
	rs.mu.Unlock()
	if changed {
		rs.log.Warn("Replica rests after a loss of power", "topic", r.topic, "partition", r.key.part, "replica", raftAddress(r.self), "because", why)
	}
}

// carryOut starts the recovery of the local replicas that were chosen.
func (n *Node) carryOut(img *meta.Image) {
	rs := n.replicas
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.closed {
		return
	}
	for id, r := range rs.byID {
		t, p, ok := img.Lookup(r.key.topic, r.key.part)
		if !ok || p.Recovery == nil || p.Recovery.Replica != id || r.busy || r.refused == p.Recovery.Term || time.Now().Before(r.retryAt) {
			continue
		}
		r.busy = true
		cfg := rs.configLocked(t)
		rs.startLocked(func() { n.recoverReplica(r, p.Recovery, func() config.Topic { return *cfg.Load() }) })
	}
}

// recoverReplica makes a chosen replica the only voter of its group, and says so. Every step can be repeated; it is
// not started before the metadata has the end.
func (n *Node) recoverReplica(r *replica, c *meta.Recovery, cfg func() config.Topic) {
	log := n.log.With("topic", r.topic, "partition", r.key.part, "replica", raftAddress(r.self))
	err := func() error {
		if p := r.p.Swap(nil); p != nil { // it ran, without a majority
			if err := p.Close(); err != nil {
				return err
			}
		}
		fsys, done := n.opens.begin()
		defer done()
		if err := partition.Recover(n.partitionOptions(r, fsys, cfg), c.Term, c.Last.Term, c.Last.Index); err != nil {
			return err
		}
		return n.propose(n.ctx, memberTimeout, meta.FinishRecovery{
			Topic: r.key.topic, Partition: r.key.part, ID: c.Replica, Term: c.Term,
		})
	}()
	n.replicas.mu.Lock()
	r.busy = false
	switch {
	case err == nil:
		r.unclean, r.err, r.waits = nil, nil, ""
	case errors.Is(err, partition.ErrGoneOn): // it opens as what it is, and the choice is made anew
		r.refused = c.Term
	default:
		r.err, r.retryAt = err, time.Now().Add(replicaRetry)
	}
	n.replicas.mu.Unlock()
	if err == nil {
		log.Error("Data may be lost: the partition goes on from what this replica has", lossAttrs(&c.Loss)...)
	} else if n.ctx.Err() == nil {
		log.Error("Recovering a partition", "err", err)
	}
	n.reconcileSoon()
}

// lossAttrs says how much is lost, as far as that is known.
func lossAttrs(l *meta.Loss) []any {
	r := DescribeLoss(l)
	return []any{"from_offset", r.FromOffset, "known_lost", r.KnownLost, "at_most", r.AtMost, "replicas_not_heard", r.Unheard}
}

// losses counts the data-loss events that the metadata knows of.
func losses(img *meta.Image) (count uint64) {
	for _, t := range img.Topics {
		for i := range t.Partitions {
			count += uint64(t.Partitions[i].Losses)
		}
	}
	return count
}
