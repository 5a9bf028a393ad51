package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/config"
)

const (
	// defaultMemoryLimit is what the Go runtime keeps its memory under (GOMEMLIMIT or --memory-limit override it). A
	// broker promises to stay below 512 MiB resident; the rest is for what the runtime does not count: the binary's own
	// pages, the mapped vote store, and the overshoot of a burst.
	defaultMemoryLimit = 384 << 20
	// fewFiles is the limit on open files below which a broker complains: each partition holds a few.
	fewFiles = 4096
	// tooFewFiles is where it refuses to start.
	tooFewFiles = 256
)

func serveFlags() []cli.Flag {
	var flags []cli.Flag
	for _, f := range settingFlags {
		defaultText := ""
		for _, e := range config.DescribeBroker(config.Default()) {
			if e.Name == f.setting && !e.Null {
				defaultText = strings.TrimPrefix(e.Value, defaultListener+"://")
			}
		}
		if f.flag == "bootstrap-expect" {
			defaultText = "1; 0 with --join"
		}
		flags = append(flags, &cli.StringFlag{Name: f.flag, Usage: f.usage, DefaultText: defaultText})
	}
	return append(flags, configFlags()...)
}

func serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "run a broker",
		Description: "Without flags: a complete single broker on 127.0.0.1 (Kafka 9092, cluster 9192, gossip 9193, HTTP 9644) with its\n" +
			"data in ./balsa-data. SIGTERM or Ctrl-C stops it gracefully; a second one at once.\n\n" +
			"Examples:\n" +
			"  balsa serve\n" +
			"  balsa serve --node-id 2 --data-dir /var/lib/balsa --kafka-listen 0.0.0.0:9092 --kafka-advertise broker-2:9092 \\\n" +
			"    --cluster-listen broker-2:9192 --gossip-listen broker-2:9193 --join broker-1:9193,broker-3:9193 --bootstrap-expect 3\n" +
			"  balsa serve --config-file balsa.yaml --set num.partitions=3",
		Flags: append(serveFlags(),
			&cli.BoolFlag{Name: "pprof", Usage: "serve Go's profiles under /debug/pprof/ (balsa.http.pprof.enable)"},
			&cli.StringFlag{
				Name: "memory-limit", Usage: "`SIZE` that the broker's memory stays under, such as 1GiB", DefaultText: bytesText(defaultMemoryLimit),
				EnvVars: []string{"BALSA_MEMORY_LIMIT"},
			},
		),
		Action: serve,
	}
}

// settings are what a broker is started with, checked.
type settings struct {
	config    *config.Broker
	listeners []listenerAddress
	// clusterAdvertise and gossipAdvertise are empty when the listening address is the one to tell.
	clusterAdvertise, gossipAdvertise string
	pprof                             bool
	logger                            *slog.Logger
}

// loadServe turns flags, environment and file into checked settings.
func loadServe(c *cli.Context) (*settings, error) {
	b, err := loadSettings(c)
	if err != nil {
		return nil, err
	}
	s, err := checkSettings(b)
	if err != nil {
		return nil, err
	}
	s.pprof = s.pprof || c.Bool("pprof")
	return s, nil
}

func checkSettings(b *config.Broker) (*settings, error) {
	s := &settings{config: b, pprof: b.Pprof()}
	var err error
	if s.listeners, err = kafkaListeners(b); err != nil {
		return nil, err
	}
	if s.clusterAdvertise, err = peerAddress("cluster", b.ClusterListen(), b.ClusterAdvertise()); err != nil {
		return nil, err
	}
	if s.gossipAdvertise, err = peerAddress("gossip", b.GossipListen(), b.GossipAdvertise()); err != nil {
		return nil, err
	}
	return s, nil
}

func serve(c *cli.Context) error {
	if _, err := arguments(c, 0, 0, ""); err != nil {
		return err
	}
	s, err := loadServe(c)
	if err != nil {
		return err
	}
	s.logger = newLogger(c.App.ErrWriter, s.config)
	if err := prepareProcess(c, s.logger, 1); err != nil {
		return err
	}
	r, err := startBroker(c.Context, s)
	if err != nil {
		return err
	}
	if err := r.waitReady(c.Context); err != nil {
		return orInterrupted(c.Context, r.stop(), err)
	}
	printReady(c.App.Writer, s, r)
	select {
	case <-c.Context.Done():
		s.logger.Info("stopping; once more stops at once")
		return r.stop()
	case err := <-r.failed:
		_ = r.stop()
		return err
	}
}

// orInterrupted is what ended a start: a signal is not a failure.
func orInterrupted(ctx context.Context, stopErr, err error) error {
	if ctx.Err() != nil {
		return stopErr
	}
	return err
}

// programName is how this program was called, so that what it prints can be pasted.
func programName() string {
	if name := os.Args[0]; filepath.Base(name) == "balsa" {
		return name
	}
	return "balsa"
}

func printReady(w io.Writer, s *settings, r *running) {
	first := s.listeners[0].advertise
	brokers := ""
	if first != defaultBrokers {
		brokers = " --brokers " + first
	}
	fmt.Fprintf(w, "%s is ready: broker %d at %s, data in %s\n\n", nameAndVersion(), s.config.NodeID(), first, s.config.DataDir())
	program := programName()
	fmt.Fprintf(w, "  %s topic create greetings%s\n", program, brokers)
	fmt.Fprintf(w, "  echo hello | %s produce greetings%s\n", program, brokers)
	fmt.Fprintf(w, "  %s consume greetings%s\n", program, brokers)
	if r.httpAddress != "" {
		fmt.Fprintf(w, "  health, metrics and status: http://%s/\n", fromHere(r.httpAddress))
	}
	fmt.Fprintln(w, "\nCtrl-C stops it.")
}

// fromHere is a listening address as a client on this host writes it: a wildcard becomes loopback.
func fromHere(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return address
}

func newLogger(w io.Writer, b *config.Broker) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(b.LogLevel())) // the setting's check has seen it
	o := &slog.HandlerOptions{Level: level}
	if b.LogFormat() == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// prepareProcess sets the process's own limits for so many brokers: open files and memory.
func prepareProcess(c *cli.Context, logger *slog.Logger, brokers int) error {
	files, err := raiseFileLimit()
	switch {
	case err != nil:
		logger.Warn("the limit on open files is not known", "err", err)
	case files < tooFewFiles:
		return usageError{fmt.Sprintf("only %d files may be open at once; raise the limit (ulimit -n %d) before balsa serve", files, fewFiles)}
	case files < fewFiles:
		logger.Warn("few files may be open at once: raise the limit with ulimit -n, or lower --set balsa.max.partitions", "limit", files, "wanted", fewFiles)
	}
	limit := int64(defaultMemoryLimit) * int64(brokers)
	if given := c.String("memory-limit"); given != "" {
		if limit, err = parseSize(given); err != nil {
			return usageError{fmt.Sprintf("--memory-limit: %v", err)}
		}
	} else if os.Getenv("GOMEMLIMIT") != "" {
		return nil // the runtime has read it
	}
	debug.SetMemoryLimit(limit)
	return nil
}

// parseSize reads 512MiB, 1GiB, 400M or a number of bytes.
func parseSize(s string) (int64, error) {
	var n float64
	var unit string
	if _, err := fmt.Sscanf(s, "%g%s", &n, &unit); err != nil && unit == "" {
		if _, err := fmt.Sscanf(s, "%g", &n); err != nil {
			return 0, fmt.Errorf("%q is not a size", s)
		}
	}
	factor, ok := map[string]float64{
		"": 1, "B": 1, "K": 1 << 10, "KIB": 1 << 10, "KB": 1e3, "M": 1 << 20, "MIB": 1 << 20, "MB": 1e6, "G": 1 << 30, "GIB": 1 << 30, "GB": 1e9,
	}[strings.ToUpper(unit)]
	if !ok || n*factor < 64<<20 || n*factor > 1<<50 {
		return 0, fmt.Errorf("%q is not a size of at least 64MiB", s)
	}
	return int64(n * factor), nil
}
