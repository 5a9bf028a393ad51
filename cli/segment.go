package cli

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
)

func segmentCommand() *cli.Command {
	return &cli.Command{
		Name: "segment", Usage: "look into segment files",
		Subcommands: []*cli.Command{{
			Name: "dump", Usage: "print what is in a segment file, and whether it is sound", ArgsUsage: "FILE...",
			Description: "Prints a line per entry: record batches, and the entries of Raft's own that no client sees. Exits 6 when a file\n" +
				"is damaged. The file of a running broker may end in a write that is under way.\n\n" +
				"Examples:\n" +
				"  balsa segment dump balsa-data/topics/orders-0-1/00000000000000000000.log\n" +
				"  balsa segment dump -o json balsa-data/topics/orders-0-*/*.log",
			Flags:  []cli.Flag{outputFlag()},
			Action: segmentDump,
		}},
	}
}

func segmentDump(c *cli.Context) error {
	files, err := arguments(c, 1, -1, "FILE")
	if err != nil {
		return err
	}
	damaged := 0
	var failures []error
	for _, name := range files {
		sound, err := segment.Dump(c.App.Writer, vfs.OS(), name, jsonOutput(c))
		switch {
		case err != nil:
			failures = append(failures, err)
		case !sound:
			damaged++
		}
	}
	if len(failures) == 0 && damaged > 0 {
		return withCode(exitUnhealthy, fmt.Errorf("%s damaged", plural(damaged, "file")))
	}
	return errors.Join(failures...)
}
