package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"
)

func produceCommand() *cli.Command {
	return &cli.Command{
		Name: "produce", Usage: "send the lines of standard input to a topic", ArgsUsage: "TOPIC",
		Description: "Examples:\n" +
			"  echo hello | balsa produce greetings\n" +
			"  balsa produce orders --key-separator : --header source=shop < orders.txt\n" +
			"  balsa produce logs --compression zstd --partition 0 < big.log\n" +
			"With --null an empty value is sent as null (a tombstone): printf 'k:\\n' | balsa produce t --key-separator : --null",
		Flags: clientFlags(
			&cli.StringFlag{Name: "key-separator", Aliases: []string{"K"}, Usage: "what stands between key and value on a line"},
			&cli.IntFlag{Name: "partition", Aliases: []string{"p"}, Value: -1, DefaultText: "by key, else sticky", Usage: "send all to partition `N`"},
			&cli.StringSliceFlag{Name: "header", Aliases: []string{"H"}, Usage: "`KEY=VALUE` on every record; may be given several times"},
			compressionFlag("none"), acksFlag(),
			&cli.BoolFlag{Name: "null", Aliases: []string{"Z"}, Usage: "an empty value is null (a tombstone)"},
			&cli.IntFlag{Name: "max-line-bytes", Value: 64 << 20, Usage: "a longer line is an error"},
			outputFlag(),
		),
		Action: produce,
	}
}

func compressionFlag(value string) cli.Flag {
	return &cli.StringFlag{Name: "compression", Aliases: []string{"z"}, Value: value, Usage: "none, gzip, snappy, lz4 or zstd"}
}

func acksFlag() cli.Flag {
	return &cli.StringFlag{Name: "acks", Value: "all", Usage: "all, 1 (the leader) or 0 (none)"}
}

// producerOptions turns --compression and --acks into the client's options.
func producerOptions(compression, acks string) ([]kgo.Opt, error) {
	var codec kgo.CompressionCodec
	switch compression {
	case "none", "uncompressed", "":
		codec = kgo.NoCompression()
	case "gzip":
		codec = kgo.GzipCompression()
	case "snappy":
		codec = kgo.SnappyCompression()
	case "lz4":
		codec = kgo.Lz4Compression()
	case "zstd":
		codec = kgo.ZstdCompression()
	default:
		return nil, usageError{fmt.Sprintf("--compression is none, gzip, snappy, lz4 or zstd, not %q", compression)}
	}
	opts := []kgo.Opt{kgo.ProducerBatchCompression(codec)}
	switch acks {
	case "all", "-1":
	case "1", "leader":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0", "none":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, usageError{fmt.Sprintf("--acks is all, 1 or 0, not %q", acks)}
	}
	return opts, nil
}

func produce(c *cli.Context) error {
	args, err := arguments(c, 1, 1, "TOPIC")
	if err != nil {
		return err
	}
	opts, err := producerOptions(c.String("compression"), c.String("acks"))
	if err != nil {
		return err
	}
	headers, err := keyValues("header", c.StringSlice("header"))
	if err != nil {
		return err
	}
	template := kgo.Record{Topic: args[0], Partition: int32(c.Int("partition"))}
	for _, h := range headers {
		template.Headers = append(template.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	if template.Partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	opts = append(opts,
		kgo.AllowAutoTopicCreation(), kgo.RecordDeliveryTimeout(c.Duration("timeout")),
		kgo.MaxBufferedBytes(64<<20), kgo.ProducerLinger(5*time.Millisecond), kgo.UnknownTopicRetries(20),
		kgo.ProducerBatchMaxBytes(int32(min(max(c.Int("max-line-bytes")+1<<10, 1<<20), 1<<30))),
		kgo.BrokerMaxWriteBytes(1<<30),
	)
	cl, err := connect(c, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()

	p := &lineProducer{client: cl, template: template, separator: []byte(c.String("key-separator")), null: c.Bool("null")}
	stop := p.progress(c.App.ErrWriter)
	err = p.run(c.Context, bufio.NewReaderSize(c.App.Reader, 256<<10), c.Int("max-line-bytes"))
	stop()
	if err != nil {
		return fmt.Errorf("%w (%s acknowledged)", err, plural(int(p.acknowledged.Load()), "record"))
	}
	if jsonOutput(c) {
		return printJSON(c.App.Writer, map[string]any{"topic": args[0], "records": p.acknowledged.Load(), "bytes": p.bytes.Load()})
	}
	fmt.Fprintf(c.App.ErrWriter, "%s to %s\n", plural(int(p.acknowledged.Load()), "record"), args[0])
	return nil
}

type lineProducer struct {
	client       *kgo.Client
	template     kgo.Record
	separator    []byte
	null         bool
	acknowledged atomic.Int64
	bytes        atomic.Int64
	firstError   error
	once         sync.Once
}

// run sends every line and waits for the acknowledgements; it stops reading at the first record that fails.
func (p *lineProducer) run(ctx context.Context, in *bufio.Reader, maxLine int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for number := 1; ctx.Err() == nil; number++ {
		line, err := readLine(in, maxLine)
		if err != nil && !errors.Is(err, io.EOF) {
			_ = p.client.Flush(ctx)
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err != nil {
			break
		}
		record := p.record(line)
		p.client.Produce(ctx, record, func(r *kgo.Record, err error) {
			if err != nil {
				p.once.Do(func() { p.firstError = err; cancel(err) })
				return
			}
			p.acknowledged.Add(1)
			p.bytes.Add(int64(len(r.Key) + len(r.Value)))
		})
	}
	flushErr := p.client.Flush(ctx)
	p.once.Do(func() {}) // from here on firstError is settled
	if p.firstError != nil {
		return brokerError(p.template.Topic, p.firstError, "")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return flushErr
}

func (p *lineProducer) record(line []byte) *kgo.Record {
	r := p.template
	r.Value = line
	if len(p.separator) > 0 {
		if key, value, ok := bytes.Cut(line, p.separator); ok {
			r.Key, r.Value = key, value
		}
	}
	if p.null && len(r.Value) == 0 {
		r.Value = nil
	}
	return &r
}

// readLine returns the next line without its end (\n or \r\n), in memory of its own; the last line needs no end.
func readLine(in *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > limit+2 {
			return nil, fmt.Errorf("longer than --max-line-bytes %d", limit)
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(line) > 0, err == nil:
			line = bytes.TrimSuffix(line, []byte("\n"))
			return bytes.TrimSuffix(line, []byte("\r")), nil
		default:
			return nil, err
		}
	}
}

// progress prints a line every second once the input has taken longer than two; the returned function ends it.
func (p *lineProducer) progress(w io.Writer) func() {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		start, tick := time.Now(), time.NewTicker(time.Second)
		defer tick.Stop()
		shown := false
		for {
			select {
			case <-tick.C:
				if elapsed := time.Since(start); elapsed >= 2*time.Second {
					n := p.acknowledged.Load()
					fmt.Fprintf(w, "\r%d records, %s, %.0f records/s   ", n, bytesText(p.bytes.Load()), float64(n)/elapsed.Seconds())
					shown = true
				}
			case <-done:
				if shown {
					fmt.Fprintf(w, "\r%s\r", strings.Repeat(" ", 60))
				}
				return
			}
		}
	}()
	return func() { close(done); <-stopped }
}
