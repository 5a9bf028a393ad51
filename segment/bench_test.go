package segment

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/balsa-broker/balsa/vfs"
)

func benchLog(b *testing.B, fsync bool) (*Log, Options) {
	b.Helper()
	o := Options{FS: vfs.OS(), Dir: b.TempDir(), Logger: quiet(), Sync: NewSyncer(0), Config: func() Config { return Config{Fsync: fsync} }}
	l, err := Open(o)
	must(b, err)
	must(b, l.Append([]NewEntry{{Index: 1, Term: 1, Type: Noop}}))
	return l, o
}

// fill appends until the log holds bytes.
func fill(b *testing.B, l *Log, size int, bytes int64) {
	b.Helper()
	data := makeBatch(10, 1000, make([]byte, size))
	for l.Size() < bytes {
		var es []NewEntry
		for i := range uint64(max(1, (1<<20)/size)) {
			es = append(es, NewEntry{Index: l.LastIndex() + 1 + i, Term: 1, Type: Batch, Data: data})
		}
		es = es[:min(len(es), 256)]
		// The same bytes stamped for each entry: only the last stamp counts, so write them one by one.
		for i := range es {
			must(b, l.Append(es[i:i+1]))
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, fsync := range []bool{true, false} {
		for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
			for _, group := range []int{1, 16} {
				b.Run(fmt.Sprintf("fsync=%v/size=%d/group=%d", fsync, size, group), func(b *testing.B) {
					l, _ := benchLog(b, fsync)
					es := make([]NewEntry, group)
					for i := range es {
						es[i] = NewEntry{Term: 1, Type: Batch, Data: makeBatch(10, 1000, make([]byte, size))}
					}
					b.SetBytes(int64(group * size))
					b.ReportAllocs()
					index := uint64(2)
					for b.Loop() {
						for i := range es {
							es[i].Index = index
							index++
						}
						must(b, l.Append(es))
					}
					b.StopTimer()
					must(b, l.Close())
				})
			}
		}
	}
}

func BenchmarkReadOffsets(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
		max  int
	}{{"1MiB of 1KiB", 1 << 10, 1 << 20}, {"1MiB of 256KiB", 256 << 10, 1 << 20}} {
		b.Run("sequential/"+c.name, func(b *testing.B) {
			l, _ := benchLog(b, false)
			fill(b, l, c.size, 64<<20)
			b.ReportAllocs()
			offset := int64(0)
			for b.Loop() {
				rs, err := l.ReadOffsets(offset, l.NextOffset(), c.max, true)
				must(b, err)
				if len(rs) == 0 {
					offset = 0
				}
				for _, r := range rs {
					offset += 10 * int64(r.NextIndex-r.First)
					r.Release()
				}
			}
			must(b, l.Close())
		})
		b.Run("random/"+c.name, func(b *testing.B) {
			l, _ := benchLog(b, false)
			fill(b, l, c.size, 64<<20)
			offset := int64(0)
			for b.Loop() {
				rs, err := l.ReadOffsets(offset, l.NextOffset(), c.max, true)
				must(b, err)
				for _, r := range rs {
					r.Release()
				}
				offset = (offset + 7919*10) % l.NextOffset()
			}
			must(b, l.Close())
		})
	}
	b.Run("tail", func(b *testing.B) {
		l, _ := benchLog(b, false)
		fill(b, l, 1<<10, 1<<20)
		end := l.NextOffset()
		b.ReportAllocs()
		for b.Loop() {
			rs, err := l.ReadOffsets(end-100, end-20, 1<<20, true)
			must(b, err)
			for _, r := range rs {
				r.Release()
			}
		}
		must(b, l.Close())
	})
}

// BenchmarkFetch sends 1 MiB ranges from file to a socket, as a fetch does: bytes that were checked lately, and bytes that
// are checked first (checked.go). The ratio of the two is what the check costs a reader of old data in the page cache.
func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
		for _, known := range []bool{true, false} {
			b.Run(fmt.Sprintf("batch=%d/checked=%v", size, known), func(b *testing.B) {
				l, _ := benchLog(b, false)
				fill(b, l, size, 64<<20)
				must(b, l.Sync())
				out := benchSink(b)
				b.SetBytes(1 << 20)
				offset := int64(0)
				for b.Loop() {
					if !known {
						for _, s := range l.segs {
							s.checked.mu.Lock()
							s.checked.now, s.checked.before = nil, nil
							s.checked.mu.Unlock()
						}
					}
					if offset > l.NextOffset()-20_000 {
						offset = 0
					}
					rs, err := l.ReadOffsets(offset, l.NextOffset(), 1<<20, true)
					must(b, err)
					for _, r := range rs {
						_, err := r.File.OS().Seek(r.Pos, io.SeekStart)
						must(b, err)
						_, err = out.ReadFrom(io.LimitReader(r.File.OS(), int64(r.Len))) // sendfile
						must(b, err)
						offset += 10 * int64(r.NextIndex-r.First)
						r.Release()
					}
				}
				must(b, l.Close())
			})
		}
	}
}

// BenchmarkCheck is the check alone, of 1 MiB in the page cache.
func BenchmarkCheck(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			l, _ := benchLog(b, false)
			fill(b, l, size, 2<<20)
			s := l.active()
			f, err := s.pin(l.o.FS)
			must(b, err)
			b.SetBytes(1 << 20)
			for b.Loop() {
				_, err := l.checkFrames(f, s.begin(), s.end(), 1<<20)
				must(b, err)
			}
			s.unpin()
			must(b, l.Close())
		})
	}
}

// benchSink is a connection whose other end reads everything.
func benchSink(b *testing.B) *net.TCPConn {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	must(b, err)
	b.Cleanup(func() {
		_ = c.Close()
		_ = ln.Close()
	})
	return c.(*net.TCPConn)
}

func BenchmarkRecovery(b *testing.B) {
	for _, clean := range []bool{true, false} {
		for _, mib := range []int64{64, 512} {
			b.Run(fmt.Sprintf("clean=%v/MiB=%d", clean, mib), func(b *testing.B) {
				l, o := benchLog(b, false)
				fill(b, l, 16<<10, mib<<20)
				must(b, l.Sync())
				if clean {
					must(b, l.Close())
				}
				var read int64
				for b.Loop() {
					l, err := Open(o)
					must(b, err)
					read = l.Recovery().BytesRead
				}
				b.ReportMetric(float64(read), "bytes-read")
				b.ReportMetric(100*float64(read)/float64(mib<<20), "%-read")
			})
		}
	}
}

// BenchmarkMemory reports the heap of a log by its size, and of an idle one.
func BenchmarkMemory(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	b.Run("idle", func(b *testing.B) {
		const n = 1000
		before := heap()
		logs := make([]*Log, n)
		s := NewSyncer(0)
		dir := b.TempDir()
		for i := range logs {
			var err error
			logs[i], err = Open(Options{Dir: fmt.Sprintf("%s/%d", dir, i), Logger: quiet(), Sync: s})
			must(b, err)
			must(b, logs[i].Append([]NewEntry{{Index: 1, Term: 1, Type: Configuration, Data: make([]byte, 200)}}))
		}
		used := heap() - before
		for b.Loop() {
		}
		b.ReportMetric(float64(used)/n, "heap-bytes/log")
		for _, l := range logs {
			must(b, l.Close())
		}
	})
	for _, mib := range []int64{64, 1024} {
		b.Run(fmt.Sprintf("MiB=%d", mib), func(b *testing.B) {
			before := heap()
			l, _ := benchLog(b, false)
			fill(b, l, 16<<10, mib<<20)
			must(b, l.Sync())
			used := heap() - before
			for b.Loop() {
			}
			b.ReportMetric(float64(used), "heap-bytes")
			must(b, l.Close())
		})
	}
}
