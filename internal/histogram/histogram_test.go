package histogram

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketsCoverEveryValue(t *testing.T) {
	for _, v := range []uint64{0, 1, 63, 64, 65, 127, 128, 129, 1 << 20, 1<<20 + 1, math.MaxInt64} {
		b := bucket(v)
		if upper(b) < v {
			t.Errorf("value %d: bucket %d ends at %d", v, b, upper(b))
		}
		if b > 0 && upper(b-1) >= v {
			t.Errorf("value %d: bucket %d begins below %d", v, b, upper(b-1))
		}
	}
}

// Invariants: a quantile is never below the exact one and at most 1/64 above it; merging two histograms counts the
// same as one; the maximum is exact.
func TestQuantilesAgainstSortedSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 300).Draw(t, "values")
		cut := rapid.IntRange(0, len(values)).Draw(t, "cut")
		var a, b Histogram
		for i, v := range values {
			if i < cut {
				a.Record(time.Duration(v))
			} else {
				b.Record(time.Duration(v))
			}
		}
		a.Merge(&b)
		slices.Sort(values)
		if got := a.Quantile(1); got != time.Duration(values[len(values)-1]) {
			t.Fatalf("maximum %d, want %d", got, values[len(values)-1])
		}
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999} {
			rank := max(1, int(math.Ceil(q*float64(len(values)))))
			exact := values[rank-1]
			if got := int64(a.Quantile(q)); got < exact || got > exact+exact/64+1 {
				t.Fatalf("q%.3f of %d values: %d, exact %d", q, len(values), got, exact)
			}
		}
	})
}
