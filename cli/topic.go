package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/urfave/cli/v2"
)

func topicCommand() *cli.Command {
	return &cli.Command{
		Name: "topic", Usage: "create, list, describe, alter and delete topics",
		Subcommands: []*cli.Command{topicCreateCommand(), topicListCommand(), topicDescribeCommand(), topicAlterCommand(), topicDeleteCommand()},
	}
}

func configFlag(usage string) cli.Flag {
	return &cli.StringSliceFlag{Name: "config", Aliases: []string{"c"}, Usage: usage}
}

// keyValues reads k=v flags in the order given.
func keyValues(flag string, values []string) ([][2]string, error) {
	var out [][2]string
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return nil, usageError{fmt.Sprintf("--%s wants KEY=VALUE, got %q", flag, v)}
		}
		out = append(out, [2]string{key, value})
	}
	return out, nil
}

func topicCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "create topics", ArgsUsage: "TOPIC...",
		Description: "Examples:\n" +
			"  balsa topic create orders\n" +
			"  balsa topic create orders -p 12 -r 3 -c retention.ms=86400000 -c min.insync.replicas=2\n" +
			"  balsa topic create orders --if-not-exists      exits 0 if the topic is there already\n" +
			"Without -p and -r the broker's num.partitions and default.replication.factor decide.",
		Flags: clientFlags(
			&cli.IntFlag{Name: "partitions", Aliases: []string{"p"}, Value: -1, DefaultText: "the broker's", Usage: "`N` partitions"},
			&cli.IntFlag{Name: "replication-factor", Aliases: []string{"r"}, Value: -1, DefaultText: "the broker's", Usage: "`N` replicas of each partition"},
			configFlag("`KEY=VALUE` of the topic's configuration; may be given several times"),
			&cli.BoolFlag{Name: "if-not-exists", Usage: "a topic that is there already is not an error"},
			&cli.BoolFlag{Name: "validate-only", Usage: "check the request, create nothing"},
			outputFlag(),
		),
		Action: topicCreate,
	}
}

func topicCreate(c *cli.Context) error {
	topics, err := arguments(c, 1, -1, "TOPIC")
	if err != nil {
		return err
	}
	pairs, err := keyValues("config", c.StringSlice("config"))
	if err != nil {
		return err
	}
	configs := map[string]*string{}
	for _, kv := range pairs {
		configs[kv[0]] = new(kv[1])
	}
	partitions, factor := c.Int("partitions"), c.Int("replication-factor")
	if partitions == 0 || partitions < -1 || partitions > 1<<20 {
		return usageError{fmt.Sprintf("--partitions: %d is not a number of partitions", partitions)}
	}
	if factor == 0 || factor < -1 || factor > 1<<10 {
		return usageError{fmt.Sprintf("--replication-factor: %d is not a number of replicas", factor)}
	}
	return withAdmin(c, func(ctx context.Context, adm *kadm.Client) error {
		create := adm.CreateTopics
		if c.Bool("validate-only") {
			create = adm.ValidateCreateTopics
		}
		answers, err := create(ctx, int32(partitions), int16(factor), configs, topics...)
		if err != nil {
			return err
		}
		type result struct {
			Topic      string `json:"topic"`
			ID         string `json:"id,omitempty"`
			Partitions int32  `json:"partitions,omitempty"`
			Factor     int16  `json:"replication_factor,omitempty"`
			Status     string `json:"status"`
		}
		results := []result{}
		var failures []error
		for _, name := range topics {
			a, ok := answers[name]
			r := result{Topic: name, Partitions: a.NumPartitions, Factor: a.ReplicationFactor, Status: "created"}
			switch {
			case !ok:
				continue
			case errors.Is(a.Err, kerr.TopicAlreadyExists) && c.Bool("if-not-exists"):
				r.Status, r.Partitions, r.Factor = "exists", 0, 0
			case a.Err != nil:
				failures = append(failures, brokerError(name, a.Err, a.ErrMessage))
				continue
			case c.Bool("validate-only"):
				r.Status = "valid"
			default:
				r.ID = topicID(a.ID)
			}
			results = append(results, r)
		}
		if jsonOutput(c) {
			if err := printJSON(c.App.Writer, results); err != nil {
				return err
			}
			return errors.Join(failures...)
		}
		for _, r := range results {
			switch {
			case r.Partitions > 0:
				fmt.Fprintf(c.App.Writer, "%s: %s, %s, replication factor %d\n", r.Topic, r.Status, plural(int(r.Partitions), "partition"), r.Factor)
			default:
				fmt.Fprintf(c.App.Writer, "%s: %s\n", r.Topic, r.Status)
			}
		}
		return errors.Join(failures...)
	})
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

func topicListCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Aliases: []string{"ls"}, Usage: "list topics", ArgsUsage: "[TOPIC...]",
		Description: "Examples:\n" +
			"  balsa topic list\n" +
			"  balsa topic list -o json --brokers broker-1:9092,broker-2:9092",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "internal", Usage: "also the brokers' own topics"},
			outputFlag(),
		),
		Action: func(c *cli.Context) error {
			topics, err := arguments(c, 0, -1, "")
			if err != nil {
				return err
			}
			return withAdmin(c, func(ctx context.Context, adm *kadm.Client) error {
				details, err := adm.ListTopicsWithInternal(ctx, topics...)
				if err != nil {
					return err
				}
				type row struct {
					Topic      string `json:"topic"`
					ID         string `json:"id"`
					Partitions int    `json:"partitions"`
					Factor     int    `json:"replication_factor"`
					Internal   bool   `json:"internal"`
				}
				rows, table, failures := []row{}, [][]string{}, []error(nil)
				for _, d := range details.Sorted() {
					if d.Err != nil {
						failures = append(failures, brokerError(d.Topic, d.Err, ""))
						continue
					}
					if d.IsInternal && !c.Bool("internal") && len(topics) == 0 {
						continue
					}
					r := row{d.Topic, topicID(d.ID), len(d.Partitions), d.Partitions.NumReplicas(), d.IsInternal}
					rows = append(rows, r)
					table = append(table, []string{r.Topic, strconv.Itoa(r.Partitions), strconv.Itoa(r.Factor)})
				}
				if jsonOutput(c) {
					err = printJSON(c.App.Writer, rows)
				} else {
					err = printTable(c.App.Writer, []string{"TOPIC", "PARTITIONS", "REPLICAS"}, table)
				}
				return errors.Join(append(failures, err)...)
			})
		},
	}
}

// topicStatus is what became of a topic.
type topicStatus struct {
	Topic  string `json:"topic"`
	Status string `json:"status"`
}

func printStatuses(c *cli.Context, all []topicStatus) error {
	if jsonOutput(c) {
		return printJSON(c.App.Writer, all)
	}
	for _, s := range all {
		if _, err := fmt.Fprintf(c.App.Writer, "%s: %s\n", s.Topic, s.Status); err != nil {
			return err
		}
	}
	return nil
}

func topicAlterCommand() *cli.Command {
	return &cli.Command{
		Name: "alter", Usage: "change a topic's configuration or add partitions", ArgsUsage: "TOPIC...",
		Description: "Examples:\n" +
			"  balsa topic alter orders -c retention.ms=3600000\n" +
			"  balsa topic alter orders --delete-config retention.ms      back to the default\n" +
			"  balsa topic alter orders --partitions 24                   partitions can only be added",
		Flags: clientFlags(
			configFlag("set `KEY=VALUE`; may be given several times"),
			&cli.StringSliceFlag{Name: "delete-config", Aliases: []string{"d"}, Usage: "return `KEY` to its default"},
			&cli.IntFlag{Name: "partitions", Aliases: []string{"p"}, Usage: "`N` partitions in all"},
			outputFlag(),
		),
		Action: topicAlter,
	}
}

func topicAlter(c *cli.Context) error {
	topics, err := arguments(c, 1, -1, "TOPIC")
	if err != nil {
		return err
	}
	pairs, err := keyValues("config", c.StringSlice("config"))
	if err != nil {
		return err
	}
	var changes []kadm.AlterConfig
	for _, kv := range pairs {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: kv[0], Value: new(kv[1])})
	}
	for _, key := range c.StringSlice("delete-config") {
		changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
	}
	if len(changes) == 0 && !c.IsSet("partitions") {
		return usageError{"topic alter: nothing to change; give --config, --delete-config or --partitions"}
	}
	return withAdmin(c, func(ctx context.Context, adm *kadm.Client) error {
		var failures []error
		if len(changes) > 0 {
			answers, err := adm.AlterTopicConfigs(ctx, changes, topics...)
			if err != nil {
				return err
			}
			for _, a := range answers {
				if a.Err != nil {
					failures = append(failures, brokerError(a.Name, a.Err, a.ErrMessage))
				}
			}
		}
		if c.IsSet("partitions") && len(failures) == 0 {
			answers, err := adm.UpdatePartitions(ctx, c.Int("partitions"), topics...)
			if err != nil {
				return err
			}
			for _, a := range answers.Sorted() {
				if a.Err != nil {
					failures = append(failures, brokerError(a.Topic, a.Err, a.ErrMessage))
				}
			}
		}
		if len(failures) > 0 {
			return errors.Join(failures...)
		}
		done := []topicStatus{}
		for _, t := range topics {
			done = append(done, topicStatus{t, "altered"})
		}
		return printStatuses(c, done)
	})
}

func topicDeleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Aliases: []string{"rm"}, Usage: "delete topics with all their records", ArgsUsage: "TOPIC...",
		Description: "Examples:\n" +
			"  balsa topic delete orders\n" +
			"  balsa topic delete orders --if-exists      exits 0 if there is no such topic",
		Flags: clientFlags(&cli.BoolFlag{Name: "if-exists", Usage: "a topic that is not there is not an error"}, outputFlag()),
		Action: func(c *cli.Context) error {
			topics, err := arguments(c, 1, -1, "TOPIC")
			if err != nil {
				return err
			}
			return withAdmin(c, func(ctx context.Context, adm *kadm.Client) error {
				answers, err := adm.DeleteTopics(ctx, topics...)
				if err != nil {
					return err
				}
				var failures []error
				done := []topicStatus{}
				for _, a := range answers.Sorted() {
					switch {
					case errors.Is(a.Err, kerr.UnknownTopicOrPartition) && c.Bool("if-exists"):
						done = append(done, topicStatus{a.Topic, "not there"})
					case a.Err != nil:
						failures = append(failures, brokerError(a.Topic, a.Err, a.ErrMessage))
					default:
						done = append(done, topicStatus{a.Topic, "deleted"})
					}
				}
				return errors.Join(append(failures, printStatuses(c, done))...)
			})
		},
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
