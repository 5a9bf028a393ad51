package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/admin"
	"github.com/balsa-broker/balsa/cluster"
)

func partitionCommand() *cli.Command {
	return &cli.Command{
		Name: "partition", Usage: "look after single partitions",
		Subcommands: []*cli.Command{{
			Name: "recover", Usage: "let a partition that lost too many replicas go on from one of them", ArgsUsage: "TOPIC:PARTITION",
			Description: "For a partition whose replicas can elect no leader any more and will not come back. Says from which replica's log it\n" +
				"would go on and what that loses; with --accept-data-loss it is done, and the other replicas start empty.\n\n" +
				"Topics with flush.policy replicated recover from a loss of power by themselves, once every replica was heard.\n\n" +
				"Examples:\n" +
				"  balsa partition recover orders:3\n" +
				"  balsa partition recover orders:3 --node 2 --accept-data-loss",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "http", Value: "127.0.0.1:9644", Usage: "any broker's HTTP `ADDRESS`"},
				&cli.IntFlag{Name: "node", Value: -1, Usage: "go on from the log on this `BROKER`; -1: the one that reaches furthest"},
				&cli.BoolFlag{Name: "accept-data-loss", Usage: "do it"},
				outputFlag(),
			},
			Action: recoverPartition,
		}},
	}
}

func recoverPartition(c *cli.Context) error {
	args, err := arguments(c, 1, 1, "TOPIC:PARTITION")
	if err != nil {
		return err
	}
	i := strings.LastIndexByte(args[0], ':')
	part, perr := strconv.ParseInt(args[0][i+1:], 10, 32)
	if i <= 0 || perr != nil || part < 0 {
		return usageError{fmt.Sprintf("%q is not TOPIC:PARTITION", args[0])}
	}
	address := c.String("http")
	if _, _, err := net.SplitHostPort(address); err != nil {
		return usageError{fmt.Sprintf("--http: %q is not HOST:PORT", address)}
	}
	at := fmt.Sprintf("http://%s/v1/recovery/%s/%d", address, url.PathEscape(args[0][:i]), part)
	if n := c.Int("node"); n >= 0 {
		at += "?node=" + strconv.Itoa(n)
	}
	plan, err := askRecovery(c.Context, at, c.Bool("accept-data-loss"))
	if err != nil {
		return err
	}
	if jsonOutput(c) {
		err = printJSON(c.App.Writer, plan)
	} else {
		err = printPlan(c, plan)
	}
	if err == nil && plan.Refused != "" {
		err = withCode(exitFailed, fmt.Errorf("not done: %s", plan.Refused))
	}
	return err
}

func askRecovery(ctx context.Context, at string, accept bool) (*cluster.RecoveryPlan, error) {
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	method := http.MethodGet
	if accept {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, at, nil)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	if accept {
		request.Header.Set(admin.AcceptHeader, "yes")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, withCode(exitUnreachable, fmt.Errorf("no broker answers at %s (%w)", at, rootCause(err)))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return nil, withCode(exitUnreachable, fmt.Errorf("%s: %w", at, err))
	}
	if response.StatusCode != http.StatusOK {
		return nil, withCode(exitFailed, fmt.Errorf("the broker refuses: %s", strings.TrimSpace(string(body))))
	}
	var plan cluster.RecoveryPlan
	if err := json.Unmarshal(body, &plan); err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return &plan, nil
}

func printPlan(c *cli.Context, p *cluster.RecoveryPlan) error {
	w := c.App.Writer
	var rows [][]string
	for _, r := range p.Replicas {
		end := []string{"-", "-", "-"}
		if r.LastIndex > 0 {
			end = []string{strconv.FormatUint(r.LastTerm, 10), strconv.FormatUint(r.LastIndex, 10), strconv.FormatInt(r.LogEnd, 10)}
		}
		rows = append(rows, append([]string{strconv.Itoa(int(r.Node)), r.State}, end...))
	}
	if err := printTable(w, []string{"BROKER", "REPLICA", "LAST TERM", "LAST INDEX", "LOG END"}, rows); err != nil {
		return err
	}
	if p.Loss == nil {
		return nil
	}
	verb := "would go on"
	if p.Chosen {
		verb = "goes on"
	}
	fmt.Fprintf(w, "\n%s:%d %s from the log on broker %d. Lost is what was written from offset %d on: %d acknowledged records for\ncertain, at most %s; %d replicas were not heard.\n",
		p.Topic, p.Partition, verb, p.Choice, p.Loss.FromOffset, p.Loss.KnownLost, p.Loss.AtMost, p.Loss.Unheard)
	if !p.Chosen {
		fmt.Fprintln(w, "Nothing was changed; --accept-data-loss does it.")
	}
	return nil
}
