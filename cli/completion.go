package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// The shells ask `balsa __complete WORD...` for the candidates of the last word; all knowledge is in the binary.
var completionScripts = map[string]string{
	"bash": `# balsa completion for bash: source <(balsa completion bash)
_balsa() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$(balsa __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _balsa balsa
`,
	"zsh": `#compdef balsa
# balsa completion for zsh: source <(balsa completion zsh)
_balsa() {
  local -a candidates
  candidates=(${(f)"$(balsa __complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
  compadd -- $candidates
}
compdef _balsa balsa
`,
	"fish": `# balsa completion for fish: balsa completion fish | source
complete -c balsa -f -a '(balsa __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish",
		Description: "Examples:\n" +
			"  source <(balsa completion bash)\n" +
			"  balsa completion fish > ~/.config/fish/completions/balsa.fish",
		Action: func(c *cli.Context) error {
			args, err := arguments(c, 1, 1, "a shell (bash, zsh or fish)")
			if err != nil {
				return err
			}
			script, ok := completionScripts[args[0]]
			if !ok {
				return usageError{fmt.Sprintf("completion is there for bash, zsh and fish, not %q", args[0])}
			}
			_, err = fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

func completeCommand() *cli.Command {
	return &cli.Command{
		Name: "__complete", Hidden: true,
		Action: func(c *cli.Context) error {
			for _, candidate := range complete(c.App.Commands, c.Args().Slice()) {
				fmt.Fprintln(c.App.Writer, candidate)
			}
			return nil
		},
	}
}

// complete returns the candidates for the last of the words.
func complete(commands []*cli.Command, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	var command *cli.Command
	for _, word := range words[:len(words)-1] {
		if next := findCommand(commands, word); next != nil {
			command, commands = next, next.Subcommands
		}
	}
	last := words[len(words)-1]
	var out []string
	if command != nil && strings.HasPrefix(last, "-") {
		for _, f := range command.Flags {
			for _, name := range f.Names() {
				if len(name) > 1 && strings.HasPrefix("--"+name, last) {
					out = append(out, "--"+name)
				}
			}
		}
		return append(out, "--help")
	}
	for _, name := range names(commands) {
		if strings.HasPrefix(name, last) {
			out = append(out, name)
		}
	}
	if command != nil && command.Name == "completion" {
		out = append(out, sortedKeys(completionScripts)...)
	}
	return out
}
