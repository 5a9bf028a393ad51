package raftconf

import (
	"reflect"
	"runtime"
	"testing"

	"github.com/hashicorp/raft"
)

// FuzzDecode: no bytes panic; what is accepted is read the same when Raft has written it.
func FuzzDecode(f *testing.F) {
	f.Add(raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "1/2", Address: "1/2"}, {Suffrage: raft.Nonvoter, ID: "x"}}}))
	f.Add([]byte("x"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(raft.EncodeConfiguration(c))
		if err != nil || len(again.Servers) != len(c.Servers) || len(c.Servers) > 0 && !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v became %+v: %v", c, again, err)
		}
	})
}

// A length that is claimed and not there takes no memory.
func TestClaimedLength(t *testing.T) {
	b := []byte("\x81\xa7\x8d\x01r@@@@\x8dS\xca\xca\xf5\x14\x14\x14\x14\x14\x14\x14\x14\xc9\xff\xff\x00\xd4\xff\xff")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Decode(b); err == nil {
		t.Error("accepted")
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes were allocated for %d", n, len(b))
	}
}
