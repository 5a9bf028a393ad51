package cli

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/internal/histogram"
)

func benchConsumeCommand() *cli.Command {
	return &cli.Command{
		Name: "consume", Usage: "measure reading what is in a topic",
		Description: "Reads from the start to the end that is there when the run begins. The partitions are shared out over the clients.\n\n" +
			"Examples:\n" +
			"  balsa bench consume --topic balsa-bench --clients 2\n" +
			"  balsa bench consume --topic orders --records 1000000 -o json",
		Flags: benchFlags(
			&cli.Int64Flag{Name: "records", Aliases: []string{"n"}, DefaultText: "all", Usage: "stop after `N` records"},
			&cli.IntFlag{Name: "fetch-bytes", Value: 50 << 20, Usage: "the largest answer"},
		),
		Action: benchConsume,
	}
}

func benchConsume(c *cli.Context) error {
	if _, err := benchSetup(c); err != nil {
		return err
	}
	topic := c.String("topic")
	clients := make([]*kgo.Client, c.Int("clients"))
	if len(clients) == 0 {
		return usageError{"--clients must be at least 1"}
	}
	for i := range clients {
		client, err := connect(c, kgo.FetchMaxBytes(int32(min(c.Int("fetch-bytes"), 1<<30))), kgo.FetchMaxPartitionBytes(8<<20), kgo.KeepControlRecords())
		if err != nil {
			return err
		}
		defer client.Close()
		clients[i] = client
	}
	planCtx, cancelPlan := context.WithTimeout(c.Context, c.Duration("timeout"))
	plan, err := planConsume(planCtx, kadm.NewClient(clients[0]), topic, startAt{kind: 's'}, nil, false, false)
	cancelPlan()
	if err != nil {
		return err
	}
	if len(plan.starts) == 0 {
		return withCode(exitFailed, fmt.Errorf("%s has no records", topic))
	}
	plans := make([]*consumePlan, len(clients))
	for i := range plans {
		plans[i] = &consumePlan{starts: map[int32]kgo.Offset{}, ends: map[int32]int64{}}
	}
	for i, p := range sortedKeys(plan.starts) {
		plans[i%len(plans)].starts[p], plans[i%len(plans)].ends[p] = plan.starts[p], plan.ends[p]
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	if d := c.Duration("duration"); d > 0 {
		ctx, cancel = context.WithTimeout(c.Context, d)
		defer cancel()
	}
	var records, bytes atomic.Int64
	polls := make([]histogram.Histogram, len(clients))
	failures := make([]error, len(clients))
	start := time.Now()
	var running sync.WaitGroup
	for i, client := range clients {
		if len(plans[i].starts) == 0 {
			continue
		}
		client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: plans[i].starts})
		running.Go(func() {
			for !plans[i].complete() && ctx.Err() == nil {
				before := time.Now()
				fetches := client.PollFetches(ctx)
				polls[i].Record(time.Since(before))
				for _, e := range fetches.Errors() {
					if ctx.Err() == nil {
						failures[i] = brokerError(topic, e.Err, "")
						return
					}
				}
				var n, b int64
				fetches.EachRecord(func(r *kgo.Record) {
					if !plans[i].passed(r.Partition, r.Offset) {
						n, b = n+1, b+int64(len(r.Key)+len(r.Value))
						plans[i].seen(r.Partition, r.Offset)
					}
				})
				bytes.Add(b)
				if total := records.Add(n); c.Int64("records") > 0 && total >= c.Int64("records") {
					cancel()
				}
			}
		})
	}
	running.Wait()
	elapsed := time.Since(start)
	var all histogram.Histogram
	for i := range polls {
		all.Merge(&polls[i])
	}
	report := &benchReport{
		Kind: "consume", Topic: topic, Clients: len(clients), Records: records.Load(), Bytes: bytes.Load(), Poll: summaryOf(&all, false),
	}
	report.rates(elapsed)
	if err := report.print(c); err != nil {
		return err
	}
	if c.Context.Err() != nil {
		return context.Cause(c.Context)
	}
	return errors.Join(failures...)
}

func benchLatencyCommand() *cli.Command {
	return &cli.Command{
		Name: "latency", Usage: "measure the way of a record from producer to consumer",
		Description: "Records are due at fixed times (open loop), one batch each as far as the client allows; latency counts from the\n" +
			"time a record was due, to its acknowledgement and to its arrival at a consumer that follows the topic.\n\n" +
			"Examples:\n" +
			"  balsa bench latency --create --rate 1000 --duration 10s\n" +
			"  balsa bench latency --create --rate 200 --record-size 100 --partitions 1 -o json",
		Flags: loadFlags(
			&cli.Float64Flag{Name: "rate", Value: 1000, Usage: "`N` records per second"},
			&cli.DurationFlag{Name: "linger", Usage: "how long a batch waits for more records"},
			&cli.BoolFlag{Name: "bins", Usage: "the whole distribution in the JSON"},
		),
		Action: benchLatency,
	}
}

// The value of a record of bench latency begins with the time it was due: nanoseconds since the run's start, 8 bytes,
// big endian.
const dueBytes = 8

func benchLatency(c *cli.Context) error {
	cleanup, err := benchSetup(c)
	if err != nil {
		return err
	}
	defer cleanup()
	size, rate := max(c.Int("record-size"), dueBytes), c.Float64("rate")
	duration := c.Duration("duration")
	if duration <= 0 {
		duration = 10 * time.Second
	}
	if rate <= 0 {
		return usageError{"--rate must be positive"}
	}
	values, err := newPayloads(c.String("payload"), size)
	if err != nil {
		return err
	}
	producer, err := benchClient(c, c.Duration("linger"), 100_000)
	if err != nil {
		return err
	}
	defer producer.Close()
	consumer, err := connect(c, kgo.FetchMaxWait(5*time.Second))
	if err != nil {
		return err
	}
	defer consumer.Close()
	topic := c.String("topic")
	planCtx, cancelPlan := context.WithTimeout(c.Context, c.Duration("timeout"))
	plan, err := planConsume(planCtx, kadm.NewClient(consumer), topic, startAt{kind: 'e'}, nil, true, false)
	cancelPlan()
	if err != nil {
		return err
	}
	consumer.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: plan.starts})

	var ack, end histogram.Histogram
	var acknowledged, failed atomic.Int64
	var firstError error
	start := time.Now()
	ctx, cancel := context.WithTimeout(c.Context, duration)
	defer cancel()
	consumeCtx, stopConsuming := context.WithCancel(c.Context)
	defer stopConsuming()
	var received atomic.Int64
	polled, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for consumeCtx.Err() == nil {
			consumer.PollFetches(consumeCtx).EachRecord(func(r *kgo.Record) {
				if len(r.Value) >= dueBytes {
					end.Record(time.Since(start) - time.Duration(binary.BigEndian.Uint64(r.Value)))
					received.Add(1)
				}
			})
			select {
			case polled <- struct{}{}:
			default:
			}
		}
	}()
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	perRecord := float64(time.Second) / rate
	for sent := int64(0); ctx.Err() == nil && failed.Load() < maxFailures; {
		for due := int64(float64(time.Since(start)) / perRecord); sent < due; sent++ {
			dueAt := time.Duration(float64(sent) * perRecord)
			value := append([]byte(nil), values.value()...)
			binary.BigEndian.PutUint64(value, uint64(dueAt))
			producer.Produce(context.Background(), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					if failed.Add(1) == 1 {
						firstError = err
					}
					return
				}
				acknowledged.Add(1)
				ack.Record(time.Since(start) - dueAt)
			})
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	if err := producer.Flush(c.Context); err != nil {
		return context.Cause(c.Context)
	}
	elapsed := time.Since(start)
	late := time.After(c.Duration("timeout"))
	for waiting := true; waiting && received.Load() < acknowledged.Load(); {
		select {
		case <-polled:
		case <-late:
			waiting = false
		case <-c.Context.Done():
			waiting = false
		}
	}
	stopConsuming()
	<-ended
	report := &benchReport{
		Kind: "latency", Loop: "open", Topic: topic, Clients: 1, RecordSize: size, TargetRate: rate,
		Records: acknowledged.Load(), Bytes: acknowledged.Load() * int64(size), Failed: failed.Load(),
		Ack: summaryOf(&ack, c.Bool("bins")), EndToEnd: summaryOf(&end, c.Bool("bins")),
	}
	if firstError != nil {
		report.FirstError = firstError.Error()
	}
	report.rates(elapsed)
	if err := report.print(c); err != nil {
		return err
	}
	if failed.Load() > 0 {
		return withCode(exitFailed, errors.New("some records failed"))
	}
	if lost := acknowledged.Load() - received.Load(); lost > 0 {
		return withCode(exitFailed, fmt.Errorf("%d of %d acknowledged records did not arrive", lost, acknowledged.Load()))
	}
	return nil
}
