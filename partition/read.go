package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/balsa-broker/balsa/segment"
)

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

// Release lets the ranges go. Safe on a zero result, and more than once.
func (r *ReadResult) Release() {
	for i := range r.Ranges {
		r.Ranges[i].Release()
	}
	r.Ranges = nil
}

// verifyLimit bounds the majority round before an answer that cannot be taken back.
const verifyLimit = 5 * time.Second

// Read returns committed batches. No Raft hop, but for an offset above the high watermark: whether that is out of range
// only a leader that is one can say (safety rule 16). Only on the serving leader. The offsets in the result are set also
// with ErrOffsetOutOfRange.
func (p *Partition) Read(r ReadRequest) (ReadResult, error) {
	epoch, err := p.serving()
	if err != nil {
		return ReadResult{}, err
	}
	if err := checkEpoch(r.CurrentEpoch, epoch); err != nil {
		return ReadResult{}, err
	}
	res := p.offsets()
	if r.LastFetchedEpoch >= 0 {
		diverges := func(e int32, end int64) bool { return e >= 0 && (e < r.LastFetchedEpoch || end < r.Offset) }
		if e, end, _ := p.epochEnd(r.LastFetchedEpoch); diverges(e, end) {
			ctx, cancel := context.WithTimeout(context.Background(), verifyLimit)
			e, end, err := p.EpochEnd(ctx, r.LastFetchedEpoch)
			cancel()
			if err != nil {
				return res, err
			}
			if diverges(e, end) {
				res.Diverging, res.DivergingEpoch, res.DivergingEnd = true, e, end
				return res, nil
			}
		}
	}
	if r.Offset > res.HighWatermark {
		ctx, cancel := context.WithTimeout(context.Background(), verifyLimit)
		err := p.VerifyLeader(ctx)
		cancel()
		if err != nil {
			return res, err
		}
		res = p.offsets()
		if r.Offset > res.HighWatermark {
			return res, ErrOffsetOutOfRange
		}
	}
	if r.Offset < res.LogStartOffset {
		return res, ErrOffsetOutOfRange
	}
	limit := res.HighWatermark
	if r.ReadCommitted {
		limit = res.LastStableOffset
	}
	if r.Offset >= limit {
		return res, nil
	}
	res.Ranges, err = p.log.ReadOffsets(r.Offset, limit, r.MaxBytes, r.MinOne)
	if err != nil {
		if errors.Is(err, segment.ErrNotFound) && r.Offset < p.LogStart() {
			return p.offsets(), ErrOffsetOutOfRange
		}
		return res, fmt.Errorf("%w: read at offset %d: %w", ErrStorage, r.Offset, p.spoiled(err))
	}
	for i := range res.Ranges {
		res.Bytes += res.Ranges[i].Len
	}
	return res, nil
}

func (p *Partition) offsets() ReadResult {
	hw := p.HighWatermark()
	return ReadResult{HighWatermark: hw, LastStableOffset: hw, LogStartOffset: p.LogStart()}
}

func checkEpoch(asked, epoch int32) error {
	switch {
	case asked < 0 || asked == epoch:
		return nil
	case asked < epoch:
		return ErrFencedEpoch
	default:
		return ErrUnknownEpoch
	}
}

// serving returns the epoch of the serving leader, or why this replica is none.
func (p *Partition) serving() (int32, error) {
	if e := p.leading.Load(); e >= 0 && p.failed() == nil && !p.isClosing() {
		return e, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.servingLocked(); err != nil {
		return -1, err
	}
	return p.leading.Load(), nil
}

// Leading says whether this replica is a serving leader, and its epoch. Cheap.
func (p *Partition) Leading() (epoch int32, ok bool) {
	e := p.leading.Load()
	return e, e >= 0 && p.failed() == nil
}

// Changed returns a channel that is closed when the high watermark moves next, or the replica begins or stops leading, or
// closes. Take it before Read: a change between the two is not missed.
func (p *Partition) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosing() || p.failed() != nil {
		return alwaysClosed
	}
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

var alwaysClosed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// LogStart is the lowest offset that may be read.
func (p *Partition) LogStart() int64 { return max(p.logStart.Load(), p.fileStart.Load()) }

// HighWatermark is the offset after the last committed record that this replica knows of. It never falls.
func (p *Partition) HighWatermark() int64 { return p.hw.Load() }

// LastStableOffset is the high watermark as long as there are no transactions.
func (p *Partition) LastStableOffset() int64 { return p.hw.Load() }
