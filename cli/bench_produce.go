package cli

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/internal/histogram"
)

func benchProduceCommand() *cli.Command {
	return &cli.Command{
		Name: "produce", Usage: "measure writing",
		Description: "Without --rate the loop is closed: each client keeps up to --window records unacknowledged, and latency\n" +
			"includes the wait behind them. With --rate the loop is open: records are due at fixed times whatever the brokers\n" +
			"do, and latency counts from the time a record was due.\n\n" +
			"Examples:\n" +
			"  balsa bench produce --create --partitions 16 --record-size 100 --records 5000000\n" +
			"  balsa bench produce --create --rate 50000 --duration 30s --linger 1ms -o json",
		Flags: loadFlags(
			&cli.Int64Flag{Name: "records", Aliases: []string{"n"}, Value: 1_000_000, DefaultText: "1000000, without --duration", Usage: "stop after `N` records"},
			&cli.Float64Flag{Name: "rate", Usage: "`N` records per second from all clients together (open loop)"},
			&cli.DurationFlag{Name: "linger", Value: 5 * time.Millisecond, Usage: "how long a batch waits for more records"},
			&cli.IntFlag{Name: "window", Value: 100_000, Usage: "unacknowledged records per client"},
			&cli.BoolFlag{Name: "bins", Usage: "the whole distribution in the JSON"},
		),
		Action: benchProduce,
	}
}

// groupSize is how many records share one start time in the closed loop (and one closure).
const groupSize = 32

func benchProduce(c *cli.Context) error {
	cleanup, err := benchSetup(c)
	if err != nil {
		return err
	}
	defer cleanup()
	limit := c.Int64("records")
	if c.IsSet("duration") && !c.IsSet("records") {
		limit = 1 << 62
	}
	if limit < 1 || c.Float64("rate") < 0 || c.Int("window") < 1 {
		return usageError{"--records, --rate and --window must be positive"}
	}
	report := &benchReport{
		Kind: "produce", Loop: "closed", Topic: c.String("topic"), Clients: c.Int("clients"),
		RecordSize: c.Int("record-size"), TargetRate: c.Float64("rate"),
	}
	if report.TargetRate > 0 {
		report.Loop = "open"
	}
	loads := make([]*load, c.Int("clients"))
	for i := range loads {
		values, err := newPayloads(c.String("payload"), c.Int("record-size"))
		if err != nil {
			return err
		}
		client, err := benchClient(c, c.Duration("linger"), c.Int("window"))
		if err != nil {
			return err
		}
		defer client.Close()
		loads[i] = &load{client: client, values: values, limit: share(limit, i, len(loads)), rate: report.TargetRate / float64(len(loads))}
	}
	ctx := c.Context
	if d := c.Duration("duration"); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	start := time.Now()
	var running sync.WaitGroup
	for _, l := range loads {
		running.Go(func() { l.run(ctx, c.Context, start) })
	}
	running.Wait()
	elapsed := time.Since(start)
	var all histogram.Histogram
	for _, l := range loads {
		all.Merge(&l.latency)
		report.Records += l.acknowledged
		report.Failed += l.failed.Load()
		if l.firstError != nil && report.FirstError == "" {
			report.FirstError = l.firstError.Error()
		}
	}
	report.Bytes = report.Records * int64(report.RecordSize)
	report.Ack = summaryOf(&all, c.Bool("bins"))
	report.rates(elapsed)
	if err := report.print(c); err != nil {
		return err
	}
	switch {
	case report.Records == 0 && report.Failed > 0:
		return withCode(exitFailed, errors.New("no record was acknowledged"))
	case report.Failed > 0:
		return withCode(exitFailed, errors.New("some records failed"))
	case c.Context.Err() != nil:
		return context.Cause(c.Context)
	}
	return nil
}

// share splits n over parts as evenly as it goes.
func share(n int64, part, parts int) int64 {
	q, r := n/int64(parts), n%int64(parts)
	if int64(part) < r {
		return q + 1
	}
	return q
}

// load is one producing client. latency and acknowledged belong to the client's promises, which kgo runs one at a
// time, until run returns.
type load struct {
	client       *kgo.Client
	values       *payloads
	limit        int64
	rate         float64 // per second; 0: closed loop
	latency      histogram.Histogram
	acknowledged int64
	failed       atomic.Int64
	firstError   error
}

// maxFailures ends a client's run: a cluster that refuses everything needs no more questions.
const maxFailures = 1000

// run produces until the limit, the deadline of ctx, or too many failures, then waits for what is on its way (as long
// as parent lives).
func (l *load) run(ctx, parent context.Context, start time.Time) {
	if l.rate > 0 {
		l.open(ctx, start)
	} else {
		l.closed(ctx)
	}
	if err := l.client.Flush(parent); err != nil && l.firstError == nil {
		l.client.AbortBufferedRecords(context.Background()) //nolint:errcheck // the run is over, the records are counted as failed
	}
}

func (l *load) closed(ctx context.Context) {
	for sent := int64(0); sent < l.limit && ctx.Err() == nil && l.failed.Load() < maxFailures; {
		n := min(groupSize, l.limit-sent)
		l.send(int(n), time.Now())
		sent += n
	}
}

// open sends what is due, about every millisecond.
func (l *load) open(ctx context.Context, start time.Time) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	perRecord := float64(time.Second) / l.rate
	for sent := int64(0); sent < l.limit && l.failed.Load() < maxFailures; {
		due := min(int64(float64(time.Since(start))/perRecord), l.limit)
		for sent < due && ctx.Err() == nil {
			l.send(1, start.Add(time.Duration(float64(sent)*perRecord)))
			sent++
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// send produces n records whose latency counts from start. It blocks while the client's window is full.
func (l *load) send(n int, start time.Time) {
	records := make([]kgo.Record, n)
	promise := func(_ *kgo.Record, err error) {
		if err != nil {
			if l.failed.Add(1) == 1 {
				l.firstError = err
			}
			return
		}
		l.acknowledged++
		l.latency.Record(time.Since(start))
	}
	for i := range records {
		records[i].Value = l.values.value()
		l.client.Produce(context.Background(), &records[i], promise)
	}
}
