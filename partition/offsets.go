package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
)

// OffsetForTime finds the first record with timestamp >= ts below the high watermark; offset -1 when there is none (which
// a majority confirmed, safety rule 16).
func (p *Partition) OffsetForTime(ctx context.Context, ts int64) (offset, timestamp int64, epoch int32, err error) {
	if _, err := p.serving(); err != nil {
		return -1, -1, -1, err
	}
	start := p.LogStart()
	at, ok, err := p.log.OffsetForTime(ts)
	if err != nil {
		return -1, -1, -1, fmt.Errorf("%w: %w", ErrStorage, p.spoiled(err))
	}
	if ok {
		offset, timestamp, epoch, err = p.firstRecord(max(at, start), func(r *record.Record) bool {
			return r.Timestamp >= ts && r.Offset >= start
		}, func(b record.Batch) bool { return b.MaxTimestamp() >= ts })
		if err != nil || offset >= 0 {
			return offset, timestamp, epoch, err
		}
	}
	return -1, -1, -1, p.VerifyLeader(ctx)
}

// OffsetForMaxTime answers ListOffsets -3: the first record with the largest timestamp below the high watermark.
func (p *Partition) OffsetForMaxTime(ctx context.Context) (offset, timestamp int64, epoch int32, err error) {
	for {
		if _, err := p.serving(); err != nil {
			return -1, -1, -1, err
		}
		changed := p.Changed()
		ts, at := p.log.MaxTimestamp()
		if at < 0 {
			return -1, -1, -1, p.VerifyLeader(ctx)
		}
		if at < p.HighWatermark() {
			start := p.LogStart()
			return p.firstRecord(max(at, start), func(r *record.Record) bool {
				return r.Timestamp >= ts && r.Offset >= start
			}, func(b record.Batch) bool { return b.MaxTimestamp() >= ts })
		}
		select { // the batch with the largest timestamp is being committed
		case <-changed:
		case <-ctx.Done():
			return -1, -1, -1, ctx.Err()
		case <-p.closing:
			return -1, -1, -1, ErrClosed
		}
	}
}

// firstRecord looks from offset on, in the batches that may hold it, for the first record that match accepts.
func (p *Partition) firstRecord(from int64, match func(*record.Record) bool, may func(record.Batch) bool,
) (offset, timestamp int64, epoch int32, err error) {
	offset, timestamp, epoch = -1, -1, -1
	hw := p.HighWatermark()
	var buf []byte
	for from < hw && offset < 0 {
		ranges, err := p.log.ReadOffsets(from, hw, 1, true)
		if err != nil {
			if errors.Is(err, segment.ErrNotFound) && from < p.LogStart() {
				from = p.LogStart()
				continue
			}
			return -1, -1, -1, fmt.Errorf("%w: read at offset %d: %w", ErrStorage, from, p.spoiled(err))
		}
		if len(ranges) == 0 {
			break
		}
		buf, err = readRange(ranges, buf, record.HeaderSize)
		if err == nil && may(record.Batch(buf)) {
			buf, err = readRange(ranges, buf, 0)
		}
		for i := range ranges {
			ranges[i].Release()
		}
		if err != nil {
			return -1, -1, -1, fmt.Errorf("%w: read at offset %d: %w", ErrStorage, from, p.spoiled(err))
		}
		b := record.Batch(buf)
		if may(b) {
			err := record.Scan(b, record.Limits{}, func(r *record.Record) bool {
				if match(r) {
					offset, timestamp, epoch = r.Offset, r.Timestamp, b.LeaderEpoch()
					return false
				}
				return true
			})
			if err != nil {
				return -1, -1, -1, fmt.Errorf("%w: batch at offset %d: %w", ErrCorrupt, from, err)
			}
		}
		from = b.LastOffset() + 1
	}
	return offset, timestamp, epoch, nil
}

// readRange reads the first n bytes (0: all) of the first range into buf.
func readRange(ranges []segment.Range, buf []byte, n int) ([]byte, error) {
	r := ranges[0]
	if n == 0 || n > r.Len {
		n = r.Len
	}
	if n < record.HeaderSize {
		return buf, segment.ErrCorrupt
	}
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := r.File.ReadAt(buf, r.Pos)
	return buf, err
}

// EpochEnd answers OffsetForLeaderEpoch with what is committed: the largest epoch <= epoch that the log knows and the
// offset where it ends; -1, -1 when unknown. An end below the high watermark is for ever; any other answer makes a reader
// go back, so a majority confirms the leader first (safety rule 16). Only on the serving leader.
func (p *Partition) EpochEnd(ctx context.Context, epoch int32) (int32, int64, error) {
	if _, err := p.serving(); err != nil {
		return -1, -1, err
	}
	e, end, sure := p.epochEnd(epoch)
	if sure {
		return e, end, nil
	}
	if err := p.VerifyLeader(ctx); err != nil {
		return -1, -1, err
	}
	e, end, _ = p.epochEnd(epoch)
	return e, end, nil
}

// epochEnd is sure of an end that no other leader could see elsewhere.
func (p *Partition) epochEnd(epoch int32) (e int32, end int64, sure bool) {
	hw := p.HighWatermark()
	if now, ok := p.Leading(); ok {
		if epoch == now {
			return epoch, hw, false
		}
		if epoch > now {
			return -1, -1, false
		}
	}
	e, end = p.log.EpochEnd(epoch)
	if e < 0 {
		return -1, -1, false
	}
	return e, min(end, hw), end < hw
}

// DeleteRecords moves the log start to offset (-1: the high watermark) by a replicated command; returns the new start.
func (p *Partition) DeleteRecords(ctx context.Context, offset int64) (int64, error) {
	if _, err := p.serving(); err != nil {
		return -1, err
	}
	if offset == -1 {
		offset = p.HighWatermark()
	}
	if offset < 0 || offset > p.HighWatermark() {
		if err := p.VerifyLeader(ctx); err != nil {
			return -1, err
		}
		return -1, ErrOffsetOutOfRange
	}
	if offset > p.LogStart() {
		if _, err := p.propose(ctx, encodeLogStart(offset)); err != nil {
			return -1, err
		}
	}
	return p.LogStart(), nil
}

// retainStep is how many segments one call of Retain lets go (safety rule 19: a step is bounded).
const retainStep = 32

// Retain applies retention by time and size; called from time to time on every replica, acts on the leader (safety
// rule 19). Only closed segments that are committed as a whole go.
func (p *Partition) Retain(ctx context.Context) error {
	if _, ok := p.Leading(); !ok {
		return nil
	}
	c := p.o.Config()
	if !c.CleanupDelete {
		return nil
	}
	segments := p.log.Segments()
	size := int64(0)
	for _, s := range segments {
		size += s.Size
	}
	hw, to := p.HighWatermark(), p.LogStart()
	now := p.o.Now()
	byTime := c.RetentionTime >= 0 && p.o.ClockTrusted(now) == nil // said once, by those who watch the clock
	oldest := now.Add(-c.RetentionTime).UnixMilli()
	for i := 0; i < len(segments)-1 && i < retainStep; i++ {
		s := segments[i]
		newest := s.MaxTimestamp
		if newest < 0 {
			newest = s.Created.UnixMilli()
		}
		gone := s.NextOffset <= p.LogStart() // waiting for advance
		tooOld := byTime && newest < oldest
		tooMuch := c.RetentionBytes >= 0 && size-s.Size >= c.RetentionBytes
		if s.Active || s.NextOffset > hw || !(gone || tooOld || tooMuch) {
			break
		}
		size -= s.Size
		to = max(to, s.NextOffset)
	}
	if to <= p.LogStart() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := p.propose(ctx, encodeLogStart(to))
	if errors.Is(err, ErrNotLeader) || errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}
