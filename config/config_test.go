package config

import (
	"bytes"
	"errors"
	"flag"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

func TestDocumentation(t *testing.T) {
	const file = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(file, Markdown(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytes.ReplaceAll(got, []byte("\r\n"), []byte("\n")), Markdown()) {
		t.Fatal("docs/configuration.md is not what the table says: go generate ./config")
	}
}

// Every row is documented, and its default passes its own check and is canonical.
func TestTable(t *testing.T) {
	for _, scope := range []Scope{ScopeTopic, ScopeBroker} {
		for _, s := range Settings(scope) {
			if s.Doc == "" || strings.Contains(s.Doc, "|") {
				t.Errorf("%s: documentation %q", s.Name, s.Doc)
			}
			if !s.Null && s.canonical(s.Default) != s.Default {
				t.Errorf("%s: default %q is not canonical", s.Name, s.Default)
			}
			if s.Null && s.Default != "" || s.Kafka != "" && s.Why == "" {
				t.Errorf("%s: contradicts itself", s.Name)
			}
			if s.own() == (s.Kafka != "") && s.Kafka != "" {
				t.Errorf("%s: Kafka has no such setting", s.Name)
			}
		}
	}
	// A topic's default and its broker setting's default are the same number.
	for _, s := range topicSettings {
		for _, y := range s.synonyms {
			b := brokerByName[y.name]
			if !b.Null && y.scale(b.Default) != s.Default {
				t.Errorf("%s defaults to %s, %s to %s", s.Name, s.Default, b.Name, b.Default)
			}
		}
	}
}

func TestResolveTopicPrecedence(t *testing.T) {
	static, err := NewBroker(map[string]string{"log.retention.hours": "2", "log.segment.bytes": "2097152", "balsa.flush.policy": "replicated"})
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := static.With(map[string]string{"log.retention.ms": "5000", "log.segment.bytes": "4194304"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		b         *Broker
		overrides map[string]string
		retention time.Duration
		segment   int64
		fsync     bool
	}{
		"defaults":   {Default(), nil, 7 * 24 * time.Hour, 1 << 30, true},
		"static":     {static, nil, 2 * time.Hour, 2 << 20, false},
		"dynamic":    {dyn, nil, 5 * time.Second, 4 << 20, false},
		"override":   {dyn, map[string]string{"retention.ms": "-1", "flush.policy": "fsync"}, -time.Millisecond, 4 << 20, true},
		"saturation": {dyn, map[string]string{"retention.ms": maxLong}, math.MaxInt64, 4 << 20, false},
	} {
		got, err := ResolveTopic(c.overrides, c.b)
		if err != nil || got.RetentionTime != c.retention || got.SegmentBytes != c.segment || got.Fsync != c.fsync {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// What another version wrote is left out, and named; the rest counts.
	got, err := ResolveTopic(map[string]string{"segment.bytes": "zero", "later.setting": "1", "retention.bytes": "7"}, Default())
	if err == nil || !strings.Contains(err.Error(), "later.setting") || !strings.Contains(err.Error(), "segment.bytes") {
		t.Error(err)
	}
	if got.SegmentBytes != 1<<30 || got.RetentionBytes != 7 {
		t.Errorf("%+v", got)
	}
}

func TestResolveTopicValues(t *testing.T) {
	got, err := ResolveTopic(map[string]string{
		"cleanup.policy": " compact , delete", "compression.type": "zstd", "compression.zstd.level": "-5",
		"message.timestamp.type": "LogAppendTime",
	}, Default())
	if err != nil || !got.CleanupCompact || !got.CleanupDelete || got.CompressionLevel != -5 || !got.LogAppendTime {
		t.Errorf("%+v, %v", got, err)
	}
	got, _ = ResolveTopic(map[string]string{"compression.type": "gzip"}, Default())
	if got.CompressionLevel != 0 || got.CleanupCompact || got.TimestampAfterMax != time.Hour || got.TimestampBeforeMax != math.MaxInt64 {
		t.Errorf("%+v", got)
	}
}

func TestValidateTopic(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"retention.ms", "-1", ""},
		{"retention.ms", " 7 ", ""},
		{"retention.ms", "-2", "Value must be at least -1"},
		{"retention.ms", "7d", "Not a number of type LONG"},
		{"segment.bytes", "1048575", "Value must be at least 1048576"},
		{"segment.bytes", "2147483648", "Not a number of type INT"},
		{"cleanup.policy", "compact,delete", ""},
		{"cleanup.policy", "", "must not be empty"},
		{"cleanup.policy", "compact,shred", "must be one of"},
		{"preallocate", "TRUE", "supports only false"},
		{"unclean.leader.election.enable", "false", ""},
		{"unclean.leader.election.enable", "true", "supports only false"},
		{"min.cleanable.dirty.ratio", "NaN", "Not a number"},
		{"min.cleanable.dirty.ratio", "1.1", "between 0 and 1"},
		{"compression.gzip.level", "0", "at least 1"},
		{"compression.gzip.level", "-1", ""},
		{"leader.replication.throttled.replicas", "0:1,1:2", ""},
		{"leader.replication.throttled.replicas", "*", ""},
		{"leader.replication.throttled.replicas", "", ""},
		{"leader.replication.throttled.replicas", "0-1", "partitionId:brokerId"},
		{"flush.policy", "never", "must be one of"},
		{"retention.m", "1", "did you mean retention.ms?"},
		{"flush.ms", strings.Repeat("9", maxValueBytes+1), "longer than"},
	} {
		err := ValidateTopic(map[string]string{c.name: c.value})
		var e *Error
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s=%.20s: %v, want %q", c.name, c.value, err, c.want)
		case err != nil && (!errors.As(err, &e) || e.Name != c.name || !errors.Is(err, ErrInvalid) || len(err.Error()) > 600):
			t.Errorf("%s=%.20s: untyped or long error %v", c.name, c.value, err)
		}
	}
	if err := ValidateTopic(map[string]string{"min.compaction.lag.ms": "10", "max.compaction.lag.ms": "9"}); err == nil {
		t.Error("min > max accepted")
	}
}

func TestBrokerDynamic(t *testing.T) {
	for _, c := range []struct {
		name, value string
		perBroker   bool
		want        string
	}{
		{"message.max.bytes", "2000000", false, ""},
		{"message.max.bytes", "2000000", true, "at broker level"},
		{"num.partitions", "3", false, "dynamically"},
		{"balsa.disk.min.free.bytes", "1", true, ""},
		{"log.retention.mss", "1", false, "did you mean log.retention.ms?"},
	} {
		err := ValidateBroker(c.name, c.value, c.perBroker)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	b, err := Default().With(map[string]string{"message.max.bytes": "5", "num.partitions": "9"}, map[string]string{"balsa.disk.min.free.bytes": "0"})
	if err == nil || !strings.Contains(err.Error(), "num.partitions") {
		t.Error(err)
	}
	if b.MessageMaxBytes() != 5 || b.NumPartitions() != 1 || b.DiskMinFree(1<<40) != 0 {
		t.Error(b.MessageMaxBytes(), b.NumPartitions(), b.DiskMinFree(1<<40))
	}
	if back, err := b.With(nil, nil); err != nil || back.MessageMaxBytes() != 1048588 {
		t.Error("a dynamic setting outlived its removal")
	}
}

func TestBrokerDefaults(t *testing.T) {
	b := Default()
	if b.BootstrapExpect() != 1 || b.DefaultReplicationFactor() != -1 || b.ReplicaLagTimeMax() != 30*time.Second ||
		b.ConnectionsMaxIdle() != 10*time.Minute || b.LeaderImbalanceCheckInterval() != 5*time.Minute || b.DiskMinFree(1<<30) != 1<<30/20 {
		t.Error("defaults")
	}
	j, err := NewBroker(map[string]string{"balsa.join": "a:9193,b:9193"})
	if err != nil || j.BootstrapExpect() != 0 || len(j.Join()) != 2 {
		t.Error(j.BootstrapExpect(), j.Join(), err)
	}
	for _, bad := range []map[string]string{
		{"balsa.raft.leader.lease.ms": "9000"},
		{"socket.request.max.bytes": "1000"},
		{"retention.ms": "1"},
		{"listeners": "localhost:9092"},
		{"default.replication.factor": "0"},
		{"log.roll.hours": "0"},
	} {
		if _, err := NewBroker(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestDescribeTopic(t *testing.T) {
	b, _ := NewBroker(map[string]string{"log.retention.hours": "2"})
	b, _ = b.With(map[string]string{"log.retention.ms": "5000"}, nil)
	for _, e := range DescribeTopic(map[string]string{"retention.ms": "1"}, b) {
		switch e.Name {
		case "retention.ms":
			want := []Synonym{
				{Name: "retention.ms", Value: "1", Source: SourceTopic},
				{Name: "log.retention.ms", Value: "5000", Source: SourceClusterDefault},
				{Name: "log.retention.hours", Value: "2", Source: SourceStatic},
				{Name: "log.retention.hours", Value: "168", Source: SourceDefault},
			}
			if e.Value != "1" || e.Source != SourceTopic || e.Type != Long || e.ReadOnly || len(e.Synonyms) != len(want) {
				t.Fatalf("%+v", e)
			}
			for i := range want {
				if e.Synonyms[i] != want[i] {
					t.Errorf("synonym %d: %+v", i, e.Synonyms[i])
				}
			}
		case "preallocate":
			if !e.ReadOnly || e.Source != SourceDefault {
				t.Errorf("%+v", e)
			}
		}
		if e.Source == 0 || len(e.Synonyms) == 0 || e.Doc == "" {
			t.Errorf("%+v", e)
		}
	}
}

func TestDescribeBroker(t *testing.T) {
	b, _ := NewBroker(map[string]string{"num.partitions": "3"})
	b, _ = b.With(map[string]string{"log.segment.bytes": "2000000"}, nil)
	seen := map[string]Entry{}
	for _, e := range DescribeBroker(b) {
		seen[e.Name] = e
	}
	if e := seen["num.partitions"]; e.Value != "3" || e.Source != SourceStatic || !e.ReadOnly || len(e.Synonyms) != 2 {
		t.Errorf("%+v", e)
	}
	if e := seen["log.segment.bytes"]; e.Value != "2000000" || e.Source != SourceClusterDefault || e.ReadOnly {
		t.Errorf("%+v", e)
	}
	if e := seen["log.retention.ms"]; !e.Null || e.Source != SourceDefault {
		t.Errorf("%+v", e)
	}
	if got := DescribeClusterDefaults(map[string]string{"log.segment.bytes": "2000000", "gone": "1"}); len(got) != 1 || got[0].Source != SourceClusterDefault {
		t.Errorf("%+v", got)
	}
}

func TestLoad(t *testing.T) {
	got, err := Load([]byte("# comment\nnum.partitions: 6\nbalsa.join: [a:9193, b:9193]\nbroker.rack:\nlog.dirs: /data\n"),
		[]string{
			"BALSA_NUM_PARTITIONS=7", "BALSA_BOOTSTRAP_EXPECT=3", "BALSA_SERVICE_HOST=10.0.0.1", "BALSA_PORT_9092_TCP_ADDR=10.0.0.1",
			"BALSA_BROKERS=x", "HOME=/root",
		},
		[]string{"log.dirs=/other=data"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"num.partitions": "7", "balsa.join": "a:9193,b:9193", "log.dirs": "/other=data", "balsa.bootstrap.expect": "3"}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q", k, got[k])
		}
	}
	if len(got) != len(want) {
		t.Error(got)
	}
	if got, err := Load(nil, nil, nil); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	for _, c := range []struct {
		file, env, set, want string
	}{
		{file: "num.partition: 1", want: "line 1: Unknown broker config name: num.partition (did you mean num.partitions?)"},
		{file: "num.partitions: x", want: "line 1: Invalid value x"},
		{file: "a\n- b", want: "configuration file"},
		{file: "log:\n  retention:\n    hours: 1", want: "line 1"},
		{file: "num.partitions: 1\nnum.partitions: 2", want: "num.partitions"},
		{env: "BALSA_RETENTION_HOURS=1", want: "did you mean log.retention.hours?"},
		{set: "num.partitions", want: "want name=value"},
		{set: "expect=1", want: "Unknown"},
	} {
		var env, sets []string
		if c.env != "" {
			env = []string{c.env}
		}
		if c.set != "" {
			sets = []string{c.set}
		}
		if _, err := Load([]byte(c.file), env, sets); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("num.partitions: 6\nbalsa.join: [a:1]\n"))
	f.Add([]byte("a: &x [*x]\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := Load(file, nil, nil)
		if err == nil {
			_, _ = NewBroker(got)
		}
	})
}
