//go:build linux

package simulation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/integration/history"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol/record"
)

// Load is idempotent producers (acks=all) and readers on one topic. They do what a Kafka client does: ask any broker
// who leads, send there, and on every error but a verdict on the sequence ask and send again, the same batches under
// the same sequence numbers.
type Load struct {
	History *history.History
	Topic   *meta.Topic
	// Pace is the mean pause of a producer between two rounds of batches.
	Pace time.Duration

	c    *Cluster
	stop chan struct{} // producers send nothing new
	done chan struct{} // readers end
	send sync.WaitGroup
	read sync.WaitGroup

	mu   sync.Mutex
	bad  []string // answers that no client may get
	acks []int64  // acknowledged batches, by producer
}

const (
	maxWindow   = 5 // batches of a producer in flight: as many as Kafka's clients have
	appendLimit = 5 * time.Second
	answerLimit = appendLimit + time.Second
	maxBad      = 20
)

// StartLoad starts producers per partition, and a reader for each partition.
func (c *Cluster) StartLoad(topic *meta.Topic, producers int, pace time.Duration) *Load {
	l := &Load{History: history.New(), Topic: topic, Pace: pace, c: c, stop: make(chan struct{}), done: make(chan struct{})}
	for p := range topic.Partitions {
		for range producers {
			id := len(l.acks)
			l.acks = append(l.acks, 0)
			l.send.Go(func() { l.produce(id, int32(p)) })
		}
		l.read.Go(func() { l.follow(int32(p)) })
	}
	return l
}

// violation notes an answer that no client may get.
func (l *Load) violation(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.bad) < maxBad { // they come again with every retry
		l.bad = append(l.bad, fmt.Sprintf("%v: ", l.c.Now())+fmt.Sprintf(format, args...))
	}
}

// Violations are the answers that no client may get, and what the history shows so far.
func (l *Load) Violations() []string {
	l.mu.Lock()
	out := append([]string(nil), l.bad...)
	l.mu.Unlock()
	for _, v := range l.History.Violations() {
		out = append(out, v.String())
	}
	return out
}

// Acked returns how many batches of each producer were acknowledged.
func (l *Load) Acked() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int64(nil), l.acks...)
}

// batch is one batch until it is acknowledged.
type batch struct {
	bytes   record.Batch
	pending []history.Pending // of its records
}

// produce is the life of one producer. It ends when everything sent is acknowledged, or at the end of the load.
func (l *Load) produce(producer int, part int32) {
	id, ok := l.producerID()
	if !ok {
		return
	}
	var unacked []*batch
	seq := 0
	for {
		select {
		case <-l.stop:
			if len(unacked) == 0 {
				return
			}
		default:
			for n := 1 + l.c.intN(maxWindow); len(unacked) < n; {
				unacked = append(unacked, l.next(id, producer, part, &seq))
			}
		}
		acked := l.round(part, unacked)
		unacked = unacked[acked:]
		if acked > 0 {
			l.mu.Lock()
			l.acks[producer] += int64(acked)
			l.mu.Unlock()
		}
		pause := l.c.between(0, 2*l.Pace)
		if len(unacked) > 0 {
			pause = 100 * time.Millisecond
		}
		select {
		case <-time.After(pause):
		case <-l.done:
			return
		}
	}
}

// producerID is one that no other producer has; false at the end of the load.
func (l *Load) producerID() (int64, bool) {
	for {
		if n := l.c.any(); n != nil {
			ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
			first, count, err := n.ProducerIDs(ctx)
			cancel()
			if err == nil && count > 0 {
				return first, true
			}
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-l.done:
			return 0, false
		}
	}
}

// next makes a batch of a few records.
func (l *Load) next(id int64, producer int, part int32, seq *int) *batch {
	w := record.Builder{HasProducer: true, ProducerID: id, BaseSequence: int32(*seq)}
	b := &batch{}
	for range 1 + l.c.intN(3) {
		size := 64
		if l.c.intN(16) == 0 {
			size += l.c.intN(16 << 10)
		}
		b.pending = append(b.pending, l.History.Send(producer, *seq, part))
		w.Add(time.Now().UnixMilli(), nil, history.Value(producer, *seq, size))
		*seq++
	}
	b.bytes = w.Build()
	return b
}

// round sends the batches in order to the leader and waits for the answers. It returns how many of the first were
// acknowledged.
func (l *Load) round(part int32, batches []*batch) (acked int) {
	b, n, down, _ := l.c.leader(l.Topic.ID, part)
	if b == nil {
		return 0
	}
	p, ok := n.Partition(l.Topic.ID, part)
	if !ok {
		return 0
	}
	answers := make(chan partition.AppendResult, len(batches))
	var copies []record.Batch // what was sent belongs to the partition
	for _, x := range batches {
		copies = append(copies, append(record.Batch(nil), x.bytes...))
	}
	go func() { // the connection: it outlives the client's patience
		var waiting []*partition.Pending
		for _, x := range copies {
			b.paused.wait()
			waiting = append(waiting, p.Append(x, -1, appendLimit))
		}
		for _, w := range waiting {
			r := w.Result()
			b.paused.wait()
			answers <- r
		}
	}()
	patience := time.NewTimer(answerLimit)
	defer patience.Stop()
	for i, x := range batches {
		var r partition.AppendResult
		select {
		case <-down:
			return i
		case <-patience.C:
			return i
		case r = <-answers:
		}
		select {
		case <-down: // the answer did not get out
			return i
		default:
		}
		switch {
		case r.Err == nil:
			for k, pending := range x.pending {
				pending.OK(r.BaseOffset + int64(k))
			}
			continue
		case i > 0: // it follows from what became of the one before
		case errors.Is(r.Err, partition.ErrOutOfOrderSequence), errors.Is(r.Err, partition.ErrUnknownProducer),
			errors.Is(r.Err, partition.ErrProducerFenced), errors.Is(r.Err, partition.ErrDuplicateSequence):
			l.violation("broker %d answers partition %d: %v", b.ID, part, r.Err)
		}
		return i
	}
	return len(batches)
}

// leader asks some broker who leads a partition, as a client does that refreshes its metadata.
func (c *Cluster) leader(t meta.TopicID, part int32) (b *Broker, n *cluster.Node, down <-chan struct{}, epoch int32) {
	asked := c.any()
	if asked == nil {
		return nil, nil, nil, -1
	}
	l, ok := asked.Leader(t, part)
	if !ok || int(l.Node) > len(c.Brokers) {
		return nil, nil, nil, -1
	}
	b = c.Brokers[l.Node-1]
	if n, down = b.Node(); n == nil {
		return nil, nil, nil, -1
	}
	return b, n, down, l.Epoch
}

// follow reads a partition from its start, again and again from somewhere else.
func (l *Load) follow(part int32) {
	r := l.History.Consumer(fmt.Sprintf("reader of partition %d", part))
	next := int64(0)
	r.Assign(part, next)
	again := time.Now().Add(10 * time.Minute)
	for {
		select {
		case <-l.done:
			return
		default:
		}
		records, start, changed, down, err := l.fetch(part, next)
		if errors.Is(err, partition.ErrOffsetOutOfRange) {
			if start <= next {
				l.violation("partition %d: offset %d is out of range, and the log starts at %d", part, next, start)
			} else {
				next = start
				r.Assign(part, next)
				continue
			}
		}
		if len(records) > 0 {
			r.BeginPoll()
			for _, x := range records {
				r.Read(part, x.Offset, x.Value)
				next = x.Offset + 1
			}
			r.EndPoll()
			if time.Now().After(again) {
				next = int64(l.c.uint64() % uint64(next))
				r.Assign(part, next)
				again = time.Now().Add(10 * time.Minute)
			}
			continue
		}
		wait := 5 * time.Second
		if changed == nil || err != nil {
			wait = 250 * time.Millisecond
		}
		select {
		case <-changed:
		case <-down:
		case <-time.After(wait):
		case <-l.done:
			return
		}
	}
}

// fetch reads what is committed from an offset on, at the leader. start is where its log begins.
func (l *Load) fetch(part int32, offset int64) (records []history.Final, start int64, changed, down <-chan struct{}, err error) {
	b, n, down, epoch := l.c.leader(l.Topic.ID, part)
	if b == nil {
		return nil, 0, nil, nil, nil
	}
	p, ok := n.Partition(l.Topic.ID, part)
	if !ok {
		return nil, 0, nil, down, nil
	}
	b.paused.wait()
	changed = p.Changed()
	records, err = readAt(p, offset, epoch)
	start = p.LogStart()
	b.paused.wait()
	select {
	case <-down: // the answer did not get out
		return nil, 0, nil, down, nil
	default:
	}
	return records, start, changed, down, err
}

// deleteRecords moves the log start towards the high watermark by a part of what is between; start is -1 when no
// leader was found.
func (l *Load) deleteRecords(part int32, by float64) (start int64, err error) {
	b, p, err := l.c.leading(l.Topic.ID, part)
	if err != nil {
		return -1, err
	}
	start = p.LogStart() + int64(by*by*float64(p.HighWatermark()-p.LogStart()))
	pending := l.History.Delete("admin", part, start)
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	b.paused.wait()
	if _, err = p.DeleteRecords(ctx, start); err != nil {
		pending.Unknown()
	} else {
		pending.OK(-1)
	}
	return start, err
}

// readAt is a fetch of up to a megabyte.
func readAt(p *partition.Partition, offset int64, epoch int32) (out []history.Final, err error) {
	res, err := p.Read(partition.ReadRequest{Offset: offset, CurrentEpoch: epoch, LastFetchedEpoch: -1, MaxBytes: 1 << 20, MinOne: true})
	defer res.Release()
	if err != nil {
		return nil, err
	}
	for _, r := range res.Ranges {
		b := make([]byte, r.Len)
		if _, err := r.File.ReadAt(b, r.Pos); err != nil {
			return nil, err
		}
		for len(b) > 0 {
			batch, err := record.Check(b)
			if err != nil {
				return nil, fmt.Errorf("at offset %d: %w", offset, err)
			}
			err = record.ForEach(batch, record.Limits{}, func(x *record.Record) bool {
				if x.Offset >= offset && x.Offset < res.HighWatermark {
					out = append(out, history.Final{Offset: x.Offset, Value: append([]byte(nil), x.Value...)})
				}
				return true
			})
			if err != nil {
				return nil, err
			}
			b = b[len(batch):]
		}
	}
	return out, nil
}

// Finish ends the producers, which must get all that they sent acknowledged within limit, and the readers.
func (l *Load) Finish(limit time.Duration) error {
	close(l.stop)
	ended := make(chan struct{})
	go func() {
		l.send.Wait()
		close(ended)
	}()
	var err error
	select {
	case <-ended:
	case <-time.After(limit):
		err = fmt.Errorf("producers have unacknowledged batches %v after all faults ended", limit)
	}
	close(l.done)
	<-ended
	l.read.Wait()
	return err
}
