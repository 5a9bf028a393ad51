package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxFileBytes bounds the configuration file.
const maxFileBytes = 1 << 20

// reserved are BALSA_* variables that other parts read.
var reserved = []string{"BALSA_BROKERS", "BALSA_CONFIG_FILE", "BALSA_OUTPUT", "BALSA_MEMORY_LIMIT"}

// serviceLink matches what Kubernetes puts into the environment of every pod beside a Service named balsa
// (BALSA_SERVICE_HOST, BALSA_PORT_9092_TCP, ...). They are not settings.
var serviceLink = regexp.MustCompile(`^BALSA_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)$`)

// Load merges the static configuration: the YAML file, then the environment (BALSA_NUM_PARTITIONS=3 is num.partitions;
// BALSA_JOIN is balsa.join), then name=value pairs of the command line; the later wins. A name that is not in the table
// is an error that names the nearest. NewBroker checks the values' combination.
func Load(file []byte, env, sets []string) (map[string]string, error) {
	out := map[string]string{}
	if err := loadYAML(file, out); err != nil {
		return nil, err
	}
	for _, kv := range env {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || !strings.HasPrefix(key, "BALSA_") || slices.Contains(reserved, key) || serviceLink.MatchString(key) {
			continue
		}
		name := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(key, "BALSA_")), "_", ".")
		if brokerByName[name] == nil && brokerByName["balsa."+name] != nil {
			name = "balsa." + name
		}
		if err := put(out, name, value); err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", key, err)
		}
	}
	for _, kv := range sets {
		name, value, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, fmt.Errorf("--set %s: %w: want name=value", kv, ErrInvalid)
		}
		if err := put(out, strings.TrimSpace(name), value); err != nil {
			return nil, fmt.Errorf("--set: %w", err)
		}
	}
	return out, nil
}

func put(out map[string]string, name, value string) error {
	s := brokerByName[name]
	if s == nil {
		return unknown(ScopeBroker, name)
	}
	if err := s.Check(value); err != nil {
		return err
	}
	out[name] = s.canonical(value)
	return nil
}

func loadYAML(file []byte, out map[string]string) error {
	if len(file) > maxFileBytes {
		return fmt.Errorf("configuration file: %w: larger than %d bytes", ErrInvalid, maxFileBytes)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(file, &doc); err != nil {
		return fmt.Errorf("configuration file: %w: %w", ErrInvalid, err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil // empty, or comments only
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("configuration file: %w: want lines of name: value", ErrInvalid)
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, val := root.Content[i], root.Content[i+1]
		fail := func(err error) error { return fmt.Errorf("configuration file, line %d: %w", key.Line, err) }
		if has(out, key.Value) {
			return fail(fmt.Errorf("%w: %s is there twice", ErrInvalid, key.Value))
		}
		var value string
		switch {
		case val.Kind == yaml.ScalarNode && val.Tag == "!!null":
			continue // "name:" leaves the default
		case val.Kind == yaml.ScalarNode:
			value = val.Value
		case val.Kind == yaml.SequenceNode && plain(val):
			elems := make([]string, len(val.Content))
			for j, e := range val.Content {
				elems[j] = e.Value
			}
			value = strings.Join(elems, ",")
		default:
			return fail(fmt.Errorf("%w: %s wants a value or a list (write names in full: log.retention.hours: 24)", ErrInvalid, key.Value))
		}
		if err := put(out, key.Value, value); err != nil {
			return fail(err)
		}
	}
	return nil
}

func plain(seq *yaml.Node) bool {
	return !slices.ContainsFunc(seq.Content, func(n *yaml.Node) bool { return n.Kind != yaml.ScalarNode })
}
