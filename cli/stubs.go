package cli

import (
	"context"
	"errors"

	"github.com/urfave/cli/v2"
)

func segmentCommand() *cli.Command {
	return &cli.Command{
		Name: "segment", Usage: "look into segment files",
		Subcommands: []*cli.Command{{
			Name: "dump", Usage: "print what is in a segment file, and whether it is sound", ArgsUsage: "FILE",
			Description: "Examples:\n  balsa segment dump FILE",
			Action:      func(*cli.Context) error { return errors.New("not yet") },
		}},
	}
}

type running struct {
	httpAddress string
	failed      chan error
}

func startBroker(_ context.Context, _ *settings) (*running, error) {
	return nil, errors.New("not yet")
}
func (r *running) waitReady(_ context.Context) error { return nil }
func (r *running) stop() error                       { return nil }
