package cli

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func testApp() *cli.App { return newApp(strings.NewReader(""), io.Discard, io.Discard) }

// eachLeaf calls f for every command that does something, with the words that lead to it.
func eachLeaf(commands []*cli.Command, path []string, f func(path []string, c *cli.Command)) {
	for _, c := range commands {
		below := append(slices.Clone(path), c.Name)
		if len(c.Subcommands) > 0 {
			eachLeaf(c.Subcommands, below, f)
		} else if !c.Hidden {
			f(below, c)
		}
	}
}

// Every flag of every command may stand before the command, before the arguments, between them and after them, with
// its value apart or behind "="; the command always sees the same.
func TestFlagsAnywhere(t *testing.T) {
	app := testApp()
	eachLeaf(app.Commands, nil, func(path []string, command *cli.Command) {
		t.Run(strings.Join(path, "_"), func(t *testing.T) {
			for _, f := range command.Flags {
				for _, name := range f.Names() {
					if name == "help" || name == "h" {
						continue
					}
					dashes := "--"
					if len(name) == 1 {
						dashes = "-"
					}
					forms := [][]string{{dashes + name}}
					if takesValue(f) {
						forms = [][]string{{dashes + name, "-5"}, {dashes + name + "=v"}}
					}
					for _, form := range forms {
						want := slices.Concat([]string{"balsa"}, path, form, []string{"--", "one", "two"})
						for _, words := range [][]string{
							slices.Concat(form, path, []string{"one", "two"}),
							slices.Concat(path, form, []string{"one", "two"}),
							slices.Concat(path, []string{"one"}, form, []string{"two"}),
							slices.Concat(path, []string{"one", "two"}, form),
							slices.Concat(path, form, []string{"--", "one", "two"}),
						} {
							got, err := normalise(app, append([]string{"balsa"}, words...))
							if err != nil || !slices.Equal(got, want) {
								t.Fatalf("balsa %s\n got %q, %v\nwant %q", strings.Join(words, " "), got, err, want)
							}
						}
					}
				}
			}
		})
	})
}

func TestEveryCommandRefusesWhatItDoesNotKnow(t *testing.T) {
	eachLeaf(testApp().Commands, nil, func(path []string, command *cli.Command) {
		for _, words := range [][]string{{"--no-such-flag"}, {"topic", "--no-such-flag=1"}, {"-Q", "topic"}} {
			var stderr bytes.Buffer
			args := slices.Concat([]string{"balsa"}, path, words)
			if code := run(t.Context(), args, strings.NewReader(""), io.Discard, &stderr); code != exitUsage {
				t.Errorf("%v: exit code %d, want %d", args, code, exitUsage)
			}
			if !strings.Contains(stderr.String(), "unknown flag") || strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("%v: %q", args, stderr.String())
			}
		}
	})
}

func TestEveryCommandHasHelpWithExamples(t *testing.T) {
	eachLeaf(testApp().Commands, nil, func(path []string, command *cli.Command) {
		for _, args := range [][]string{
			slices.Concat([]string{"balsa"}, path, []string{"--help"}),
			slices.Concat([]string{"balsa", "help"}, path),
			slices.Concat([]string{"balsa"}, path, []string{"arg", "-h"}),
		} {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != exitOK {
				t.Fatalf("%v: exit code %d: %s", args, code, stderr.String())
			}
			if !strings.Contains(stdout.String(), "USAGE:") || command.Usage == "" {
				t.Errorf("%v: no usage in %q", args, stdout.String())
			}
			if command.Name != "version" && !strings.Contains(stdout.String(), "Examples:") {
				t.Errorf("%v: no examples", args)
			}
		}
	})
}

func TestWrongCommandLines(t *testing.T) {
	for _, c := range []struct {
		line, want string
	}{
		{"balsa nonsense", `unknown command "nonsense"`},
		{"balsa topic craete orders", "did you mean create?"},
		{"balsa topic", "topic needs a command: create"},
		{"balsa topic list --brokres x", "did you mean --brokers?"},
		{"balsa topic create orders --partitions", "needs a value"},
		{"balsa topic create", "TOPIC is missing"},
		{"balsa topic create orders -p none", "invalid value"},
		{"balsa topic create orders -p 0", "not a number of partitions"},
		{"balsa topic create orders -c novalue", "KEY=VALUE"},
		{"balsa topic alter orders", "nothing to change"},
		{"balsa topic list -o xml", "table or json"},
		{"balsa produce", "TOPIC is missing"},
		{"balsa produce a b", "too many arguments"},
		{"balsa produce a --acks 2", "--acks is"},
		{"balsa produce a --compression br", "--compression is"},
		{"balsa consume a --from yesterday", "--from is"},
		{"balsa consume a --format %", "--format"},
		{"balsa consume a --count 0", "--count"},
		{"balsa topic list -b [x", "not HOST:PORT"},
		{"balsa bench produce --record-size 0", "--record-size"},
		{"balsa completion tcsh", "bash, zsh and fish"},
		{"balsa health --http 9644", "not HOST:PORT"},
		{"balsa partition recover orders", "not TOPIC:PARTITION"},
		{"balsa partition recover :1", "not TOPIC:PARTITION"},
		{"balsa partition recover orders:-1", "not TOPIC:PARTITION"},
		{"balsa partition recover orders:1 --http 9644", "not HOST:PORT"},
		{"balsa version extra", "takes no arguments"},
		{"balsa config check --set no.such.setting=1", "no.such.setting"},
		{"balsa config check --node-id x", "--node-id"},
		{"balsa serve --kafka-listen 0.0.0.0:9092", "--kafka-advertise"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(c.line), strings.NewReader(""), &stdout, &stderr); code != exitUsage {
			t.Errorf("%s: exit code %d, want %d", c.line, code, exitUsage)
		}
		if !strings.Contains(stderr.String(), c.want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: want one line with %q, got %q", c.line, c.want, stderr.String())
		}
		if stdout.Len() > 0 {
			t.Errorf("%s: printed %q to standard output", c.line, stdout.String())
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	var stderr bytes.Buffer
	code := run(t.Context(), []string{"balsa", "topic", "list", "-b", "127.0.0.1:1"}, strings.NewReader(""), io.Discard, &stderr)
	if code != exitUnreachable || !strings.Contains(stderr.String(), "no broker answers at 127.0.0.1:1") {
		t.Fatalf("exit code %d, %q", code, stderr.String())
	}
}

func TestComplete(t *testing.T) {
	app := testApp()
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"top"}, "topic"},
		{[]string{"topic", "de"}, "describe delete"},
		{[]string{"topic", "create", "--if"}, "--if-not-exists --help"},
		{[]string{"completion", ""}, "bash fish zsh"},
	} {
		if got := strings.Join(complete(app.Commands, c.words), " "); got != c.want {
			t.Errorf("%v: got %q, want %q", c.words, got, c.want)
		}
	}
}
