// Package partition is one Raft group over a segment.Log: append, read, high watermark, producer state, and the seam
// on which a state machine rides.
package partition

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/internal/iolock"
	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
)

// Errors of Append, Read and the offset queries; broker maps each to one Kafka error code.
var (
	ErrNotLeader            = errors.New("partition: not the leader")
	ErrLeaderNotReady       = errors.New("partition: leader has not committed in its term yet") // OFFSET_NOT_AVAILABLE, or NOT_LEADER for fetch
	ErrFencedEpoch          = errors.New("partition: leader epoch is older than the current one")
	ErrUnknownEpoch         = errors.New("partition: leader epoch is newer than the current one")
	ErrOffsetOutOfRange     = errors.New("partition: offset out of range")
	ErrNotEnoughReplicas    = errors.New("partition: fewer in-sync replicas than min.insync.replicas")
	ErrNotEnoughAfterAppend = errors.New("partition: appended, but fewer in-sync replicas than min.insync.replicas")
	ErrTimedOut             = errors.New("partition: not committed in time")
	ErrOutOfOrderSequence   = errors.New("partition: out of order sequence number")
	ErrDuplicateSequence    = errors.New("partition: duplicate sequence number, older than those remembered")
	ErrProducerFenced       = errors.New("partition: producer epoch is older than the current one")
	ErrUnknownProducer      = errors.New("partition: unknown producer id")
	ErrOverloaded           = errors.New("partition: too much in flight")
	ErrStorage              = errors.New("partition: storage error") // KAFKA_STORAGE_ERROR
	ErrDiskFull             = errors.New("partition: disk is full")  // KAFKA_STORAGE_ERROR, before raft
	ErrCorrupt              = errors.New("partition: replica is damaged and does not serve")
	ErrClosed               = errors.New("partition: closed")
	// ErrLost: a log without votes, or votes without a log. The replica comes back under a new id (safety rule 1).
	ErrLost = errors.New("partition: replica is lost")
	// ErrRestarting: the group starts again with another log; the caller's request is to be repeated.
	ErrRestarting = errors.New("partition: group is restarting")
)

// Replica names one replica of one group for ever: a broker, and an id that the controller never gives twice.
type Replica struct {
	Node int32
	ID   uint64
}

// Options of a partition replica.
type Options struct {
	Topic   string
	TopicID [16]byte
	ID      int32 // partition number
	Self    Replica
	// Bootstrap: the voters of a partition that is being created, Self among them; nil when the replica exists or
	// joins later as a learner (safety rule 1).
	Bootstrap []Replica
	Dir       string
	FS        vfs.FS
	Sync      *segment.Syncer
	Votes     raft.StableStore
	// NewTransport registers the replica with the broker's transport; p implements transport.Group already.
	NewTransport func(p *Partition) (raft.Transport, error)
	Config       func() config.Topic
	// DiskFull says whether produce is to be refused (safety rule 14).
	DiskFull func() bool
	// DiskTight says whether segments are to take no space ahead of its use, as the disk is nearly full.
	DiskTight func() bool
	// ClockTrusted says why the time given, this broker's, is not to be believed, before anything is deleted or forgotten
	// for its age (safety rule 19). Default: it is.
	ClockTrusted func(now time.Time) error
	// OnLeader is called, in order, when this replica becomes a serving leader (its Barrier is applied) and when it
	// stops being one. It must not block.
	OnLeader func(p *Partition, leading bool, epoch int32)
	// ReplicaLag returns how long ago a follower last acknowledged the end of the leader's log (from the transport).
	ReplicaLag func(r Replica) (lag time.Duration, matchIndex uint64, ok bool)
	Machine    StateMachine // may be nil
	Timing     Timing
	Logger     *slog.Logger
	Now        func() time.Time

	// The rest is optional; 0 is the default.
	ReplicaLagMax    time.Duration // replica.lag.time.max.ms; 30 s
	MaxInflightBytes int64         // appended and not yet committed; 64 MiB. One batch may always go.
	MaxProducers     int           // remembered producers, the least recent forgotten beyond; 10,000
	ProducerExpiry   time.Duration // producer.id.expiration.ms; 24 h
	BootID           string        // names the run of the machine; the system's. For tests of crashes
}

// Timing is Raft's; see docs/design/timing.md.
type Timing struct {
	Heartbeat, Election, Lease, Commit time.Duration
}

// StateMachine rides on a partition: it sees every committed entry that carries records or a command, on every
// replica, in order. Pure: no clock, no randomness, no I/O.
type StateMachine interface {
	// Apply one committed entry. For a batch, data is the whole batch; for a Command its payload; both are good until
	// Apply returns. The result is handed to the proposer on the leader. One goroutine calls Apply and Snapshot, and
	// Restore while that one rests.
	Apply(e segment.Entry, data []byte) any
	// Snapshot encodes the state as of the last applied entry; Restore replaces it (nil: by the empty state).
	Snapshot() []byte
	Restore(state []byte) error
}

// Partition is one replica. All methods may be called concurrently.
//
// Locks, in the order in which they are taken: appendMu (what is handed to Raft keeps the order of its tickets) and
// storeMu (one writer of the log at a time) never together; mu inside either, for the state in memory, never across I/O.
type Partition struct {
	o      Options
	log    *segment.Log
	logger *slog.Logger
	mark   *markFile // the loop's, and Close's after it
	group  atomic.Pointer[group]
	quorum atomic.Int32 // voters / 2 + 1 of the latest configuration that was applied

	appendMu sync.Mutex

	storeMu   iolock.Mutex
	gate      gate
	truncated bool // a suffix was cut and nothing stored since (safety rule 7)
	scratch   []segment.NewEntry

	hw        atomic.Int64 // never falls
	logStart  atomic.Int64 // as the log's commands say; the files may begin lower (Partition.advance)
	fileStart atomic.Int64 // where the files begin
	applied   atomic.Uint64
	leading   atomic.Int32 // the epoch while serving, else -1
	hasConf   atomic.Bool
	failure   atomic.Pointer[error]

	mu sync.Mutex
	// State built by the log: only the FSM's goroutine changes it.
	next      int64 // offset after the last applied record
	confIndex uint64
	conf      []byte
	producers map[int64]*producer
	rolls     []uint64 // bases of new segments whose checkpoint (base-1) is to be captured
	durable   map[uint64]bool
	// The leader's.
	term          uint64 // in which this replica leads; 0: it does not
	ready         bool   // a fence of this term was applied
	paused        bool   // leadership is being handed over
	refence       bool   // the hand-over failed: go on when a fence was applied
	fenceSent     time.Time
	epoch         uint64 // of tickets; never reused in this process
	nextTicket    uint64
	storedTickets uint64
	broken        bool // the epoch takes no more; a new one begins when it has drained
	inflight      []*op
	inflightBytes int64
	late          []*op         // committed, waiting for min.insync.replicas
	room          chan struct{} // closed when anything of the above changes for the better; nil: nobody waits
	ledSince      int64         // ms
	changed       chan struct{} // see Changed
	identity      identity
	restart       *restartRequest

	verify   verifier
	inSync   inSyncCache
	kickC    chan struct{}
	marking  atomic.Bool // a write of the mark is due
	watched  atomic.Bool // the loop looks after what is in flight
	closing  chan struct{}
	stopping atomic.Bool
	closed   chan struct{}
	loopEnd  chan struct{}
	bg       sync.WaitGroup // checkpoints, commands of the loop
	busy     atomic.Bool    // a command of the loop is under way
	ckptMu   iolock.Mutex

	fsynced        bool // the loop's: the log is known to follow flush policy fsync
	announced      bool // the loop's: OnLeader(true) was called last
	announcedEpoch int32
	markDue        time.Time
	markSyncing    bool // the mark is to be synced by markSyncDue
	markSyncDue    time.Time
	expiryDue      time.Time
}
