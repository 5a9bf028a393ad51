package config

import (
	"bytes"
	"fmt"
	"strings"
)

//go:generate go test -run TestDocumentation -update .

// Markdown renders the table for docs/configuration.md.
func Markdown() []byte {
	var b bytes.Buffer
	p := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	p("<!-- Made from the table in config/ by `go generate ./config`. Do not edit. -->")
	p("# Configuration\n")
	p("Settings have the names, types and defaults of Kafka 4.x wherever Kafka has them; `flush.policy` and `balsa.*` are Balsa's.")
	p("A broker reads them from `--config-file` (YAML, `name: value`), then from the environment (`BALSA_NUM_PARTITIONS=3` is")
	p("`num.partitions`, `BALSA_JOIN` is `balsa.join`), then from `--set name=value`; the later wins, and flags with a setting of")
	p("their own come last. An unknown name is an error. Settings that are not read-only can also be changed while the brokers")
	p("run, for one broker or for all (`per-broker`) or only for all (`cluster-wide`); such a change wins over the file.\n")
	p("`balsa config show` prints what is in force, `balsa config check` whether a file is sound.\n")
	p("## Where Balsa deviates from Kafka\n")
	p("| setting | Kafka | Balsa | why |")
	p("|---|---|---|---|")
	for _, scope := range []Scope{ScopeTopic, ScopeBroker} {
		for _, s := range Settings(scope) {
			switch {
			case s.Why == "" || scope == ScopeBroker && s.inert && s.derived():
			case s.Kafka != "":
				p("| `%s` | default %s | default %s | %s |", s.Name, code(s.Kafka), s.shown(), s.Why)
			case s.fixed:
				p("| `%s` | may be set | only %s | %s |", s.Name, code(s.Default), s.Why)
			default:
				p("| `%s` | acts | accepted, described as read-only | %s |", s.Name, s.Why)
			}
		}
	}
	p("")
	p("acks=1 waits for a majority as acks=all does. `min.insync.replicas` adds to the majority, it never replaces it. Altering a")
	p("read-only broker setting is refused, as in Kafka.\n")
	p("## Topic settings\n")
	p("Set with `balsa topic create -c name=value`, `balsa topic alter`, or any Kafka tool. The default comes from the broker")
	p("setting in the last column (the first that is set wins).\n")
	p("| setting | type | default | valid | what it does | default from |")
	p("|---|---|---|---|---|---|")
	for _, s := range Settings(ScopeTopic) {
		var from []string
		for _, y := range s.synonyms {
			from = append(from, code(y.name))
		}
		p("| `%s` | %s | %s | %s | %s | %s |", s.Name, lower(s.Type), s.shown(), s.valid, s.Doc, strings.Join(from, ", "))
	}
	p("\n## Broker settings\n")
	p("| setting | type | default | valid | changes | what it does |")
	p("|---|---|---|---|---|---|")
	for _, s := range Settings(ScopeBroker) {
		p("| `%s` | %s | %s | %s | %s | %s |", s.Name, lower(s.Type), s.shown(), s.valid, s.Mode, s.Doc)
	}
	return b.Bytes()
}

// derived says that the setting only gives topics their default; the topic's row tells the deviation.
func (s *Setting) derived() bool { return strings.HasPrefix(s.Doc, "Default of the topics'") }

func (s *Setting) shown() string {
	switch {
	case s.Null:
		return "not set"
	case s.Default == "":
		return "empty"
	}
	return code(s.Default)
}

func code(s string) string { return "`" + s + "`" }

func lower(t Type) string { return strings.ToLower(t.String()) }
