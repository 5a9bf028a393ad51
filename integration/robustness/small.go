//go:build robustness

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/balsa-broker/balsa/integration/history"
	"github.com/balsa-broker/balsa/protocol/record"
)

// small is a slow load on one partition, small enough to be checked for linearizability: three producers that wait for
// each record, one whose records are damaged and must be refused, a reader, and somebody who asks for the end.
type small struct {
	topic string
	h     *history.History
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// smallSends bounds what each producer sends in a round.
const smallSends = 100

func (e *environment) startSmall(topic string) (*small, error) {
	if err := e.createTopic(topic, 1); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(e.ctx)
	s := &small{topic: topic, h: history.New(), stop: cancel}
	for i := range 3 {
		cl, err := e.c.Client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
		if err != nil {
			return s, err
		}
		s.wg.Go(func() { defer cl.Close(); s.produce(ctx, cl, i) })
	}
	vandal, err := e.c.Client(kgo.MaxVersions(kversion.V3_0_0())) // topics by name
	if err != nil {
		return s, err
	}
	s.wg.Go(func() { defer vandal.Close(); s.damage(ctx, vandal) })
	reader, err := e.c.Client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0)}}), kgo.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		return s, err
	}
	s.wg.Go(func() { defer reader.Close(); s.read(ctx, reader) })
	admin, err := e.c.Client()
	if err != nil {
		return s, err
	}
	s.wg.Go(func() { defer admin.Close(); s.ask(ctx, kadm.NewClient(admin)) })
	return s, nil
}

func (s *small) produce(ctx context.Context, cl *kgo.Client, producer int) {
	for seq := range smallSends {
		if ctx.Err() != nil {
			return
		}
		sent := s.h.Send(producer, seq, 0)
		r, err := cl.ProduceSync(ctx, &kgo.Record{Value: history.Value(producer, seq, 30)}).First()
		if err != nil { // also the last one, which is cancelled
			sent.Unknown()
			return
		}
		sent.OK(r.Offset)
		pause(ctx, 50*time.Millisecond)
	}
}

// damage sends batches with a wrong checksum. Whatever the answer is, they must never be there.
func (s *small) damage(ctx context.Context, cl *kgo.Client) {
	const producer = 9
	for seq := range smallSends {
		if ctx.Err() != nil {
			return
		}
		var b record.Builder
		b.Add(time.Now().UnixMilli(), nil, history.Value(producer, seq, 30))
		batch := b.Build()
		batch[len(batch)-1] ^= 1
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 1000
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Records = batch
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic, rt.Partitions = s.topic, append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		sent := s.h.Send(producer, seq, 0)
		_, _ = req.RequestWith(ctx, cl)
		sent.Failed()
		pause(ctx, 100*time.Millisecond)
	}
}

func (s *small) read(ctx context.Context, cl *kgo.Client) {
	c := s.h.Consumer("reader")
	c.Assign(0, 0)
	for ctx.Err() == nil {
		c.BeginPoll()
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { c.Read(r.Partition, r.Offset, r.Value) })
		c.EndPoll()
	}
}

func (s *small) ask(ctx context.Context, admin *kadm.Client) {
	for ctx.Err() == nil {
		asked := s.h.End("admin", 0)
		ends, err := admin.ListEndOffsets(ctx, s.topic)
		if err == nil {
			err = ends.Error()
		}
		if end, ok := ends.Lookup(s.topic, 0); err == nil && ok {
			asked.OK(end.Offset)
		} else {
			asked.Failed()
		}
		pause(ctx, 100*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// check ends the load and, when look is set, checks its history.
func (s *small) check(e *environment, look bool) error {
	s.stop()
	s.wg.Wait()
	if !look {
		return nil
	}
	final, err := e.c.ReadAll(e.timeout(stuckWrites), s.topic, 1)
	if err != nil {
		return violated(err, "what was acknowledged cannot be read")
	}
	e.sum.Operations += s.h.Operations()
	e.sum.Acked += s.h.Count()
	v, err := s.h.Linearizable(0, 20*time.Second)
	switch {
	case errors.Is(err, history.ErrUndecided):
		e.sum.Undecided++
	case err != nil:
		return err
	default:
		e.sum.Linear++
	}
	found := s.h.Check(final)
	if v != nil {
		found = append(found, *v)
	}
	if len(found) == 0 {
		return nil
	}
	out := &violation{what: fmt.Sprintf("%d violations in the history of %s", len(found), s.topic)}
	for _, f := range found {
		out.proof = append(out.proof, f.String())
	}
	return out
}
