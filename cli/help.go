package cli

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/urfave/cli/v2"
)

const commandHelpTemplate = `{{.HelpName}}: {{.Usage}}

USAGE:
   {{.HelpName}}{{if .Subcommands}} COMMAND{{end}}{{if .VisibleFlags}} [FLAGS]{{end}}{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}
{{if .Subcommands}}
COMMANDS:{{range .Subcommands}}{{if not .Hidden}}
   {{.Name}}{{"\t"}}{{.Usage}}{{end}}{{end}}
{{end}}{{if .Description}}
   {{wrap .Description 3}}
{{end}}{{if .VisibleFlags}}
FLAGS:{{range .VisibleFlags}}
   {{.}}{{end}}
{{end}}`

func init() { cli.FlagStringer = flagHelp }

// flagHelp is one flag's line: names, the word for its value, a tab, what it does.
func flagHelp(f cli.Flag) string {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return ""
	}
	var short, long []string
	for _, n := range f.Names() {
		if len(n) == 1 {
			short = append(short, "-"+n)
		} else {
			long = append(long, "--"+n)
		}
	}
	value, usage := placeholder(d.GetUsage())
	left := strings.Join(append(short, long...), ", ")
	if len(short) == 0 {
		left = "    " + left
	}
	if d.TakesValue() {
		if value == "" {
			value = strings.ToUpper(long[0][2:])
			if i := strings.LastIndexByte(value, '-'); i >= 0 {
				value = value[i+1:]
			}
		}
		left += " " + value
	}
	if text := d.GetDefaultText(); d.TakesValue() && text != "" && text != `""` && text != "0" && text != "0s" && text != "false" {
		usage += fmt.Sprintf(" (default: %s)", strings.Trim(text, `"`))
	}
	if env := d.GetEnvVars(); len(env) > 0 {
		usage += " [$" + env[0] + "]"
	}
	if v := reflect.ValueOf(f).Elem().FieldByName("Required"); v.IsValid() && v.Bool() {
		usage += " (required)"
	}
	return left + "\t" + usage
}

// placeholder takes the word in back quotes out of a usage text as the name of the flag's value.
func placeholder(usage string) (value, text string) {
	before, rest, ok := strings.Cut(usage, "`")
	if !ok {
		return "", usage
	}
	value, after, ok := strings.Cut(rest, "`")
	if !ok {
		return "", usage
	}
	return value, before + value + after
}
