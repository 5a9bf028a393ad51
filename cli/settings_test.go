package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsa-broker/balsa/config"
)

// listenersOf resolves listener flags as serve does.
func listenersOf(t *testing.T, listen, advertise string) ([]listenerAddress, error) {
	t.Helper()
	static := map[string]string{}
	var own []string
	if listen != "" {
		v, err := nameListeners("kafka-listen", listen, nil)
		if err != nil {
			return nil, err
		}
		static["listeners"], own = v, []string{"listeners=" + v}
	}
	if advertise != "" {
		v, err := nameListeners("kafka-advertise", advertise, own)
		if err != nil {
			return nil, err
		}
		static["advertised.listeners"] = v
	}
	b, err := config.NewBroker(static)
	if err != nil {
		return nil, err
	}
	return kafkaListeners(b)
}

func TestListeners(t *testing.T) {
	for _, c := range []struct {
		name, listen, advertise string
		want                    []listenerAddress
		refused                 string
	}{
		{name: "default", want: []listenerAddress{{"PLAINTEXT", "127.0.0.1:9092", "127.0.0.1:9092"}}},
		{name: "own address", listen: "10.0.0.1:9092", want: []listenerAddress{{"PLAINTEXT", "10.0.0.1:9092", "10.0.0.1:9092"}}},
		{
			name: "wildcard", listen: "0.0.0.0:9092", advertise: "broker-1:9092",
			want: []listenerAddress{{"PLAINTEXT", "0.0.0.0:9092", "broker-1:9092"}},
		},
		{
			name: "two", listen: "INTERNAL://broker-1:9092,EXTERNAL://:19092", advertise: "EXTERNAL://127.0.0.1:19092",
			want: []listenerAddress{{"INTERNAL", "broker-1:9092", "broker-1:9092"}, {"EXTERNAL", ":19092", "127.0.0.1:19092"}},
		},
		{
			name: "one with a name", listen: "X://[::]:9092", advertise: "h:1",
			want: []listenerAddress{{"X", "[::]:9092", "h:1"}},
		},
		{name: "wildcard alone", listen: "0.0.0.0:9092", refused: "add --kafka-advertise"},
		{name: "wildcard v6", listen: "[::]:9092", refused: "add --kafka-advertise"},
		{name: "empty host", listen: ":9092", refused: "add --kafka-advertise"},
		{name: "advertised wildcard", listen: "0.0.0.0:9092", advertise: "0.0.0.0:9092", refused: "wildcard"},
		{name: "advertised port 0", listen: "0.0.0.0:9092", advertise: "h:0", refused: "port 0"},
		{name: "several without names", listen: "a:1,b:2", refused: "needs a name"},
		{name: "name twice", listen: "A://a:1,A://b:2", refused: "twice"},
		{name: "no such listener", listen: "A://a:1", advertise: "B://b:2", refused: "no listener called B"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := listenersOf(t, c.listen, c.advertise)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %v, %v; want an error with %q", got, err, c.refused)
				}
				return
			}
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("got %v, %v", got, err)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("listener %d: got %v, want %v", i, got[i], c.want[i])
				}
			}
		})
	}
}

func TestPeerAddress(t *testing.T) {
	for _, c := range []struct{ listen, advertise, want, refused string }{
		{"127.0.0.1:9192", "", "", ""},
		{"0.0.0.0:9192", "b:9192", "b:9192", ""},
		{"0.0.0.0:9192", "", "", "add --cluster-advertise"},
		{"b:9192", "[::]:9192", "", "wildcard"},
	} {
		got, err := peerAddress("cluster", c.listen, c.advertise)
		if (err != nil) != (c.refused != "") || err != nil && !strings.Contains(err.Error(), c.refused) || err == nil && got != c.want {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
}

// Flags win over --set, --set over the environment, the environment over the file.
func TestConfigPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "balsa.yaml")
	if err := os.WriteFile(file, []byte("num.partitions: 2\nnode.id: 2\nmessage.max.bytes: 2000\nbroker.rack: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BALSA_NUM_PARTITIONS", "3")
	t.Setenv("BALSA_NODE_ID", "3")
	t.Setenv("BALSA_MESSAGE_MAX_BYTES", "3000")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{
		"balsa", "config", "show", "--config-file", file,
		"--set", "message.max.bytes=4000", "--set", "node.id=4", "--node-id", "5",
	}, strings.NewReader(""), &stdout, &stderr)
	if code != exitOK {
		t.Fatal(stderr.String())
	}
	shown := map[string]string{}
	for line := range strings.Lines(stdout.String()) {
		if f := strings.Fields(line); len(f) >= 2 {
			shown[f[0]] = f[1]
		}
	}
	for name, want := range map[string]string{"num.partitions": "3", "message.max.bytes": "4000", "node.id": "5", "broker.rack": "a"} {
		if shown[name] != want {
			t.Errorf("%s is %q, want %q\n%s", name, shown[name], want, stdout.String())
		}
	}
}

func TestDataDir(t *testing.T) {
	dir := t.TempDir()
	if err := checkDataDir(filepath.Join(dir, "new", "deep")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := checkDataDir(filepath.Join(file, "below"))
	if err == nil || !strings.HasPrefix(err.Error(), "--data-dir") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v, want one line that names --data-dir", err)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"512MiB": 512 << 20, "1GiB": 1 << 30, "400M": 400 << 20, "134217728": 128 << 20, "1.5G": 3 << 29, "100MB": 100_000_000,
		"5": 0, "x": 0, "12QiB": 0, "-1G": 0, "": 0,
	} {
		got, err := parseSize(s)
		if got != want || (err != nil) != (want == 0) {
			t.Errorf("%q: got %d, %v; want %d", s, got, err, want)
		}
	}
}

func TestParseFrom(t *testing.T) {
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]startAt{
		"start": {'s', 0}, "end": {'e', 0}, "0": {'o', 0}, "42": {'o', 42}, "-3": {'l', 3},
		"@1714564800000": {'t', 1714564800000}, "@-15m": {'t', now.Add(-15 * time.Minute).UnixMilli()},
		"@2024-05-01T12:00:00Z": {'t', now.UnixMilli()}, "@2024-05-01": {'t', now.Add(-12 * time.Hour).UnixMilli()},
	} {
		if got, err := parseFrom(s, now); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "@", "@tomorrow", "1.5", "middle"} {
		if got, err := parseFrom(s, now); err == nil {
			t.Errorf("%q was taken as %v", s, got)
		}
	}
}

func TestJSONRecord(t *testing.T) {
	r := jsonRecord(&kgo.Record{Value: []byte{0xff, 0x00}, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}})
	if r["key"] != nil || r["value_base64"] == nil || r["headers"] == nil {
		t.Fatalf("%v", r)
	}
}
