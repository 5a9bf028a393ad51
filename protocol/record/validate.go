package record

import (
	"fmt"
	"time"
)

// ValidateOptions say what a leader accepts from a client.
type ValidateOptions struct {
	Now int64 // ms
	// LogAppendTime: the topic stamps its own time, so timestamps are not checked.
	LogAppendTime bool
	// BeforeMax and AfterMax bound how far a timestamp may lie before and after Now; <= 0: no bound.
	BeforeMax, AfterMax time.Duration
	// Compacted: records need a key.
	Compacted bool
	// MaxBytes of the batch (max.message.bytes); 0: no limit.
	MaxBytes int
	// NoZstd: the client's protocol version is from before zstd.
	NoZstd bool
	// Limits of the walk; MaxRecordBytes has no meaning here: records are never held whole.
	Limits Limits
}

// Info is what a validated batch turned out to hold.
type Info struct {
	// MaxTimestamp of the records. A batch whose header says another is put right with SetMaxTimestamp.
	MaxTimestamp int64
}

// Fault is what is wrong with one record.
type Fault struct {
	Index   int32 // of the record in the batch
	Message string
}

// maxFaults bounds the faults that are listed; the batch is refused whole anyway.
const maxFaults = 64

// InvalidError refuses a batch because of some of its records. It wraps ErrInvalid or ErrTimestamp.
type InvalidError struct {
	Err    error
	Faults []Fault
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("%v: record %d: %s", e.Err, e.Faults[0].Index, e.Faults[0].Message)
}

func (e *InvalidError) Unwrap() error { return e.Err }

// Validate checks everything about a client's batch that needs no log: b went through Check. It walks the records,
// decompressing in bounded memory, and changes nothing. Errors wrap ErrInvalid, ErrTimestamp, ErrTooLarge or ErrCodec.
func Validate(b Batch, o *ValidateOptions) (Info, error) {
	if o.MaxBytes > 0 && len(b) > o.MaxBytes {
		return Info{}, fmt.Errorf("%w: a batch of %d bytes, the topic takes %d", ErrTooLarge, len(b), o.MaxBytes)
	}
	if b.Control() {
		return Info{}, fmt.Errorf("%w: clients do not write control batches", ErrInvalid)
	}
	if b.LogAppendTime() {
		return Info{}, fmt.Errorf("%w: clients do not write batches with log append time", ErrTimestamp)
	}
	if b.Count() < 1 || int64(b.Count()) != int64(b.LastOffsetDelta())+1 {
		return Info{}, fmt.Errorf("%w: %d records up to offset delta %d", ErrInvalid, b.Count(), b.LastOffsetDelta())
	}
	if b.Codec() == CodecZstd && o.NoZstd {
		return Info{}, fmt.Errorf("%w: zstd needs a newer protocol version", ErrCodec)
	}
	if id := b.ProducerID(); id >= 0 && (b.ProducerEpoch() < 0 || b.BaseSequence() < 0) {
		return Info{}, fmt.Errorf("%w: producer %d with epoch %d and sequence %d", ErrInvalid, id, b.ProducerEpoch(), b.BaseSequence())
	} else if id < 0 && b.Transactional() {
		return Info{}, fmt.Errorf("%w: transactional without a producer id", ErrInvalid)
	}

	v := validator{base: b.BaseTimestamp(), max: -1, compacted: o.Compacted}
	if !o.LogAppendTime {
		v.after = o.Now + o.AfterMax.Milliseconds()
		v.checkAfter = o.AfterMax > 0 && v.after > o.Now
		v.before = o.Now - o.BeforeMax.Milliseconds()
		v.checkBefore = o.BeforeMax > 0 && v.before > 0
	}
	w := walker{batch: b, limits: o.Limits.orDefault()}
	if err := w.run(v.record); err != nil {
		return Info{}, err
	}
	if len(v.faults) > 0 {
		return Info{}, &InvalidError{Err: v.err, Faults: v.faults}
	}
	return Info{MaxTimestamp: v.max}, nil
}

type validator struct {
	base, max               int64
	before, after           int64
	checkBefore, checkAfter bool
	compacted               bool
	next                    int32
	err                     error
	faults                  []Fault
}

func (v *validator) record(r *Record) bool {
	i := v.next
	v.next++
	if r.OffsetDelta != i {
		v.fault(ErrInvalid, i, "offset delta is not the record's place in the batch")
	}
	ts := v.base + r.TimestampDelta
	if ts > v.max {
		v.max = ts
	}
	if ts != -1 { // -1: none
		if v.checkAfter && ts > v.after {
			v.fault(ErrTimestamp, i, "timestamp is too far in the future (message.timestamp.after.max.ms)")
		} else if v.checkBefore && ts < v.before {
			v.fault(ErrTimestamp, i, "timestamp is too far in the past (message.timestamp.before.max.ms)")
		}
	}
	if v.compacted && r.Key == nil {
		v.fault(ErrInvalid, i, "compacted topic cannot accept message without key")
	}
	return len(v.faults) < maxFaults
}

func (v *validator) fault(err error, i int32, msg string) {
	// INVALID_RECORD outranks INVALID_TIMESTAMP: the client must not retry with other times.
	if v.err == nil || err == ErrInvalid { //nolint:errorlint // our own bare value
		v.err = err
	}
	v.faults = append(v.faults, Fault{Index: i, Message: msg})
}
