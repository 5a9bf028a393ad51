package config

import (
	"maps"
	"slices"
)

// Synonym is one place that gives, or would give, a setting its value.
type Synonym struct {
	Name, Value string
	Null        bool
	Source      Source
}

// Entry is a described setting.
type Entry struct {
	Name, Value string
	Null        bool // the value is null
	Type        Type
	Source      Source
	ReadOnly    bool
	Sensitive   bool
	// Synonyms in the order of precedence, the value in force first.
	Synonyms []Synonym
	Doc      string
}

func (s *Setting) entry() Entry {
	return Entry{Name: s.Name, Type: s.Type, ReadOnly: s.readOnly(), Sensitive: s.Sensitive, Doc: s.Doc}
}

// DescribeTopic lists every topic setting as it is in force for a topic with these overrides on broker b.
func DescribeTopic(overrides map[string]string, b *Broker) []Entry {
	var out []Entry
	for _, s := range Settings(ScopeTopic) {
		e := s.entry()
		if v, ok := overrides[s.Name]; ok && s.Check(v) == nil {
			e.Value, e.Source = s.canonical(v), SourceTopic
			e.Synonyms = append(e.Synonyms, Synonym{Name: s.Name, Value: e.Value, Source: SourceTopic})
		} else {
			e.Value, e.Source = s.inherited(b)
		}
		var defaults []Synonym
		for _, y := range s.synonyms {
			for _, p := range b.places(brokerByName[y.name]) {
				if p.Source == SourceDefault {
					defaults = append(defaults, p)
					continue
				}
				e.Synonyms = append(e.Synonyms, p)
			}
		}
		if len(defaults) == 0 { // no broker setting has a default of its own
			defaults = []Synonym{{Name: s.Name, Value: s.Default, Source: SourceDefault}}
		}
		e.Synonyms = append(e.Synonyms, defaults...)
		out = append(out, e)
	}
	return out
}

// DescribeBroker lists every broker setting as it is in force on b.
func DescribeBroker(b *Broker) []Entry {
	var out []Entry
	for _, s := range Settings(ScopeBroker) {
		e := s.entry()
		e.Synonyms = b.places(s)
		if len(e.Synonyms) == 0 {
			e.Null, e.Source = true, SourceDefault
		} else {
			e.Value, e.Source = e.Synonyms[0].Value, e.Synonyms[0].Source
		}
		out = append(out, e)
	}
	return out
}

// DescribeClusterDefaults lists the dynamic settings that are set for all brokers, and only those, as Kafka does.
func DescribeClusterDefaults(cluster map[string]string) []Entry {
	var out []Entry
	for _, name := range slices.Sorted(maps.Keys(cluster)) {
		s := brokerByName[name]
		if s == nil {
			continue
		}
		e := s.entry()
		e.Value, e.Source = s.canonical(cluster[name]), SourceClusterDefault
		e.Synonyms = []Synonym{{Name: name, Value: e.Value, Source: e.Source}}
		out = append(out, e)
	}
	return out
}

// places lists where a broker setting has a value, the one in force first.
func (b *Broker) places(s *Setting) []Synonym {
	var out []Synonym
	add := func(m map[string]string, src Source) {
		if v, ok := m[s.Name]; ok {
			out = append(out, Synonym{Name: s.Name, Value: s.canonical(v), Source: src})
		}
	}
	add(b.own, SourceBroker)
	add(b.cluster, SourceClusterDefault)
	add(b.static, SourceStatic)
	if !s.Null {
		out = append(out, Synonym{Name: s.Name, Value: s.Default, Source: SourceDefault})
	}
	return out
}
