package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/urfave/cli/v2"
)

func clusterCommand() *cli.Command {
	return &cli.Command{
		Name: "cluster", Usage: "look at the cluster",
		Subcommands: []*cli.Command{{
			Name: "status", Usage: "brokers, controller, and partitions in trouble",
			Description: "Examples:\n" +
				"  balsa cluster status\n" +
				"  balsa cluster status --http 127.0.0.1:9644   also the damaged replicas, and why they are not rebuilt yet\n" +
				"  balsa cluster status --check -o json     exits 6 while a partition is under-replicated or leaderless",
			Flags: clientFlags(
				&cli.BoolFlag{Name: "check", Usage: "exit 6 while a partition is under-replicated or leaderless, or (with --http) a replica damaged"},
				&cli.StringFlag{Name: "http", Usage: "also list the damaged replicas, as the broker with this HTTP `ADDRESS` knows them"},
				outputFlag(),
			),
			Action: func(c *cli.Context) error {
				if _, err := arguments(c, 0, 0, ""); err != nil {
					return err
				}
				return withAdmin(c, func(ctx context.Context, adm *kadm.Client) error { return clusterStatus(ctx, c, adm) })
			},
		}},
	}
}

type clusterStatusReport struct {
	Cluster         string            `json:"cluster_id"`
	Controller      int32             `json:"controller"`
	Brokers         []brokerStatus    `json:"brokers"`
	Topics          int               `json:"topics"`
	Partitions      int               `json:"partitions"`
	UnderReplicated []partitionStatus `json:"under_replicated"`
	Leaderless      []partitionStatus `json:"leaderless"`
	Damaged         []damagedReplica  `json:"damaged,omitempty"` // with --http
}

type brokerStatus struct {
	ID       int32  `json:"id"`
	Address  string `json:"address"`
	Rack     string `json:"rack,omitempty"`
	Leads    int    `json:"leads"`
	Replicas int    `json:"replicas"`
	// Up is false for a broker that holds replicas but is not among those that answer.
	Up bool `json:"up"`
}

type partitionStatus struct {
	Topic     string  `json:"topic"`
	Partition int32   `json:"partition"`
	Leader    int32   `json:"leader"`
	Replicas  []int32 `json:"replicas"`
	InSync    []int32 `json:"in_sync"`
}

func clusterStatus(ctx context.Context, c *cli.Context, adm *kadm.Client) error {
	m, err := adm.Metadata(ctx)
	if err != nil {
		return err
	}
	report := summarise(m)
	if address := c.String("http"); address != "" {
		if report.Damaged, err = damagedReplicas(ctx, address); err != nil {
			return err
		}
	}
	if jsonOutput(c) {
		err = printJSON(c.App.Writer, report)
	} else {
		err = printStatus(c, report)
		if err == nil && c.String("http") != "" {
			err = printDamaged(c, report.Damaged)
		}
	}
	if err == nil && c.Bool("check") && len(report.UnderReplicated)+len(report.Leaderless)+len(report.Damaged) > 0 {
		err = withCode(exitUnhealthy, fmt.Errorf("%s under-replicated, %d leaderless, %d damaged",
			plural(len(report.UnderReplicated), "partition"), len(report.Leaderless), len(report.Damaged)))
	}
	return err
}

func summarise(m kadm.Metadata) clusterStatusReport {
	report := clusterStatusReport{
		Cluster: m.Cluster, Controller: m.Controller,
		UnderReplicated: []partitionStatus{}, Leaderless: []partitionStatus{},
	}
	known := map[int32]*brokerStatus{}
	broker := func(id int32) *brokerStatus {
		if known[id] == nil {
			known[id] = &brokerStatus{ID: id, Address: "-"}
		}
		return known[id]
	}
	for _, b := range m.Brokers {
		s := broker(b.NodeID)
		s.Address, s.Up = fmt.Sprintf("%s:%d", b.Host, b.Port), true
		if b.Rack != nil {
			s.Rack = *b.Rack
		}
	}
	for _, t := range m.Topics.Sorted() {
		report.Topics++
		for _, p := range t.Partitions.Sorted() {
			report.Partitions++
			for _, r := range p.Replicas {
				broker(r).Replicas++
			}
			status := partitionStatus{t.Topic, p.Partition, p.Leader, p.Replicas, p.ISR}
			if p.Leader < 0 {
				report.Leaderless = append(report.Leaderless, status)
			} else {
				broker(p.Leader).Leads++
			}
			if len(p.ISR) < len(p.Replicas) {
				report.UnderReplicated = append(report.UnderReplicated, status)
			}
		}
	}
	for _, id := range sortedKeys(known) {
		report.Brokers = append(report.Brokers, *known[id])
	}
	return report
}

// maxListed bounds the partitions that the table lists; -o json lists all.
const maxListed = 20

func printStatus(c *cli.Context, r clusterStatusReport) error {
	w := c.App.Writer
	controller := "none"
	if r.Controller >= 0 {
		controller = strconv.Itoa(int(r.Controller))
	}
	fmt.Fprintf(w, "cluster %s  controller %s  %s  %s\n\n", r.Cluster, controller, plural(r.Topics, "topic"), plural(r.Partitions, "partition"))
	var rows [][]string
	for _, b := range r.Brokers {
		state := "up"
		if !b.Up {
			state = "down"
		}
		rack := b.Rack
		if rack == "" {
			rack = "-"
		}
		rows = append(rows, []string{strconv.Itoa(int(b.ID)), b.Address, state, rack, strconv.Itoa(b.Leads), strconv.Itoa(b.Replicas)})
	}
	if err := printTable(w, []string{"BROKER", "ADDRESS", "STATE", "RACK", "LEADS", "REPLICAS"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nunder-replicated %d  leaderless %d\n", len(r.UnderReplicated), len(r.Leaderless))
	rows = nil
	for _, list := range [][]partitionStatus{r.Leaderless, r.UnderReplicated} {
		for _, p := range list {
			if p.Leader < 0 && len(rows) >= len(r.Leaderless) {
				continue // listed already
			}
			leader := strconv.Itoa(int(p.Leader))
			if p.Leader < 0 {
				leader = "none"
			}
			rows = append(rows, []string{p.Topic, strconv.Itoa(int(p.Partition)), leader, joinInts(p.Replicas), joinInts(p.InSync)})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	rest := max(0, len(rows)-maxListed)
	fmt.Fprintln(w)
	if err := printTable(w, []string{"TOPIC", "PARTITION", "LEADER", "REPLICAS", "IN-SYNC"}, rows[:len(rows)-rest]); err != nil {
		return err
	}
	if rest > 0 {
		fmt.Fprintf(w, "... and %d more; -o json lists all\n", rest)
	}
	return nil
}
