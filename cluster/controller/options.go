package controller

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/transport"
)

// Options of a Controller. Zero values of the optional ones are replaced by what their comment says.
type Options struct {
	Dir         string // its own folder: raft.db, snapshots/, member
	Node        int32
	Incarnation uint64 // of the data dir: 1 to 2^63-1
	Mux         *transport.Mux

	Timing Timing
	Voters int          // voters of the group once there are brokers enough: 3 (default) or 5
	Logger *slog.Logger // default: slog.Default

	// OnLeader, if set, is told when this broker becomes the controller (after its Barrier: all that was decided
	// before is in the image) and when it is no longer. Calls come from one goroutine, in turn; while one runs, later
	// changes are merged. It must return soon after Close began.
	OnLeader func(leader bool)

	// Peers, if set, names brokers that may know the controller: asked by Propose while this broker, not yet a
	// member, follows no leader.
	Peers func() []int32
}

// Timing of the controller group.
type Timing struct {
	Heartbeat time.Duration // heartbeat and election timeout, 1 s: a dead controller is replaced in 1 to 2 s
	Lease     time.Duration // half the heartbeat timeout
	Commit    time.Duration // 50 ms: how far the followers' images may lag when nothing else happens

	SnapshotInterval  time.Duration // how often it is asked whether a snapshot is due: 2 min
	SnapshotThreshold uint64        // commands since the last that make one due: 4096
	TrailingLogs      uint64        // entries kept behind a snapshot: 4096
}

func (t Timing) withDefaults() Timing {
	t.Heartbeat = cmp.Or(t.Heartbeat, time.Second)
	t.Lease = cmp.Or(t.Lease, t.Heartbeat/2)
	t.Commit = cmp.Or(t.Commit, 50*time.Millisecond)
	t.SnapshotInterval = cmp.Or(t.SnapshotInterval, 2*time.Minute)
	t.SnapshotThreshold = cmp.Or(t.SnapshotThreshold, 4096)
	t.TrailingLogs = cmp.Or(t.TrailingLogs, 4096)
	return t
}

var (
	// ErrClosed: the controller was closed.
	ErrClosed = errors.New("controller: closed")
	// ErrNotLeader: the request can only be served by the controller's leader.
	ErrNotLeader = errors.New("controller: not the leader")
	// ErrHasState: a broker with any controller state never bootstraps a cluster.
	ErrHasState = errors.New("controller: already has state")
	// ErrLost: this broker was a member of the controller group and its log is gone. It must not vote as if it still
	// held what it lost: it comes back with an empty data dir, as another incarnation.
	ErrLost = errors.New("controller: the log of this member is lost")
)

// Member is one broker's part in the controller group: the broker and the disk. Another incarnation is another member.
type Member struct {
	Node        int32
	Incarnation uint64
}

// The controller group's replica ids are those with the highest bit set, so that they never meet a partition's.
const replicaBit = 1 << 63

// Generations are the members that one disk can be, one after another: one whose log was damaged comes back as the next.
// They differ from the disk's incarnation in the bits from generationBit on.
const (
	Generations   = 1 << 8
	generationBit = 54
)

// MemberOf is the member that a disk is in a generation; 0: the disk's incarnation itself.
func MemberOf(node int32, disk uint64, generation uint8) Member {
	return Member{Node: node, Incarnation: disk ^ uint64(generation)<<generationBit}
}

// OnDisk says whether the member is one of a disk's, given the disk's incarnation.
func (m Member) OnDisk(incarnation uint64) bool {
	return (m.Incarnation^incarnation)&(1<<generationBit-1) == 0
}

// ReplicaID of the member.
func (m Member) ReplicaID() uint64 { return replicaBit | m.Incarnation }

// ServerID is the member's name and address in Raft, "<node>/<replica id>".
func (m Member) ServerID() raft.ServerID {
	return raft.ServerID(transport.Address(m.Node, m.ReplicaID()))
}

func (m Member) String() string { return fmt.Sprintf("%d (incarnation %016x)", m.Node, m.Incarnation) }

func parseMember(id raft.ServerID) (Member, error) {
	node, replica, err := transport.ParseAddress(raft.ServerAddress(id))
	if err != nil || replica&replicaBit == 0 {
		return Member{}, fmt.Errorf("controller: %q is not a member's id", id)
	}
	return Member{Node: node, Incarnation: replica &^ replicaBit}, nil
}

// MemberStatus is a member as the group's configuration has it.
type MemberStatus struct {
	Member
	Voter bool
}
