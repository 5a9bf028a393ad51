package cluster

import (
	"context"
	"encoding/binary"
	"log/slog"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"

	"github.com/balsa-broker/balsa/vfs"
	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// fuzzHost is an announceHost whose calls are answered with the same bytes.
type fuzzHost []byte

func (h fuzzHost) call(context.Context, int32, kind, []byte) ([]byte, error) { return h, nil }
func (h fuzzHost) alivePeers() []int32                                       { return nil }
func (h fuzzHost) gone(int32) bool                                           { return true }
func (fuzzHost) resigned(*leadership)                                        {}

// FuzzDecodeMessages: every message between brokers, and every answer, may be any bytes. Nothing panics; what is
// accepted can be sent on.
func FuzzDecodeMessages(f *testing.F) {
	f.Add((&leadership{inSync: []int32{1}}).encode(nil))
	f.Add(append(binary.AppendUvarint(nil, leaderShards), (&leadership{inSync: []int32{1}}).encode(nil)...))
	f.Add((standing{state: stateFollower, voter: true}).encode(nil))
	f.Add((question{group: 1, term: 2}).encode(nil))
	f.Add(make([]byte, 16))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ls, err := decodeLeaderships(b); err == nil {
			var again []byte
			for _, l := range ls {
				again = l.encode(again)
			}
			if _, err := decodeLeaderships(again); err != nil {
				t.Fatal(err)
			}
		}
		if qs, err := decodeQuestions(b); err == nil && len(qs)*questionSize != len(b) {
			t.Fatalf("%d questions in %d bytes", len(qs), len(b))
		}
		if as, err := decodeStandings(b); err == nil && len(as)*answerSize != len(b) {
			t.Fatalf("%d answers in %d bytes", len(as), len(b))
		}
		if ss, err := decodeStands(b); err == nil {
			var again []byte
			for _, s := range ss {
				again = s.encode(again)
			}
			if more, err := decodeStands(again); err != nil || len(more) != len(ss) {
				t.Fatalf("%d stands became %d: %v", len(ss), len(more), err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // no pull of its own
		a := newAnnouncer(ctx, fuzzHost(b), newLeaderTable(), 1, Timing{}, slog.New(slog.DiscardHandler))
		_, _ = a.receive(b)
		_, _ = a.answerPull(b)
		_, _ = a.answerDigest(2, b)
		_ = a.pullAll(2)
		a.wg.Wait()
	})
}

// FuzzMember: the tags of a gossip member, which any machine of the network may send.
func FuzzMember(f *testing.F) {
	tags := member{Node: 3, Incarnation: 4, Run: 5, ClusterID: "c", Expect: 3, HasState: true}.encodeTags()
	var b []byte
	if err := codec.NewEncoderBytes(&b, &codec.MsgpackHandle{}).Encode(tags); err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{255}, b...))
	f.Add([]byte{255, 0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMember(decodeMeta(b))
		if err != nil {
			return
		}
		again, err := decodeMember(m.encodeTags())
		if m.Expect = max(m.Expect, 0); err != nil || again != m {
			t.Fatalf("%+v became %+v: %v", m, again, err)
		}
	})
}

// FuzzIdentityFiles: what the identity file and the hints hold. An identity that is accepted is this node's, and is
// kept.
func FuzzIdentityFiles(f *testing.F) {
	fsys := crashfs.New(1)
	if _, err := loadIdentity(fsys, "/", 3); err != nil {
		f.Fatal(err)
	}
	b, _ := vfs.ReadFile(fsys, "/"+metaFile, 1<<20)
	f.Add(b)
	f.Add([]byte(`{"3":{}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys := crashfs.New(1)
		for _, name := range []string{metaFile, peersFile} {
			if err := vfs.WriteFile(fsys, "/", "/"+name, b); err != nil {
				t.Fatal(err)
			}
		}
		for range loadHints(fsys, "/") {
			break
		}
		id, err := loadIdentity(fsys, "/", 3)
		if err != nil {
			return
		}
		if id.NodeID != 3 || id.Incarnation == 0 {
			t.Fatalf("%+v", id)
		}
		if again, err := loadIdentity(fsys, "/", 3); err != nil || again != id {
			t.Fatalf("%+v became %+v: %v", id, again, err)
		}
	})
}
