package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The tables by name. Group settings come with the groups.
var (
	topicByName  = map[string]*Setting{}
	brokerByName = map[string]*Setting{}
)

func init() {
	for _, s := range brokerSettings {
		must(brokerByName[s.Name] == nil, s.Name)
		brokerByName[s.Name] = s
	}
	for _, s := range topicSettings {
		must(topicByName[s.Name] == nil, s.Name)
		topicByName[s.Name] = s
		for _, y := range s.synonyms {
			b := brokerByName[y.name]
			must(b != nil, y.name)
			if b.check == nil && !b.fixed { // in every unit: the least is -1, 0 or 1
				b.check, b.valid = s.check, s.valid
			}
			if s.inert {
				b.inert, b.Why = true, s.Why
			}
		}
	}
	for _, table := range [][]*Setting{topicSettings, brokerSettings} {
		slices.SortFunc(table, func(a, b *Setting) int { return strings.Compare(a.Name, b.Name) })
	}
	for _, s := range slices.Concat(topicSettings, brokerSettings) {
		must(s.Null || s.Check(s.Default) == nil || s.Default == "", s.Name)
	}
}

func must(ok bool, name string) {
	if !ok {
		panic("config: table is wrong at " + name)
	}
}

// Settings of a scope, sorted by name. Neither the slice nor the rows may be changed.
func Settings(scope Scope) []*Setting {
	switch scope {
	case ScopeTopic:
		return topicSettings
	case ScopeBroker:
		return brokerSettings
	}
	return nil
}

// Lookup finds a setting, or nil.
func Lookup(scope Scope, name string) *Setting {
	switch scope {
	case ScopeTopic:
		return topicByName[name]
	case ScopeBroker:
		return brokerByName[name]
	}
	return nil
}

// Known gives the error for a name that is not in the table, or nil.
func Known(scope Scope, name string) error {
	if Lookup(scope, name) == nil {
		return unknown(scope, name)
	}
	return nil
}

// unknown is the error for a name that is not in the table, with the name that was probably meant.
func unknown(scope Scope, name string) *Error {
	kind := map[Scope]string{ScopeTopic: "topic", ScopeBroker: "broker", ScopeGroup: "group"}[scope]
	if len(name) > 200 {
		name = name[:200] + "..."
	}
	msg := fmt.Sprintf("Unknown %s config name: %s", kind, name)
	if near := nearest(scope, name); near != "" {
		msg += " (did you mean " + near + "?)"
	}
	return &Error{Name: name, Unknown: true, Msg: msg}
}

// nearest is the setting with the smallest edit distance, if that is small enough for a slip.
func nearest(scope Scope, name string) string {
	best, least := "", 1+len(name)/3
	for _, s := range Settings(scope) {
		d := distance(name, s.Name)
		for _, prefix := range []string{"log.", "balsa."} {
			if short, ok := strings.CutPrefix(s.Name, prefix); ok {
				d = min(d, 1+distance(name, short))
			}
		}
		if d < least {
			best, least = s.Name, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diag
			if a[i] != b[j] {
				d = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}

// values are resolved, checked values by setting name; an absent name is null.
type values map[string]string

func (v values) bool(name string) bool { return v[name] == "true" }

// long panics on a value that is not a number: everything was checked on its way in.
func (v values) long(name string) int64 {
	n, err := strconv.ParseInt(v[name], 10, 64)
	must(err == nil, name)
	return n
}
