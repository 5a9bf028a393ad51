package cli

import (
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
