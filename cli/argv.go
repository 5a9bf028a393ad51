package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// normalise rewrites argv so that urfave/cli, which stops reading flags at the first argument, sees every flag before
// the arguments: `balsa topic create orders -p 3` becomes `balsa topic create -p 3 -- orders`. Flags may stand
// anywhere after the program's name, also before the command. What the command does not know is an error here, never
// an argument; `--` ends the flags.
func normalise(app *cli.App, argv []string) ([]string, error) {
	if len(argv) < 2 {
		return argv, nil
	}
	words := argv[1:]
	if words[0] == "help" {
		words = append(slices.Clone(words[1:]), "--help")
	}
	if words[0] == "--version" || words[0] == "-v" {
		words = append([]string{"version"}, words[1:]...)
	}
	if words[0] == "__complete" {
		return append([]string{argv[0], "__complete", "--"}, words[1:]...), nil
	}
	path := []string{argv[0]}
	commands := app.Commands
	var command *cli.Command
	var early []string // flags met before the leaf command is known
	for len(words) > 0 && len(commands) > 0 {
		word := words[0]
		if len(word) > 1 && word[0] == '-' {
			n := 1
			name, _, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
			if f := findBelow(commands, name); f != nil && takesValue(f) && !hasValue {
				n = 2
			}
			if n > len(words) {
				return nil, usageError{fmt.Sprintf("flag %s needs a value", word)}
			}
			early = append(early, words[:n]...)
			words = words[n:]
			continue
		}
		next := findCommand(commands, word)
		if next == nil {
			return nil, unknownCommand(path[1:], word, commands)
		}
		path = append(path, next.Name)
		command, commands, words = next, next.Subcommands, words[1:]
	}
	if command == nil || len(commands) > 0 { // no leaf: only help can be meant
		for _, word := range early {
			if word != "--help" && word != "-h" {
				return nil, unknownFlag(path[1:], word, nil)
			}
		}
		if command != nil && len(early) == 0 {
			return nil, usageError{fmt.Sprintf("%s needs a command: %s", strings.Join(path[1:], " "), strings.Join(names(commands), ", "))}
		}
		return append(path, early...), nil
	}
	flags, args, err := split(command, path[1:], append(early, words...))
	if err != nil {
		return nil, err
	}
	out := append(path, flags...)
	if len(args) > 0 {
		out = append(append(out, "--"), args...)
	}
	return out, nil
}

// split sorts a leaf command's words into flags (each with its value) and arguments.
func split(command *cli.Command, path, words []string) (flags, args []string, err error) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "--" {
			return flags, append(args, words[i+1:]...), nil
		}
		if len(word) < 2 || word[0] != '-' {
			args = append(args, word)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if name == "help" || name == "h" {
			return []string{"--help"}, nil, nil
		}
		f := findFlag(command.Flags, name)
		switch {
		case f == nil:
			return nil, nil, unknownFlag(path, word, command)
		case !takesValue(f) || hasValue:
			flags = append(flags, word)
		case i+1 == len(words):
			return nil, nil, usageError{fmt.Sprintf("flag %s needs a value", word)}
		default:
			flags = append(flags, word, words[i+1])
			i++
		}
	}
	return flags, args, nil
}

func findCommand(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

// findBelow looks a flag up in all commands below.
func findBelow(commands []*cli.Command, name string) cli.Flag {
	for _, c := range commands {
		if f := findFlag(c.Flags, name); f != nil {
			return f
		}
		if f := findBelow(c.Subcommands, name); f != nil {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

func names(commands []*cli.Command) []string {
	var out []string
	for _, c := range commands {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	return out
}

func unknownCommand(path []string, word string, commands []*cli.Command) error {
	what := strings.Join(append(slices.Clone(path), word), " ")
	return usageError{fmt.Sprintf("unknown command %q%s", what, suggest(word, names(commands)))}
}

func unknownFlag(path []string, word string, command *cli.Command) error {
	name, _, _ := strings.Cut(word, "=")
	var known []string
	if command != nil {
		for _, f := range command.Flags {
			for _, n := range f.Names() {
				if len(n) > 1 {
					known = append(known, "--"+n)
				}
			}
		}
	}
	where := ""
	if len(path) > 0 {
		where = " for " + strings.Join(path, " ")
	}
	return usageError{fmt.Sprintf("unknown flag %s%s%s", name, where, suggest(name, known))}
}

// suggest names the nearest known word, or all of a few.
func suggest(word string, known []string) string {
	best, bestDistance := "", 3
	for _, k := range known {
		d := distance(word, k)
		if strings.HasPrefix(k, word) && len(word) > 1 {
			d = 1
		}
		if d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	return "; see --help"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
