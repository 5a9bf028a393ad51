package cluster

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// liveness says which brokers are gone. Two things make one gone: its process refuses connections, or gossip holds it
// for failed AND it has not sent a ping for a while. A broker that is merely slow still pings; a broker that only this
// one cannot reach is still held alive by gossip.
type liveness struct {
	self    int32
	silence time.Duration
	alive   atomic.Pointer[map[int32]bool]

	mu       sync.Mutex
	refused  map[int32]bool
	heard    map[int32]time.Time
	gossip   func() map[int32]member
	onChange func(node int32, alive bool)
}

func newLiveness(self int32, silence time.Duration, gossip func() map[int32]member, onChange func(int32, bool)) *liveness {
	l := &liveness{
		self: self, silence: silence, refused: make(map[int32]bool), heard: make(map[int32]time.Time), gossip: gossip, onChange: onChange,
	}
	l.alive.Store(&map[int32]bool{self: true})
	return l
}

// isAlive is cheap.
func (l *liveness) isAlive(node int32) bool { return (*l.alive.Load())[node] }

// list of the brokers alive, this one among them.
func (l *liveness) list() []int32 {
	m := *l.alive.Load()
	out := make([]int32, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	return out
}

func (l *liveness) hear(node int32) {
	l.mu.Lock()
	l.heard[node] = time.Now()
	l.mu.Unlock()
	if !l.isAlive(node) {
		l.update()
	}
}

func (l *liveness) setRefused(node int32, refused bool) {
	l.mu.Lock()
	if refused {
		l.refused[node] = true
		delete(l.heard, node)
	} else {
		delete(l.refused, node)
		l.heard[node] = time.Now()
	}
	l.mu.Unlock()
	l.update()
}

// update works out who is alive, and reports changes.
func (l *liveness) update() {
	known := l.gossip()
	l.mu.Lock()
	now := time.Now()
	next := map[int32]bool{l.self: true}
	for id, m := range known {
		if m.Alive && !l.refused[id] {
			next[id] = true
		}
	}
	for id, at := range l.heard {
		if now.Sub(at) <= l.silence && !l.refused[id] {
			next[id] = true
		}
	}
	prev := *l.alive.Load()
	same := maps.Equal(prev, next)
	if !same {
		l.alive.Store(&next)
	}
	l.mu.Unlock()
	if same {
		return
	}
	for id := range prev {
		if !next[id] {
			l.onChange(id, false)
		}
	}
	for id := range next {
		if !prev[id] {
			l.onChange(id, true)
		}
	}
}
