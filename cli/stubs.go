package cli

import "github.com/urfave/cli/v2"

func serveCommand() *cli.Command   { return &cli.Command{Name: "serve"} }
func devCommand() *cli.Command     { return &cli.Command{Name: "dev"} }
func benchCommand() *cli.Command   { return &cli.Command{Name: "bench"} }
func segmentCommand() *cli.Command { return &cli.Command{Name: "segment"} }
func configCommand() *cli.Command  { return &cli.Command{Name: "config"} }
