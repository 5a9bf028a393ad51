package partition

import (
	"fmt"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/protocol/record"
)

// BenchmarkAppend: one replica on the real file system, with the given batches in flight. fsync=false shows the cost of
// all but the disk.
func BenchmarkAppend(b *testing.B) {
	for _, fsync := range []bool{true, false} {
		for _, size := range []int{100, 1 << 10, 16 << 10} {
			for _, inflight := range []int{1, 64} {
				b.Run(fmt.Sprintf("fsync=%v/size=%d/inflight=%d", fsync, size, inflight), func(b *testing.B) {
					benchmarkAppend(b, fsync, size, inflight)
				})
			}
		}
	}
}

func benchmarkAppend(b *testing.B, fsync bool, size, inflight int) {
	c := newTestCluster(&testing.T{}, 0)
	c.topic.Fsync = fsync
	c.timing = Timing{Heartbeat: 20 * time.Millisecond, Election: 20 * time.Millisecond, Lease: 10 * time.Millisecond, Commit: 50 * time.Millisecond}
	m := &member{r: Replica{Node: 1, ID: 1}, dir: b.TempDir(), votes: newVotes(), boot: true}
	c.members = []*member{m}
	p, err := Open(c.options(m))
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for {
		if _, ok := p.Leading(); ok {
			break
		}
		<-p.Changed()
	}
	one := batch(1, -1, 0, 0, string(make([]byte, size)))
	b.SetBytes(int64(len(one)))
	b.ReportAllocs()
	under := make([]*Pending, inflight)
	bufs := make([]record.Batch, inflight)
	for i := range bufs {
		bufs[i] = append(record.Batch(nil), one...)
	}
	b.ResetTimer()
	for i := range b.N {
		k := i % inflight
		if under[k] != nil {
			if r := under[k].Result(); r.Err != nil {
				b.Fatal(r.Err)
			}
		}
		under[k] = p.Append(bufs[k], -1, time.Minute)
	}
	for _, w := range under {
		if w != nil {
			w.Result()
		}
	}
}
