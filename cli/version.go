package cli

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"
)

func versionString() string {
	if Commit == "" {
		return Version
	}
	return Version + " (" + Commit + ")"
}

// nameAndVersion is the program with its version. A build without one is just balsa: "balsa dev" would be the command.
func nameAndVersion() string {
	if Version == "dev" {
		return "balsa"
	}
	return "balsa " + Version
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c, 0, 0, ""); err != nil {
				return err
			}
			if jsonOutput(c) {
				return printJSON(c.App.Writer, map[string]string{
					"version": Version, "commit": Commit, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH,
				})
			}
			_, err := fmt.Fprintf(c.App.Writer, "balsa %s %s %s/%s\n", versionString(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
