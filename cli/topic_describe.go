package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/urfave/cli/v2"
)

func topicDescribeCommand() *cli.Command {
	return &cli.Command{
		Name: "describe", Usage: "show partitions, leaders, replicas, offsets and configuration", ArgsUsage: "TOPIC...",
		Description: "Examples:\n" +
			"  balsa topic describe orders\n" +
			"  balsa topic describe orders --all-configs\n" +
			"  balsa topic describe orders -o json | jq '.[0].partitions[] | select(.leader == -1)'",
		Flags: clientFlags(
			&cli.BoolFlag{Name: "all-configs", Aliases: []string{"a"}, Usage: "also configuration that has its default value"},
			outputFlag(),
		),
		Action: func(c *cli.Context) error {
			topics, err := arguments(c, 1, -1, "TOPIC")
			if err != nil {
				return err
			}
			return withAdmin(c, func(ctx context.Context, adm *kadm.Client) error { return topicDescribe(ctx, c, adm, topics) })
		},
	}
}

type topicDescription struct {
	Topic      string                 `json:"topic"`
	ID         string                 `json:"id"`
	Internal   bool                   `json:"internal"`
	Partitions []partitionDescription `json:"partitions"`
	Configs    []configDescription    `json:"configs"`
}

type partitionDescription struct {
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"`
	LeaderEpoch int32   `json:"leader_epoch"`
	Replicas    []int32 `json:"replicas"`
	InSync      []int32 `json:"in_sync"`
	Offline     []int32 `json:"offline,omitempty"`
	Start       *int64  `json:"start_offset"` // null: not known, no leader
	End         *int64  `json:"end_offset"`
	Error       string  `json:"error,omitempty"`
}

type configDescription struct {
	Key       string `json:"key"`
	Value     string `json:"value"`
	Source    string `json:"source"`
	Sensitive bool   `json:"sensitive,omitempty"`
}

func topicDescribe(ctx context.Context, c *cli.Context, adm *kadm.Client, topics []string) error {
	details, err := adm.ListTopicsWithInternal(ctx, topics...)
	if err != nil {
		return err
	}
	// A partition without a leader has no offsets to tell; the rest of the description is still wanted.
	starts, startErr := adm.ListStartOffsets(ctx, topics...)
	ends, endErr := adm.ListEndOffsets(ctx, topics...)
	var shard *kadm.ShardErrors
	for _, err := range []error{startErr, endErr} {
		if err != nil && !errors.As(err, &shard) {
			return err
		}
	}
	configs, configErr := adm.DescribeTopicConfigs(ctx, topics...)

	descriptions, failures := []topicDescription{}, []error(nil)
	for _, name := range topics {
		d := details[name]
		if d.Err != nil {
			failures = append(failures, brokerError(name, d.Err, ""))
			continue
		}
		out := topicDescription{Topic: name, ID: topicID(d.ID), Internal: d.IsInternal, Configs: []configDescription{}}
		for _, p := range d.Partitions.Sorted() {
			row := partitionDescription{
				Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch,
				Replicas: p.Replicas, InSync: p.ISR, Offline: p.OfflineReplicas,
			}
			if p.Err != nil {
				row.Error = p.Err.Error()
			}
			row.Start = offsetOf(starts, name, p.Partition)
			row.End = offsetOf(ends, name, p.Partition)
			out.Partitions = append(out.Partitions, row)
		}
		if rc, err := configs.On(name, nil); err == nil {
			if rc.Err != nil {
				configErr = brokerError(name+": configuration", rc.Err, rc.ErrMessage)
			}
			for _, k := range rc.Configs {
				if k.Source.String() == "DEFAULT_CONFIG" && !c.Bool("all-configs") {
					continue
				}
				out.Configs = append(out.Configs, configDescription{k.Key, k.MaybeValue(), k.Source.String(), k.Sensitive})
			}
		}
		descriptions = append(descriptions, out)
	}
	if configErr != nil {
		failures = append(failures, configErr)
	}
	if jsonOutput(c) {
		err = printJSON(c.App.Writer, descriptions)
	} else {
		err = printDescriptions(c, descriptions)
	}
	return errors.Join(append(failures, err)...)
}

func offsetOf(listed kadm.ListedOffsets, topic string, partition int32) *int64 {
	if o, ok := listed.Lookup(topic, partition); ok && o.Err == nil {
		return &o.Offset
	}
	return nil
}

func printDescriptions(c *cli.Context, descriptions []topicDescription) error {
	w := c.App.Writer
	for i, d := range descriptions {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "topic %s  id %s  %s\n\n", d.Topic, d.ID, plural(len(d.Partitions), "partition"))
		var rows [][]string
		for _, p := range d.Partitions {
			leader := strconv.Itoa(int(p.Leader))
			if p.Leader < 0 {
				leader = "none"
			}
			rows = append(rows, []string{
				strconv.Itoa(int(p.Partition)), leader, strconv.Itoa(int(p.LeaderEpoch)), joinInts(p.Replicas), joinInts(p.InSync),
				offsetText(p.Start), offsetText(p.End), p.Error,
			})
		}
		header := []string{"PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN-SYNC", "START", "END", ""}
		if err := printTable(w, header, rows); err != nil {
			return err
		}
		rows = nil
		for _, k := range d.Configs {
			rows = append(rows, []string{k.Key, k.Value, k.Source})
		}
		if len(rows) > 0 {
			fmt.Fprintln(w)
			if err := printTable(w, []string{"CONFIG", "VALUE", "SOURCE"}, rows); err != nil {
				return err
			}
		}
	}
	return nil
}

func offsetText(o *int64) string {
	if o == nil {
		return "-"
	}
	return strconv.FormatInt(*o, 10)
}
