// Package config is the table of settings: names, types, defaults and limits as Kafka 4.x has them, with Balsa's own
// (flush.policy and balsa.*). Nothing else knows a setting by its string.
package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Type of a setting's value; the numbers are Kafka's config_type codes.
type Type int8

const (
	Boolean Type = 1
	String  Type = 2
	Int     Type = 3
	Short   Type = 4
	Long    Type = 5
	Double  Type = 6
	List    Type = 7
)

func (t Type) String() string {
	return [...]string{"UNKNOWN", "BOOLEAN", "STRING", "INT", "SHORT", "LONG", "DOUBLE", "LIST"}[t]
}

// Source says where a value comes from; the numbers are Kafka's config_source codes.
type Source int8

const (
	SourceTopic          Source = 1 // set on the topic
	SourceBroker         Source = 2 // dynamic, on this broker
	SourceClusterDefault Source = 3 // dynamic, for all brokers
	SourceStatic         Source = 4 // file, environment or command line
	SourceDefault        Source = 5
	SourceGroup          Source = 8
)

// Scope is what a setting belongs to.
type Scope int8

const (
	ScopeTopic Scope = iota + 1
	ScopeBroker
	ScopeGroup
)

// Mode says how a setting may change while the broker runs.
type Mode int8

const (
	// ReadOnly: set in the file, the environment or on the command line; a restart applies it.
	ReadOnly Mode = iota
	// PerBroker may be changed for one broker or for all.
	PerBroker
	// ClusterWide may be changed for all brokers; for one broker it is refused, as in Kafka.
	ClusterWide
	// Dynamic is the mode of topic and group settings that act at once.
	Dynamic
)

func (m Mode) String() string {
	return [...]string{"read-only", "per-broker", "cluster-wide", "dynamic"}[m]
}

// synonym is a broker setting that gives a topic setting its default, in another unit perhaps.
type synonym struct {
	name string
	mul  int64 // topic value = broker value * mul; 0: the same
}

// Setting is one row of the table. Never changed after the package's initialisation.
type Setting struct {
	Name    string
	Type    Type
	Scope   Scope
	Mode    Mode
	Default string
	Null    bool // the default is null ("not set"), not Default
	// Kafka is Kafka's default where it differs, and Why the reason: the rows of the table of deviations. Why alone
	// is a deviation of behaviour.
	Kafka, Why string
	Sensitive  bool
	Doc        string

	synonyms []synonym
	check    func(value string) error // of one value (of each element of a list)
	valid    string                   // the check in words, for the documentation
	fixed    bool                     // only the default is accepted
	inert    bool                     // accepted and kept, and Balsa does not act on it (yet): described as read-only
}

// own says that Kafka has no such setting.
func (s *Setting) own() bool { return strings.HasPrefix(s.Name, "balsa.") || s.Name == "flush.policy" }

func (s *Setting) readOnly() bool { return s.Mode == ReadOnly || s.inert || s.fixed }

// ErrInvalid is what every refused setting unwraps to.
var ErrInvalid = errors.New("invalid configuration")

// Error names the setting that was refused. Broker code answers INVALID_CONFIG with its text.
type Error struct {
	Name    string
	Unknown bool // there is no such setting
	// ReadOnly: it cannot be changed while brokers run, or not for one broker. Broker code answers INVALID_REQUEST.
	ReadOnly bool
	Msg      string
}

func (e *Error) Error() string { return e.Msg }
func (e *Error) Unwrap() error { return ErrInvalid }

// maxValueBytes bounds one value, so that a request cannot fill the metadata.
const maxValueBytes = 32 << 10

// Check says whether value may be given to the setting.
func (s *Setting) Check(value string) error {
	bad := func(why string) error {
		if len(value) > 200 {
			value = value[:200] + "..."
		}
		return &Error{Name: s.Name, Msg: fmt.Sprintf("Invalid value %s for configuration %s: %s", value, s.Name, why)}
	}
	if len(value) > maxValueBytes {
		return bad(fmt.Sprintf("longer than %d bytes", maxValueBytes))
	}
	v := strings.TrimSpace(value)
	var err error
	switch s.Type {
	case Boolean:
		if !strings.EqualFold(v, "true") && !strings.EqualFold(v, "false") {
			return bad("Expected value to be either true or false")
		}
	case Int:
		_, err = strconv.ParseInt(v, 10, 32)
	case Short:
		_, err = strconv.ParseInt(v, 10, 16)
	case Long:
		_, err = strconv.ParseInt(v, 10, 64)
	case Double:
		var f float64
		if f, err = strconv.ParseFloat(v, 64); err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
			err = ErrInvalid
		}
	}
	if err != nil {
		return bad("Not a number of type " + s.Type.String())
	}
	if s.fixed && !strings.EqualFold(v, s.Default) {
		return bad(fmt.Sprintf("Balsa supports only %s", s.Default))
	}
	if s.check == nil {
		return nil
	}
	vs := []string{v}
	if s.Type == List {
		vs = SplitList(v)
		if len(vs) == 0 && s.valid != "" && s.Default != "" {
			return bad("the list must not be empty")
		}
	}
	for _, v := range vs {
		if err := s.check(v); err != nil {
			return bad(err.Error())
		}
	}
	return nil
}

// canonical is how a checked value is kept and shown.
func (s *Setting) canonical(v string) string {
	v = strings.TrimSpace(v)
	switch s.Type {
	case Boolean:
		return strings.ToLower(v)
	case List:
		return strings.Join(SplitList(v), ",")
	}
	return v
}

// SplitList splits a comma-separated list; blanks around elements, empty elements and repetitions go.
func SplitList(v string) []string {
	var out []string
	for e := range strings.SplitSeq(v, ",") {
		if e = strings.TrimSpace(e); e != "" && !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	return out
}

// kafkaWords is the reason of a check, spelt as Kafka spells it, for people who know those messages.
type kafkaWords string

func (w kafkaWords) Error() string { return string(w) }

// Checks. Each comes with its words for the documentation.

func atLeast(n int64) (func(string) error, string) { return between(n, math.MaxInt64) }

func between(lo, hi int64) (func(string) error, string) {
	words := fmt.Sprintf("[%d,...,%d]", lo, hi)
	if hi == math.MaxInt64 {
		words = fmt.Sprintf("[%d,...]", lo)
	}
	return func(v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		switch {
		case err != nil:
			return err
		case n < lo:
			return kafkaWords(fmt.Sprintf("Value must be at least %d", lo))
		case n > hi:
			return kafkaWords(fmt.Sprintf("Value must be no more than %d", hi))
		}
		return nil
	}, words
}

func ratio() (func(string) error, string) {
	return func(v string) error {
		if f, err := strconv.ParseFloat(v, 64); err != nil || f < 0 || f > 1 {
			return kafkaWords("Value must be between 0 and 1")
		}
		return nil
	}, "[0,...,1]"
}

func oneOf(of ...string) (func(string) error, string) {
	words := "[" + strings.Join(of, ", ") + "]"
	return func(v string) error {
		if !slices.Contains(of, v) {
			return kafkaWords(fmt.Sprintf("String must be one of: %s", strings.Join(of, ", ")))
		}
		return nil
	}, words
}

// millis turns a value in milliseconds into a Duration; what does not fit is the longest there is.
func millis(ms int64) time.Duration {
	const most = int64(math.MaxInt64 / time.Millisecond)
	switch {
	case ms > most:
		return math.MaxInt64
	case ms < -most:
		return math.MinInt64
	}
	return time.Duration(ms) * time.Millisecond
}
