package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"
)

// Topic is a topic's configuration with every default resolved. Immutable.
type Topic struct {
	SegmentBytes       int64
	SegmentAge         time.Duration
	SegmentJitter      time.Duration // a random part of it comes off SegmentAge
	IndexIntervalBytes int
	RetentionTime      time.Duration // < 0: for ever
	RetentionBytes     int64         // < 0: no limit
	MaxMessageBytes    int
	MinInsyncReplicas  int
	CompressionType    string // producer, uncompressed, gzip, snappy, lz4, zstd
	CompressionLevel   int    // of that type; 0: the codec's default
	LogAppendTime      bool
	TimestampBeforeMax time.Duration
	TimestampAfterMax  time.Duration
	CleanupDelete      bool
	CleanupCompact     bool
	FileDeleteDelay    time.Duration
	Fsync              bool // flush.policy: fsync (default) or replicated
}

// ValidateTopic checks a topic's overrides, each and together. The error is an *Error.
func ValidateTopic(overrides map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		s := topicByName[name]
		if s == nil {
			return unknown(ScopeTopic, name)
		}
		if err := s.Check(overrides[name]); err != nil {
			return err
		}
	}
	least, okMin := overrides["min.compaction.lag.ms"]
	most, okMax := overrides["max.compaction.lag.ms"]
	if okMin && okMax {
		lo, _ := strconv.ParseInt(least, 10, 64) // checked above
		hi, _ := strconv.ParseInt(most, 10, 64)
		if lo > hi {
			return &Error{Name: "min.compaction.lag.ms", Msg: fmt.Sprintf(
				"conflict topic config setting min.compaction.lag.ms (%d) > max.compaction.lag.ms (%d)", lo, hi)}
		}
	}
	return nil
}

// ResolveTopic puts a topic's overrides over the broker's defaults. The result is usable even when an error is
// returned: overrides that are unknown or wrong (another version wrote them) are left out, and named in the error.
// It costs some microseconds: resolve when the metadata changes, not per request.
func ResolveTopic(overrides map[string]string, b *Broker) (Topic, error) {
	var errs []error
	v := values{}
	for _, s := range topicSettings {
		o, ok := overrides[s.Name]
		if ok {
			if err := s.Check(o); err != nil {
				errs, ok = append(errs, err), false
			}
		}
		if ok {
			v[s.Name] = s.canonical(o)
			continue
		}
		v[s.Name], _ = s.inherited(b)
	}
	for name := range overrides {
		if topicByName[name] == nil {
			errs = append(errs, unknown(ScopeTopic, name))
		}
	}
	t := Topic{
		SegmentBytes:       v.long("segment.bytes"),
		SegmentAge:         millis(v.long("segment.ms")),
		SegmentJitter:      millis(v.long("segment.jitter.ms")),
		IndexIntervalBytes: int(v.long("index.interval.bytes")),
		RetentionTime:      millis(v.long("retention.ms")),
		RetentionBytes:     v.long("retention.bytes"),
		MaxMessageBytes:    int(v.long("max.message.bytes")),
		MinInsyncReplicas:  int(v.long("min.insync.replicas")),
		CompressionType:    v["compression.type"],
		LogAppendTime:      v["message.timestamp.type"] == "LogAppendTime",
		TimestampBeforeMax: millis(v.long("message.timestamp.before.max.ms")),
		TimestampAfterMax:  millis(v.long("message.timestamp.after.max.ms")),
		CleanupDelete:      slices.Contains(SplitList(v["cleanup.policy"]), "delete"),
		CleanupCompact:     slices.Contains(SplitList(v["cleanup.policy"]), "compact"),
		FileDeleteDelay:    millis(v.long("file.delete.delay.ms")),
		Fsync:              v["flush.policy"] == "fsync",
	}
	switch t.CompressionType {
	case "gzip":
		t.CompressionLevel = max(0, int(v.long("compression.gzip.level"))) // -1: the codec's default
	case "lz4", "zstd":
		t.CompressionLevel = int(v.long("compression." + t.CompressionType + ".level"))
	}
	return t, errors.Join(errs...)
}

// inherited is a topic setting's value without an override: of the first broker synonym that someone set, else the
// default.
func (s *Setting) inherited(b *Broker) (string, Source) {
	for _, y := range s.synonyms {
		if src, ok := b.source[y.name]; ok && src != SourceDefault {
			return y.scale(b.v[y.name]), src
		}
	}
	return s.Default, SourceDefault
}

// InheritedByTopic is a topic setting's value where a topic does not override it; "" for an unknown name.
func InheritedByTopic(name string, b *Broker) string {
	s := topicByName[name]
	if s == nil {
		return ""
	}
	v, _ := s.inherited(b)
	return v
}

// scale converts a broker's value to the topic's unit. Negative values mean "no limit" in every unit.
func (y synonym) scale(v string) string {
	if y.mul == 0 {
		return v
	}
	n, err := strconv.ParseInt(v, 10, 64)
	must(err == nil, y.name)
	switch {
	case n < 0:
		return "-1"
	case n > math.MaxInt64/y.mul:
		return maxLong
	}
	return strconv.FormatInt(n*y.mul, 10)
}
