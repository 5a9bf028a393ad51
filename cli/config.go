package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/config"
)

func configCommand() *cli.Command {
	return &cli.Command{
		Name: "config", Usage: "check and show a broker's configuration",
		Subcommands: []*cli.Command{
			{
				Name: "check", Usage: "say whether a configuration is sound",
				Description: "Exits 0 when it is, 2 with the mistake when it is not. Nothing is started.\n\n" +
					"Examples:\n" +
					"  balsa config check --config-file balsa.yaml\n" +
					"  balsa config check --set num.partitions=3 --kafka-listen 0.0.0.0:9092 --kafka-advertise broker-1:9092",
				Flags: serveFlags(),
				Action: func(c *cli.Context) error {
					if _, err := arguments(c, 0, 0, ""); err != nil {
						return err
					}
					if _, err := loadServe(c); err != nil {
						return err
					}
					fmt.Fprintln(c.App.Writer, "sound")
					return nil
				},
			},
			{
				Name: "show", Usage: "print the settings in force",
				Description: "Prints what file, environment and flags set; --all also prints the defaults.\n\n" +
					"Examples:\n" +
					"  balsa config show --config-file balsa.yaml\n" +
					"  balsa config show --all -o json",
				Flags: append(serveFlags(),
					&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also settings that have their default"},
					outputFlag(),
				),
				Action: configShow,
			},
		},
	}
}

func configShow(c *cli.Context) error {
	if _, err := arguments(c, 0, 0, ""); err != nil {
		return err
	}
	b, err := loadSettings(c)
	if err != nil {
		return err
	}
	type row struct {
		Name    string  `json:"name"`
		Value   *string `json:"value"` // null: not set, and no default
		Type    string  `json:"type"`
		Default bool    `json:"is_default"`
		Doc     string  `json:"doc"`
	}
	rows, table := []row{}, [][]string{}
	for _, e := range config.DescribeBroker(b) {
		r := row{Name: e.Name, Value: &e.Value, Type: e.Type.String(), Default: e.Source == config.SourceDefault, Doc: e.Doc}
		if r.Default && !c.Bool("all") {
			continue
		}
		value := e.Value
		if e.Null {
			r.Value, value = nil, "-"
		}
		if e.Sensitive && !e.Null {
			hidden := "[hidden]"
			r.Value, value = &hidden, hidden
		}
		source := "set"
		if r.Default {
			source = "default"
		}
		rows = append(rows, r)
		table = append(table, []string{e.Name, value, source})
	}
	if jsonOutput(c) {
		return printJSON(c.App.Writer, rows)
	}
	return printTable(c.App.Writer, []string{"SETTING", "VALUE", "FROM"}, table)
}
