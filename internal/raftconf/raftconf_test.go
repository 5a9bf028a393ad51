package raftconf

import (
	"reflect"
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
