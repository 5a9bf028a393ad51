package transport

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// answerAll plays a follower's Raft that agrees with everything.
func answerAll(b testing.TB, e *Endpoint) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-e.Consumer():
				q := rpc.Command.(*raft.AppendEntriesRequest)
				rpc.Respond(&raft.AppendEntriesResponse{Term: q.Term, LastLog: q.PrevLogEntry + uint64(len(q.Entries)), Success: true}, nil)
			case <-stop:
				return
			}
		}
	}()
	b.Cleanup(func() { close(stop); <-done })
}

// BenchmarkPipeline: one group's entries over loopback, both ends in this process.
func BenchmarkPipeline(b *testing.B) {
	for _, size := range []int{1 << 10, 256 << 10} {
		for _, batch := range []int{1, 16} {
			b.Run(fmt.Sprintf("%dKiB/%d", size>>10, batch), func(b *testing.B) {
				n := newNetwork(b)
				l, err := n.mux(1, nil).Register(1, 1, &modelLog{})
				must(b, err)
				f, err := n.mux(2, nil).Register(2, 2, &modelLog{})
				must(b, err)
				answerAll(b, f)
				p, err := l.AppendEntriesPipeline("", "2/2")
				must(b, err)
				defer p.Close()
				data := make([]byte, size)
				q := &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 1, PrevLogEntry: 1, PrevLogTerm: 1}
				for i := range batch {
					q.Entries = append(q.Entries, &raft.Log{Index: 2 + uint64(i), Term: 1, Data: data})
				}
				b.SetBytes(int64(size * batch))
				b.ReportAllocs()
				b.ResetTimer()
				done := make(chan struct{})
				go func() {
					defer close(done)
					for range b.N {
						<-p.Consumer()
					}
				}()
				for range b.N {
					if _, err := p.AppendEntries(q, &raft.AppendEntriesResponse{}); err != nil {
						b.Error(err)
						return
					}
				}
				<-done
			})
		}
	}
}

// BenchmarkManyGroups: 64 groups at once, one entry of 1 KiB in each request.
func BenchmarkManyGroups(b *testing.B) {
	n := newNetwork(b)
	m1, m2 := n.mux(1, nil), n.mux(2, nil)
	var ps []raft.AppendPipeline
	for i := range uint64(64) {
		l, err := m1.Register(1, 100+i, &modelLog{})
		must(b, err)
		f, err := m2.Register(2, 200+i, &modelLog{})
		must(b, err)
		answerAll(b, f)
		p, err := l.AppendEntriesPipeline("", Address(2, 200+i))
		must(b, err)
		ps = append(ps, p)
	}
	q := &raft.AppendEntriesRequest{
		RPCHeader: header3(), Term: 1, PrevLogEntry: 1, PrevLogTerm: 1,
		Entries: []*raft.Log{{Index: 2, Term: 1, Data: make([]byte, 1<<10)}},
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() {
			for range b.N / len(ps) {
				<-p.Consumer()
			}
		})
		wg.Go(func() {
			for range b.N / len(ps) {
				if _, err := p.AppendEntries(q, &raft.AppendEntriesResponse{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkHeartbeat: the round trip that VerifyLeader waits for.
func BenchmarkHeartbeat(b *testing.B) {
	n := newNetwork(b)
	l, err := n.mux(1, nil).Register(1, 1, &modelLog{})
	must(b, err)
	f, err := n.mux(2, nil).Register(2, 2, &modelLog{})
	must(b, err)
	answerAll(b, f)
	f.SetHeartbeatHandler(func(rpc raft.RPC) {
		rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
	})
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		var resp raft.AppendEntriesResponse
		if err := l.AppendEntries("", "2/2", &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 1}, &resp); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdleTraffic is what the transport of three brokers costs for 1,000 idle groups of three replicas at a
// heartbeat timeout of 10 s and a commit timeout of 1 s, without Raft itself: per broker and second some 444 heartbeats
// and 444 empty AppendEntries out and as many in. It reports CPU per broker as a share of one core.
func BenchmarkIdleTraffic(b *testing.B) {
	const groups = 1000
	n := newNetwork(b)
	var muxes []*Mux
	for i := range int32(3) {
		muxes = append(muxes, n.mux(i+1, nil))
	}
	type pair struct {
		e  *Endpoint
		p  raft.AppendPipeline
		to raft.ServerAddress
	}
	var pairs []pair
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range uint64(groups) {
		lead := int(g % 3)
		l, err := muxes[lead].Register(int32(lead+1), 3*g+1, &modelLog{})
		must(b, err)
		for k := range 2 {
			node := (lead + k + 1) % 3
			id := 3*g + 2 + uint64(k)
			f, err := muxes[node].Register(int32(node+1), id, &modelLog{})
			must(b, err)
			f.SetHeartbeatHandler(func(rpc raft.RPC) { rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil) })
			to := Address(int32(node+1), id)
			wg.Go(func() { // the follower's Raft
				for {
					select {
					case rpc := <-f.Consumer():
						rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
					case <-stop:
						return
					}
				}
			})
			p, err := l.AppendEntriesPipeline("", to)
			must(b, err)
			pairs = append(pairs, pair{l, p, to})
		}
	}
	empty := &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 1, PrevLogEntry: 1, PrevLogTerm: 1}
	beat := &raft.AppendEntriesRequest{RPCHeader: header3(), Term: 1}
	// All pairs in turn, 2000 of them in 1.5 s, so that each has an interval of Raft's average.
	work := func(rounds int) {
		const tick = 3 * time.Millisecond
		t := time.NewTicker(tick)
		defer t.Stop()
		per := len(pairs) * int(tick) / int(1500*time.Millisecond)
		for i, at := 0, 0; i < rounds; i++ {
			<-t.C
			for range per {
				pr := pairs[at%len(pairs)]
				at++
				wg.Go(func() { _ = pr.e.AppendEntries("", pr.to, beat, &raft.AppendEntriesResponse{}) })
				_, _ = pr.p.AppendEntries(empty, &raft.AppendEntriesResponse{})
				for len(pr.p.Consumer()) > 0 {
					<-pr.p.Consumer()
				}
			}
		}
	}
	work(100)
	runtime.GC()
	b.ResetTimer()
	for range b.N {
		before := cpuTime()
		begin := time.Now()
		work(1000) // 3 s
		b.ReportMetric(100*(cpuTime()-before).Seconds()/time.Since(begin).Seconds()/3, "%core/broker")
	}
	close(stop)
	wg.Wait()
}
