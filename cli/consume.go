package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"
)

func consumeCommand() *cli.Command {
	return &cli.Command{
		Name: "consume", Usage: "print the records of a topic", ArgsUsage: "TOPIC",
		Description: "Prints what is there and stops; --follow waits for more.\n\n" +
			"Examples:\n" +
			"  balsa consume orders\n" +
			"  balsa consume orders --follow --from end\n" +
			"  balsa consume orders --from @2024-05-01T12:00:00Z --count 10\n" +
			"  balsa consume orders --from @-15m --partition 0 --partition 3\n" +
			"  balsa consume orders --from -5 --format '%p:%o %k=%v\\n'      the last five of each partition\n\n" +
			"Format: %t topic, %p partition, %o offset, %k key, %v value, %d timestamp (%d{go[2006-01-02T15:04:05Z]}),\n" +
			"%h{%k=%v } headers, %K %V sizes, %e leader epoch, %% a percent sign, \\n \\t.",
		Flags: clientFlags(
			&cli.StringFlag{Name: "from", Aliases: []string{"offset"}, Value: "start", Usage: "start, end, an `OFFSET`, -N (the last N) or @TIME (RFC 3339, Unix milliseconds, or -15m)"},
			&cli.IntSliceFlag{Name: "partition", Aliases: []string{"p"}, Usage: "only partition `N`; may be given several times"},
			&cli.Int64Flag{Name: "count", Aliases: []string{"n"}, Usage: "stop after `N` records"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "wait for new records"},
			&cli.StringFlag{Name: "format", Value: `%v\n`, Usage: "how to print a record"},
			&cli.BoolFlag{Name: "read-committed", Usage: "leave out records of aborted or open transactions"},
			outputFlag(),
		),
		Action: consume,
	}
}

// startAt is a parsed --from.
type startAt struct {
	kind  byte // 's'tart, 'e'nd, 'o'ffset, 'l'ast, 't'ime
	value int64
}

func parseFrom(s string, now time.Time) (startAt, error) {
	bad := usageError{fmt.Sprintf("--from is start, end, OFFSET, -N or @TIME, not %q", s)}
	switch s {
	case "start", "oldest", "beginning", "earliest":
		return startAt{kind: 's'}, nil
	case "end", "newest", "latest":
		return startAt{kind: 'e'}, nil
	}
	if when, ok := strings.CutPrefix(s, "@"); ok {
		if ms, err := strconv.ParseInt(when, 10, 64); err == nil && ms >= 0 {
			return startAt{'t', ms}, nil
		}
		if d, err := time.ParseDuration(when); err == nil {
			return startAt{'t', now.Add(d).UnixMilli()}, nil
		}
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
			if t, err := time.Parse(layout, when); err == nil {
				return startAt{'t', t.UnixMilli()}, nil
			}
		}
		return startAt{}, bad
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return startAt{}, bad
	}
	if n < 0 {
		return startAt{'l', -n}, nil
	}
	return startAt{'o', n}, nil
}

func consume(c *cli.Context) error {
	args, err := arguments(c, 1, 1, "TOPIC")
	if err != nil {
		return err
	}
	from, err := parseFrom(c.String("from"), time.Now())
	if err != nil {
		return err
	}
	if c.IsSet("count") && c.Int64("count") <= 0 {
		return usageError{"--count must be at least 1"}
	}
	out := bufio.NewWriterSize(c.App.Writer, 64<<10)
	show, err := recordPrinter(c, out)
	if err != nil {
		return err
	}
	opts := []kgo.Opt{kgo.KeepControlRecords(), kgo.FetchMaxWait(500 * time.Millisecond), kgo.FetchMaxBytes(16 << 20)}
	if c.Bool("read-committed") {
		opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	cl, err := connect(c, opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	planCtx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	plan, err := planConsume(planCtx, kadm.NewClient(cl), args[0], from, c.IntSlice("partition"), c.Bool("follow"), c.Bool("read-committed"))
	cancel()
	if err != nil || len(plan.starts) == 0 {
		return err
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{args[0]: plan.starts})

	remaining := int64(-1)
	if c.IsSet("count") {
		remaining = c.Int64("count")
	}
	for {
		fetches := cl.PollFetches(c.Context)
		if err := c.Context.Err(); err != nil {
			if c.Bool("follow") {
				return nil // ending a --follow is how it is meant to end
			}
			return context.Cause(c.Context)
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.DeadlineExceeded) && !kerr.IsRetriable(e.Err) {
				return brokerError(fmt.Sprintf("%s/%d", e.Topic, e.Partition), e.Err, "")
			}
		}
		var writeErr error
		fetches.EachRecord(func(r *kgo.Record) {
			if plan.passed(r.Partition, r.Offset) || remaining == 0 || writeErr != nil {
				return
			}
			if !r.Attrs.IsControl() {
				writeErr = show(r)
				remaining--
			}
			plan.seen(r.Partition, r.Offset)
		})
		if err := errors.Join(writeErr, out.Flush()); err != nil {
			return err
		}
		if remaining == 0 || (!c.Bool("follow") && plan.complete()) {
			return nil
		}
	}
}

// consumePlan says where each partition starts and, without --follow, where it ends.
type consumePlan struct {
	starts map[int32]kgo.Offset
	ends   map[int32]int64 // nil: no end
}

func (p *consumePlan) passed(partition int32, offset int64) bool {
	if p.ends == nil {
		return false
	}
	end, open := p.ends[partition]
	return !open || offset >= end
}

func (p *consumePlan) seen(partition int32, offset int64) {
	if p.ends != nil && offset+1 >= p.ends[partition] {
		delete(p.ends, partition)
	}
}

func (p *consumePlan) complete() bool { return len(p.ends) == 0 }

func planConsume(ctx context.Context, adm *kadm.Client, topic string, from startAt, only []int, follow, committed bool) (*consumePlan, error) {
	starts, err := adm.ListStartOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	list := adm.ListEndOffsets
	if committed {
		list = adm.ListCommittedOffsets
	}
	ends, err := list(ctx, topic)
	if err != nil {
		return nil, err
	}
	var at kadm.ListedOffsets
	if from.kind == 't' {
		if at, err = adm.ListOffsetsAfterMilli(ctx, from.value, topic); err != nil {
			return nil, err
		}
	}
	for _, listed := range []kadm.ListedOffsets{starts, ends, at} {
		for p, o := range listed[topic] {
			if o.Err != nil {
				name := topic
				if p >= 0 {
					name = fmt.Sprintf("%s/%d", topic, p)
				}
				return nil, brokerError(name, o.Err, "")
			}
		}
	}
	plan := &consumePlan{starts: map[int32]kgo.Offset{}, ends: map[int32]int64{}}
	wanted := map[int32]bool{}
	for _, p := range only {
		if _, ok := starts[topic][int32(p)]; !ok {
			return nil, withCode(exitNotFound, fmt.Errorf("%s has no partition %d", topic, p))
		}
		wanted[int32(p)] = true
	}
	for p, first := range starts[topic] {
		if len(only) > 0 && !wanted[p] {
			continue
		}
		start, end := first.Offset, ends[topic][p].Offset
		switch from.kind {
		case 'e':
			start = end
		case 'o':
			start = max(start, from.value)
		case 'l':
			start = max(start, end-from.value)
		case 't':
			start = at[topic][p].Offset
		}
		if !follow && start >= end {
			continue // nothing there
		}
		plan.starts[p] = kgo.NewOffset().At(start)
		plan.ends[p] = end
	}
	if follow {
		plan.ends = nil
	}
	return plan, nil
}

// recordPrinter prints records by --format, or with -o json one object per line.
func recordPrinter(c *cli.Context, out *bufio.Writer) (func(*kgo.Record) error, error) {
	if jsonOutput(c) {
		e := json.NewEncoder(out)
		e.SetEscapeHTML(false)
		return func(r *kgo.Record) error { return e.Encode(jsonRecord(r)) }, nil
	}
	format, err := kgo.NewRecordFormatter(c.String("format"))
	if err != nil {
		return nil, usageError{fmt.Sprintf("--format: %v", err)}
	}
	var buf []byte
	return func(r *kgo.Record) error {
		buf = format.AppendRecord(buf[:0], r)
		_, err := out.Write(buf)
		return err
	}, nil
}

// A record as JSON: text where it is UTF-8, else base64 under key_base64 and value_base64; null stays null.
func jsonRecord(r *kgo.Record) map[string]any {
	m := map[string]any{
		"topic": r.Topic, "partition": r.Partition, "offset": r.Offset, "leader_epoch": r.LeaderEpoch,
		"timestamp": r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z"),
	}
	put := func(name string, b []byte) {
		switch {
		case b == nil:
			m[name] = nil
		case utf8.Valid(b):
			m[name] = string(b)
		default:
			m[name+"_base64"] = b
		}
	}
	put("key", r.Key)
	put("value", r.Value)
	if len(r.Headers) > 0 {
		headers := make([]map[string]any, 0, len(r.Headers))
		for _, h := range r.Headers {
			v := map[string]any{"key": h.Key, "value": string(h.Value)}
			if !utf8.Valid(h.Value) {
				v = map[string]any{"key": h.Key, "value_base64": h.Value}
			}
			headers = append(headers, v)
		}
		m["headers"] = headers
	}
	return m
}
