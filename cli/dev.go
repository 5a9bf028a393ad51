package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/config"
)

// maxDevNodes keeps the ports of dev's brokers apart: Kafka from 9092, cluster and gossip in pairs from 9192, HTTP
// from 9644.
const maxDevNodes = 9

func devCommand() *cli.Command {
	return &cli.Command{
		Name: "dev", Usage: "run a cluster in one process, to try things out",
		Description: "Kafka on 127.0.0.1:9092, 9093, ...; HTTP on 9644, 9645, ... One process is one fate: for data that must live, run\n" +
			"balsa serve on several machines.\n\n" +
			"Examples:\n" +
			"  balsa dev\n" +
			"  balsa dev --nodes 5 --data-dir /tmp/five --set num.partitions=6",
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "nodes", Aliases: []string{"n"}, Value: 3, Usage: fmt.Sprintf("`N` brokers, 1 to %d", maxDevNodes)},
			&cli.StringFlag{Name: "data-dir", Value: "./balsa-dev", Usage: "`DIR` for the data of all brokers"},
			&cli.StringFlag{Name: "log-level", Value: "warn", Usage: "debug, info, warn or error"},
			&cli.StringFlag{Name: "memory-limit", Usage: "`SIZE` that all brokers together stay under", DefaultText: bytesText(defaultMemoryLimit) + " each"},
		}, configFlags()...),
		Action: dev,
	}
}

func dev(c *cli.Context) error {
	if _, err := arguments(c, 0, 0, ""); err != nil {
		return err
	}
	n := c.Int("nodes")
	if n < 1 || n > maxDevNodes {
		return usageError{fmt.Sprintf("--nodes is 1 to %d, not %d", maxDevNodes, n)}
	}
	all := make([]*settings, n)
	for i := range all {
		s, err := devSettings(c, i, n)
		if err != nil {
			return err
		}
		all[i] = s
	}
	if err := prepareProcess(c, all[0].logger, n); err != nil {
		return err
	}
	brokers := make([]*running, 0, n)
	stop := func() error {
		errs := make(chan error, len(brokers))
		var stopping sync.WaitGroup
		for _, r := range brokers {
			stopping.Go(func() { errs <- r.stop() })
		}
		stopping.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	}
	failed := make(chan error, n)
	for _, s := range all {
		r, err := startBroker(c.Context, s)
		if err != nil {
			_ = stop()
			return err
		}
		brokers = append(brokers, r)
		go func() {
			select {
			case err := <-r.failed:
				failed <- err
			case <-r.ctx.Done():
			}
		}()
	}
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		for _, r := range brokers {
			_ = r.waitReady(r.ctx)
		}
	}()
	select {
	case <-ready:
	case err := <-failed:
		_ = stop()
		return err
	case <-c.Context.Done():
		return stop()
	}
	printDevReady(c.App.Writer, all, c.String("data-dir"))
	select {
	case <-c.Context.Done():
		return stop()
	case err := <-failed:
		_ = stop()
		return err
	}
}

func printDevReady(w io.Writer, all []*settings, dir string) {
	var kafka []string
	for _, s := range all {
		kafka = append(kafka, s.listeners[0].advertise)
	}
	fmt.Fprintf(w, "%s is ready: %s at %s, data in %s\n\n", nameAndVersion(), plural(len(all), "broker"), strings.Join(kafka, ","), dir)
	program := programName()
	fmt.Fprintf(w, "  %s cluster status\n", program)
	fmt.Fprintf(w, "  %s topic create orders --partitions 6\n", program)
	fmt.Fprintf(w, "  %s bench produce --create --delete\n", program)
	fmt.Fprintln(w, "\nCtrl-C stops them.")
}

// devSettings are those of the i-th of n brokers.
func devSettings(c *cli.Context, i, n int) (*settings, error) {
	static, err := staticSettings(c)
	if err != nil {
		return nil, err
	}
	at := func(base, step int) string { return "127.0.0.1:" + strconv.Itoa(base+step*i) }
	static["node.id"] = strconv.Itoa(i + 1)
	static["log.dirs"] = filepath.Join(c.String("data-dir"), "broker-"+strconv.Itoa(i+1))
	static["listeners"] = defaultListener + "://" + at(9092, 1)
	static["balsa.cluster.listen"] = at(9192, 2)
	static["balsa.gossip.listen"] = at(9193, 2)
	static["balsa.http.listen"] = at(9644, 1)
	static["balsa.bootstrap.expect"] = strconv.Itoa(n)
	static["balsa.log.level"] = c.String("log-level")
	var others []string
	for j := range n {
		if j != i {
			others = append(others, "127.0.0.1:"+strconv.Itoa(9193+2*j))
		}
	}
	static["balsa.join"] = strings.Join(others, ",")
	b, err := config.NewBroker(static)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	s, err := checkSettings(b)
	if err != nil {
		return nil, err
	}
	s.logger = newLogger(c.App.ErrWriter, b).With("broker", i+1)
	return s, nil
}
