package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/internal/histogram"
)

func benchCommand() *cli.Command {
	return &cli.Command{
		Name: "bench", Usage: "load a cluster and measure it",
		Subcommands: []*cli.Command{benchProduceCommand(), benchConsumeCommand(), benchLatencyCommand()},
	}
}

// benchFlags are the flags of all three, before the command's own.
func benchFlags(own ...cli.Flag) []cli.Flag {
	return clientFlags(append([]cli.Flag{
		&cli.StringFlag{Name: "topic", Aliases: []string{"t"}, Value: "balsa-bench", Usage: "the topic"},
		&cli.DurationFlag{Name: "duration", Aliases: []string{"d"}, Usage: "stop after this time"},
		&cli.IntFlag{Name: "clients", Value: 1, Usage: "`N` clients, each with connections of its own"},
		outputFlag(),
	}, own...)...)
}

// loadFlags are those of the two that produce.
func loadFlags(own ...cli.Flag) []cli.Flag {
	return benchFlags(append(own,
		&cli.BoolFlag{Name: "create", Usage: "create the topic if it is not there"},
		&cli.BoolFlag{Name: "delete", Usage: "delete the topic at the end"},
		&cli.IntFlag{Name: "partitions", Aliases: []string{"p"}, Value: 16, Usage: "`N` partitions, with --create"},
		&cli.IntFlag{Name: "replication-factor", Aliases: []string{"r"}, Value: -1, DefaultText: "the broker's", Usage: "`N` replicas, with --create"},
		configFlag("`KEY=VALUE` of the topic, with --create"),
		&cli.IntFlag{Name: "record-size", Aliases: []string{"s"}, Value: 1024, Usage: "`BYTES` of a record's value"},
		&cli.StringFlag{Name: "payload", Value: "random", Usage: "random (does not compress) or text (compresses about 3:1)"},
		acksFlag(), compressionFlag("none"),
		&cli.IntFlag{Name: "batch-bytes", Value: 1 << 20, Usage: "the largest batch"},
	)...)
}

// latencySummary is a distribution for people and scripts. All in milliseconds.
type latencySummary struct {
	Mean  float64         `json:"mean_ms"`
	P50   float64         `json:"p50_ms"`
	P90   float64         `json:"p90_ms"`
	P99   float64         `json:"p99_ms"`
	P999  float64         `json:"p999_ms"`
	Max   float64         `json:"max_ms"`
	Count uint64          `json:"count"`
	Bins  []histogram.Bin `json:"bins,omitempty"`
}

func summaryOf(h *histogram.Histogram, bins bool) *latencySummary {
	if h.Count() == 0 {
		return nil
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	s := &latencySummary{
		Mean: ms(h.Mean()), P50: ms(h.Quantile(.5)), P90: ms(h.Quantile(.9)), P99: ms(h.Quantile(.99)),
		P999: ms(h.Quantile(.999)), Max: ms(h.Max()), Count: h.Count(),
	}
	if bins {
		s.Bins = h.Bins()
	}
	return s
}

// benchReport is the result of any of the three.
type benchReport struct {
	Kind          string          `json:"kind"`
	Loop          string          `json:"loop,omitempty"` // open: at a given rate; closed: as fast as answers come
	Topic         string          `json:"topic"`
	Clients       int             `json:"clients"`
	RecordSize    int             `json:"record_size,omitempty"`
	TargetRate    float64         `json:"target_rate,omitempty"`
	Seconds       float64         `json:"seconds"`
	Records       int64           `json:"records"`
	Bytes         int64           `json:"bytes"`
	RecordsPerSec float64         `json:"records_per_second"`
	MBPerSec      float64         `json:"mb_per_second"` // 1 MB = 1,000,000 bytes of values
	Failed        int64           `json:"failed"`
	FirstError    string          `json:"first_error,omitempty"`
	Ack           *latencySummary `json:"ack_latency,omitempty"`
	EndToEnd      *latencySummary `json:"end_to_end_latency,omitempty"`
	Poll          *latencySummary `json:"poll_latency,omitempty"`
}

func (r *benchReport) rates(elapsed time.Duration) {
	r.Seconds = elapsed.Seconds()
	r.RecordsPerSec = float64(r.Records) / r.Seconds
	r.MBPerSec = float64(r.Bytes) / 1e6 / r.Seconds
}

func (r *benchReport) print(c *cli.Context) error {
	if jsonOutput(c) {
		return printJSON(c.App.Writer, r)
	}
	fmt.Fprintf(c.App.Writer, "%d records, %s in %.2f s: %.0f records/s, %.1f MB/s", r.Records, bytesText(r.Bytes), r.Seconds, r.RecordsPerSec, r.MBPerSec)
	if r.Failed > 0 {
		fmt.Fprintf(c.App.Writer, "; %d failed (%s)", r.Failed, r.FirstError)
	}
	fmt.Fprintln(c.App.Writer)
	var rows [][]string
	for _, l := range []struct {
		name string
		s    *latencySummary
	}{{"acknowledged", r.Ack}, {"end to end", r.EndToEnd}, {"poll", r.Poll}} {
		if l.s != nil {
			row := []string{l.name}
			for _, v := range []float64{l.s.Mean, l.s.P50, l.s.P90, l.s.P99, l.s.P999, l.s.Max} {
				row = append(row, strconv.FormatFloat(v, 'f', 2, 64))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return printTable(c.App.Writer, []string{"LATENCY ms", "MEAN", "P50", "P90", "P99", "P99.9", "MAX"}, rows)
}

// benchSetup checks the common flags and makes the topic when asked; the returned function removes it when asked.
func benchSetup(c *cli.Context) (cleanup func(), err error) {
	if _, err := arguments(c, 0, 0, ""); err != nil {
		return nil, err
	}
	for _, name := range []string{"clients", "record-size", "batch-bytes"} {
		if c.Int(name) < 1 && c.Command.Name != "consume" {
			return nil, usageError{fmt.Sprintf("--%s must be at least 1", name)}
		}
	}
	configs := map[string]*string{}
	pairs, err := keyValues("config", c.StringSlice("config"))
	if err != nil {
		return nil, err
	}
	for _, kv := range pairs {
		configs[kv[0]] = new(kv[1])
	}
	if c.Bool("create") {
		err = withAdmin(c, func(ctx context.Context, adm *kadm.Client) error {
			answer, err := adm.CreateTopic(ctx, int32(c.Int("partitions")), int16(c.Int("replication-factor")), configs, c.String("topic"))
			if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
				return brokerError(c.String("topic"), err, answer.ErrMessage)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return func() {
		if c.Bool("delete") {
			err := withAdmin(c, func(ctx context.Context, adm *kadm.Client) error {
				_, err := adm.DeleteTopic(ctx, c.String("topic"))
				return err
			})
			if err != nil {
				fmt.Fprintf(c.App.ErrWriter, "balsa: topic %s was not deleted: %v\n", c.String("topic"), err)
			}
		}
	}, nil
}

// payloads cuts values out of one block of bytes, so that making them costs nothing.
type payloads struct {
	block []byte
	size  int
	next  int
}

func newPayloads(kind string, size int) (*payloads, error) {
	block := make([]byte, size+1<<20)
	switch kind {
	case "random":
		var seed [32]byte
		_, _ = rand.NewChaCha8(seed).Read(block)
	case "text":
		words := []string{"order", "payment", "customer", "2024-05-01", "status=ok", "warehouse", "balsa", "17", "4096", "retry"}
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same text in every run, on purpose
		block = block[:0]
		for len(block) < size+1<<20 {
			block = append(append(block, words[random.IntN(len(words))]...), ' ')
		}
	default:
		return nil, usageError{fmt.Sprintf("--payload is random or text, not %q", kind)}
	}
	return &payloads{block: block, size: size}, nil
}

func (p *payloads) value() []byte {
	v := p.block[p.next : p.next+p.size : p.next+p.size]
	p.next = (p.next + 61) % (len(p.block) - p.size + 1)
	return v
}

// benchClient connects one producer.
func benchClient(c *cli.Context, linger time.Duration, window int) (*kgo.Client, error) {
	opts, err := producerOptions(c.String("compression"), c.String("acks"))
	if err != nil {
		return nil, err
	}
	batch := int32(min(c.Int("batch-bytes"), 1<<30))
	opts = append(opts,
		kgo.DefaultProduceTopic(c.String("topic")), kgo.ProducerLinger(linger), kgo.ProducerBatchMaxBytes(batch),
		kgo.MaxBufferedRecords(window), kgo.MaxBufferedBytes(max(256<<20, 4*int(batch))),
		kgo.RecordPartitioner(kgo.UniformBytesPartitioner(int(batch), false, false, nil)),
		kgo.BrokerMaxWriteBytes(1<<30), kgo.RecordDeliveryTimeout(c.Duration("timeout")),
	)
	return connect(c, opts...)
}
