// Package cli holds Balsa's commands and turns configuration into wiring. Nothing else reads flags or files.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
)

// Version is stamped by the linker (-X); a plain `go build` leaves it "dev".
var (
	Version = "dev"
	Commit  = ""
)

// Main runs the command line and returns the process's exit code (see exit.go).
func Main(args []string) int {
	return run(context.Background(), args, os.Stdin, os.Stdout, os.Stderr)
}

// run is Main with its surroundings as arguments, for tests.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	app := newApp(stdin, stdout, stderr)
	args, err := normalise(app, args)
	if err == nil {
		ctx, stop := signalContext(ctx, args)
		err = app.RunContext(ctx, args)
		stop()
	}
	if err == nil {
		return exitOK
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(stderr, "balsa: %s\n", msg)
	}
	return exitCode(err)
}

// signalContext ends the context at the first SIGINT or SIGTERM; a second one ends the process at once.
func signalContext(ctx context.Context, _ []string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			cancel(errInterrupted)
		case <-done:
			return
		}
		select {
		case <-signals:
			os.Exit(exitInterrupted)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:      "balsa",
		Usage:     "a replicated log broker that speaks the Kafka protocol",
		UsageText: "balsa COMMAND [FLAGS] [ARGUMENTS]     flags may stand before or after the arguments",
		Version:   versionString(),
		Reader:    stdin,
		Writer:    stdout,
		ErrWriter: stderr,
		Commands: []*cli.Command{
			serveCommand(), devCommand(),
			topicCommand(), produceCommand(), consumeCommand(), clusterCommand(), partitionCommand(),
			benchCommand(), segmentCommand(), configCommand(),
			healthCommand(), versionCommand(), completionCommand(), completeCommand(),
		},
		HideHelpCommand: true,
		HideVersion:     true,
		// A comma inside -c cleanup.policy=compact,delete belongs to the value.
		DisableSliceFlagSeparator: true,
		CustomAppHelpTemplate: `balsa: {{.Usage}}

USAGE:
   {{.UsageText}}

COMMANDS:{{range .VisibleCommands}}
   {{join .Names ", "}}{{"\t"}}{{.Usage}}{{end}}

   balsa COMMAND --help explains one command and shows examples.

EXIT CODES:
` + exitCodeHelp,
		// Errors are printed once, by run; urfave must neither print nor exit.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return usageError{err.Error()}
		},
	}
	setUsageHandlers(app.Commands)
	return app
}

// setUsageHandlers makes every command's flag errors usage errors, and hides urfave's help subcommand, which would
// otherwise swallow an argument called "help".
func setUsageHandlers(commands []*cli.Command) {
	for _, c := range commands {
		c.HideHelpCommand = true
		c.CustomHelpTemplate = commandHelpTemplate
		c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError{err.Error()} }
		setUsageHandlers(c.Subcommands)
	}
}

// arguments returns the positional arguments, which must be at least minimum and at most maximum (< 0: any number).
func arguments(c *cli.Context, minimum, maximum int, what string) ([]string, error) {
	args := c.Args().Slice()
	switch {
	case len(args) < minimum:
		return nil, usageError{fmt.Sprintf("%s: %s is missing; see balsa %s --help", commandPath(c), what, commandPath(c))}
	case maximum == 0 && len(args) > 0:
		return nil, usageError{fmt.Sprintf("%s takes no arguments, got %q", commandPath(c), strings.Join(args, " "))}
	case maximum >= 0 && len(args) > maximum:
		return nil, usageError{fmt.Sprintf("%s: too many arguments: %q", commandPath(c), strings.Join(args[maximum:], " "))}
	}
	return args, nil
}

func commandPath(c *cli.Context) string {
	return strings.TrimPrefix(c.Command.HelpName, "balsa ")
}

var errInterrupted = errors.New("interrupted")
