// Package partition is one Raft group over a segment.Log: append, read, high watermark, producer state, and the seam
// on which a state machine rides.
package partition

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol/record"
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
	// OnLeader is called, in order, when this replica becomes a serving leader (its Barrier is applied) and when it
	// stops being one. It must not block.
	OnLeader func(p *Partition, leading bool, epoch int32)
	// ReplicaLag returns how long ago a follower last acknowledged the end of the leader's log (from the transport).
	ReplicaLag func(r Replica) (lag time.Duration, matchIndex uint64, ok bool)
	Machine    StateMachine // may be nil
	Timing     Timing
	Logger     *slog.Logger
	Now        func() time.Time
}

// Timing is Raft's; see docs/design/timing.md.
type Timing struct {
	Heartbeat, Election, Lease, Commit time.Duration
}

// StateMachine rides on a partition: it sees every committed entry that carries records or a command, on every
// replica, in order. Pure: no clock, no randomness, no I/O.
type StateMachine interface {
	// Apply one committed entry. For a batch, data is the whole batch; for a Command its payload. Return is handed to
	// the proposer on the leader.
	Apply(e segment.Entry, data []byte) any
	// Snapshot encodes the state as of the last applied entry; Restore replaces it.
	Snapshot() []byte
	Restore(state []byte) error
}

// Partition is one replica. All methods may be called concurrently.
type Partition struct{}

// Open recovers the replica in o.Dir (or makes it) and starts its Raft group. It returns ErrCorrupt (with what was
// found) when the replica must not vote.
func Open(o Options) (*Partition, error) { panic("todo") }

// AppendResult is the outcome of an append.
type AppendResult struct {
	BaseOffset     int64
	LogAppendTime  int64 // ms, or -1
	LogStartOffset int64
	Err            error
}

// Append validates header fields that need the log (producer sequence, epoch), hands the batch to Raft and returns at
// once; the result comes by Pending. Calls of one goroutine are stored in order. The batch's bytes belong to the
// partition until the Pending is done. It was checked before (record.Validate); base offset and epoch are stamped in place.
// Blocks only for back-pressure, never longer than timeout.
func (p *Partition) Append(b record.Batch, acks int16, timeout time.Duration) *Pending { panic("todo") }

// Pending is an append under way.
type Pending struct{}

// Done is closed when Result may be called.
func (p *Pending) Done() <-chan struct{} { panic("todo") }

// Result waits.
func (p *Pending) Result() AppendResult { panic("todo") }

// Propose logs a Command of the state machine and returns what its Apply returned.
func (p *Partition) Propose(ctx context.Context, payload []byte) (any, error) { panic("todo") }

// ReadRequest asks for batches from Offset on.
type ReadRequest struct {
	Offset           int64
	CurrentEpoch     int32 // -1: not checked
	LastFetchedEpoch int32 // -1: not checked (KIP-320/595 divergence)
	MaxBytes         int
	MinOne           bool // return the first batch even when larger
	ReadCommitted    bool
}

// ReadResult is what a Fetch needs. Ranges are pinned until Release.
type ReadResult struct {
	Ranges           []segment.Range
	Bytes            int
	HighWatermark    int64
	LastStableOffset int64
	LogStartOffset   int64
	Diverging        bool // DivergingEpoch/EndOffset are set
	DivergingEpoch   int32
	DivergingEnd     int64
}

// Release lets the ranges go. Safe on a zero result.
func (r *ReadResult) Release() {}

// Read returns committed batches. No Raft hop. Only on the serving leader.
func (p *Partition) Read(r ReadRequest) (ReadResult, error) { panic("todo") }

// Changed returns a channel that is closed when the high watermark moves next, or the replica stops leading or closes.
// Take it before Read: a change between the two is not missed.
func (p *Partition) Changed() <-chan struct{} { panic("todo") }

// Offsets. Latest waits for a (batched) VerifyLeader, as every irrevocable answer does (safety rule 16).
func (p *Partition) LogStart() int64         { panic("todo") }
func (p *Partition) HighWatermark() int64    { panic("todo") }
func (p *Partition) LastStableOffset() int64 { panic("todo") }

// VerifyLeader confirms leadership with a majority; calls under way share one round.
func (p *Partition) VerifyLeader(ctx context.Context) error { panic("todo") }

// OffsetForTime finds the first record with timestamp >= ts below the high watermark; offset -1 when there is none.
func (p *Partition) OffsetForTime(ctx context.Context, ts int64) (offset, timestamp int64, epoch int32, err error) {
	panic("todo")
}

// OffsetForMaxTime answers ListOffsets -3.
func (p *Partition) OffsetForMaxTime(ctx context.Context) (offset, timestamp int64, epoch int32, err error) {
	panic("todo")
}

// EpochEnd answers OffsetForLeaderEpoch.
func (p *Partition) EpochEnd(epoch int32) (int32, int64) { panic("todo") }

// DeleteRecords moves the log start to offset (-1: the high watermark) by a replicated command; returns the new start.
func (p *Partition) DeleteRecords(ctx context.Context, offset int64) (int64, error) { panic("todo") }

// Retain applies retention by time and size; called from time to time on every replica, acts on the leader (rule 19).
func (p *Partition) Retain(ctx context.Context) error { panic("todo") }

// Status for describe commands and metrics.
type Status struct {
	State                                       string // leader, follower, candidate, damaged, closed
	Serving                                     bool
	Term                                        uint64
	Epoch                                       int32
	Leader                                      Replica
	FirstIndex, LastIndex, CommitIndex          uint64
	LastTerm                                    uint64
	LogStart, HighWatermark, LastStable, LogEnd int64
	Size                                        int64
	LastContact                                 time.Duration // since the leader was last heard; 0 on the leader
	Voters, Learners                            []Replica
	InSync                                      []Replica // the leader and the voters within replica.lag.time.max.ms; on the leader only
	Err                                         string
}

func (p *Partition) Status() Status { panic("todo") }

// Leading says whether this replica is a serving leader, and its epoch. Cheap.
func (p *Partition) Leading() (epoch int32, ok bool) { panic("todo") }

// Raft gives cluster the group for membership changes and elections.
func (p *Partition) Raft() *raft.Raft { panic("todo") }

// TransferLeadership drains appends (safety rule 15) and hands over to r, or to the best follower when r is zero.
func (p *Partition) TransferLeadership(ctx context.Context, r Replica) error { panic("todo") }

// Close stops the group and closes the log cleanly. The files stay.
func (p *Partition) Close() error { panic("todo") }
