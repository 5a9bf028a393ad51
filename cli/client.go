package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"
)

const (
	defaultBrokers = "127.0.0.1:9092"
	dialTimeout    = 3 * time.Second
)

// clientFlags are the flags of every command that talks to brokers, before the command's own.
func clientFlags(own ...cli.Flag) []cli.Flag {
	return append(own,
		&cli.StringSliceFlag{
			Name: "brokers", Aliases: []string{"b", "bootstrap-server"}, Usage: "brokers to ask first, `HOST:PORT,...`",
			DefaultText: defaultBrokers, EnvVars: []string{"BALSA_BROKERS"},
		},
		&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "how long to wait for an answer"},
	)
}

func brokers(c *cli.Context) ([]string, error) {
	var out []string
	for _, s := range c.StringSlice("brokers") {
		for b := range strings.SplitSeq(s, ",") {
			if b = strings.TrimSpace(b); b == "" {
				continue
			}
			if _, _, err := net.SplitHostPort(b); err != nil {
				if strings.ContainsAny(b, "[]/ ") || strings.Count(b, ":") > 1 {
					return nil, usageError{fmt.Sprintf("--brokers: %q is not HOST:PORT", b)}
				}
				b = net.JoinHostPort(b, "9092")
			}
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		out = []string{defaultBrokers}
	}
	return out, nil
}

// connect makes a client and asks the brokers for a sign of life, so that "nobody is there" is told at once and in
// one line. The caller closes the client.
func connect(c *cli.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	seeds, err := brokers(c)
	if err != nil {
		return nil, err
	}
	return dial(c.Context, seeds, c.Duration("timeout"), opts...)
}

func dial(ctx context.Context, seeds []string, timeout time.Duration, opts ...kgo.Opt) (*kgo.Client, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	opts = append([]kgo.Opt{
		kgo.SeedBrokers(seeds...),
		kgo.ClientID("balsa"),
		kgo.SoftwareNameAndVersion("balsa", Version),
		kgo.Dialer(dialer.DialContext),
		kgo.RetryTimeout(timeout),
		kgo.MetadataMinAge(50 * time.Millisecond),
	}, opts...)
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	pingCtx, cancel := context.WithTimeout(ctx, min(timeout, 2*dialTimeout))
	defer cancel()
	if err := cl.Ping(pingCtx); err != nil {
		cl.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, withCode(exitUnreachable, fmt.Errorf("no broker answers at %s (%w); is it running? --brokers names others",
			strings.Join(seeds, ","), rootCause(err)))
	}
	return cl, nil
}

// rootCause shortens a dialing error to what the operating system said.
func rootCause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err
	}
	return err
}

// withAdmin runs f with an administrative client, under the --timeout.
func withAdmin(c *cli.Context, f func(ctx context.Context, adm *kadm.Client) error) error {
	cl, err := connect(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
	defer cancel()
	adm := kadm.NewClient(cl)
	adm.SetTimeoutMillis(int32(min(c.Duration("timeout"), time.Hour).Milliseconds()))
	return f(ctx, adm)
}

// brokerError is what a broker answered: its message (or the code's description) and the code's name.
func brokerError(what string, err error, message string) error {
	var ke *kerr.Error
	if !errors.As(err, &ke) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if message == "" || message == err.Error() {
		message = ke.Description
	}
	return answeredError{fmt.Sprintf("%s: %s (%s)", what, message, ke.Message), err}
}

type answeredError struct {
	text string
	err  error
}

func (e answeredError) Error() string { return e.text }
func (e answeredError) Unwrap() error { return e.err }
