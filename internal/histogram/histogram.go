// Package histogram counts durations in buckets whose width is at most 1/64 of their value, in constant memory.
package histogram

import (
	"math/bits"
	"time"
)

// A value v (nanoseconds) below 64 has a bucket of its own. Above, a bucket is named by the position of v's highest
// bit and the six bits behind it:
//
//	bucket = (exponent << 6) | mantissa      exponent = bits.Len64(v) - 6, mantissa = (v >> (exponent-1)) & 63
const (
	subBits = 6
	sub     = 1 << subBits
	buckets = (64 - subBits + 1) * sub
)

// Histogram is not safe for concurrent use: give each goroutine one and Merge them. The zero value is empty.
type Histogram struct {
	counts [buckets]uint64
	total  uint64
	sum    time.Duration
	min    time.Duration
	max    time.Duration
}

func bucket(v uint64) int {
	if v < sub {
		return int(v)
	}
	exponent := bits.Len64(v) - subBits
	return exponent<<subBits | int(v>>(exponent-1)&(sub-1))
}

// upper is the largest value of a bucket.
func upper(b int) uint64 {
	if b < sub {
		return uint64(b)
	}
	exponent, mantissa := b>>subBits, uint64(b&(sub-1))
	return (sub+mantissa+1)<<(exponent-1) - 1
}

// Record adds one duration; a negative one counts as zero.
func (h *Histogram) Record(d time.Duration) { h.RecordN(d, 1) }

// RecordN adds n equal durations.
func (h *Histogram) RecordN(d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	d = max(d, 0)
	if h.total == 0 || d < h.min {
		h.min = d
	}
	h.max = max(h.max, d)
	h.counts[bucket(uint64(d))] += n
	h.total += n
	h.sum += d * time.Duration(n)
}

// Merge adds what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	if other.total == 0 {
		return
	}
	if h.total == 0 || other.min < h.min {
		h.min = other.min
	}
	h.max = max(h.max, other.max)
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.sum += other.sum
}

// Count is how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.total }

// Max is the largest duration recorded, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Min is the smallest duration recorded, exactly.
func (h *Histogram) Min() time.Duration { return h.min }

// Mean is 0 when nothing was recorded.
func (h *Histogram) Mean() time.Duration {
	if h.total == 0 {
		return 0
	}
	return h.sum / time.Duration(h.total)
}

// Quantile returns a value that at least the fraction q of the recorded durations do not exceed, at most 1/64 too
// large; 0 when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := uint64(q * float64(h.total))
	if float64(rank) < q*float64(h.total) {
		rank++
	}
	rank = min(max(rank, 1), h.total)
	var seen uint64
	for b, n := range h.counts {
		if seen += n; seen >= rank {
			return min(time.Duration(upper(b)), h.max)
		}
	}
	return h.max
}

// Bin is one bucket that is not empty: Count durations of at most UpTo.
type Bin struct {
	UpTo  time.Duration `json:"up_to_ns"`
	Count uint64        `json:"count"`
}

// Bins is the whole distribution, ascending.
func (h *Histogram) Bins() []Bin {
	var out []Bin
	for b, n := range h.counts {
		if n > 0 {
			out = append(out, Bin{time.Duration(upper(b)), n})
		}
	}
	return out
}
