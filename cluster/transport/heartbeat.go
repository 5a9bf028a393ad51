package transport

import (
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// takeBeat sends a heartbeat past Raft's channel to its heartbeat handler, so that a follower busy with its disk
// still answers; false when it must go through the channel.
//
// Only a heartbeat of the term that Raft's own goroutine has already taken an AppendEntries in may pass: the handler
// runs beside that goroutine, and changing the term from two goroutines could set it back.
func (e *Endpoint) takeBeat(it *inbound) bool {
	if e.heartbeat.Load() == nil || it.part.term != e.term.Load() {
		it.call = &appendCall{}
		it.h.flags |= flagLastPart
		return false
	}
	if !e.m.beats.submit(beat{e, it}) {
		it.c.refuse(it.h, fmt.Errorf("%w: too many heartbeats wait on broker %d", ErrOverloaded, e.m.o.Node))
	}
	return true
}

type beat struct {
	e  *Endpoint
	it *inbound
}

// workers run heartbeats off the connections' readers. One does for thousands of groups; others help when many wait, or
// when a handler holds it up.
type workers struct {
	m     *Mux
	queue chan beat
	slots chan struct{} // one per worker beyond the first
	since atomic.Int64  // unix nanoseconds: when the first worker began with what it does; 0: idle
}

const (
	maxBeats  = 16 << 10
	manyBeats = 64
	heldUp    = 2 * time.Millisecond
)

func (w *workers) start(m *Mux, n int) {
	w.m, w.queue, w.slots = m, make(chan beat, maxBeats), make(chan struct{}, n-1)
	m.wg.Go(func() {
		for {
			select {
			case b := <-w.queue:
				w.since.Store(time.Now().UnixNano())
				b.run()
				w.since.Store(0)
			case <-m.ctx.Done():
				return
			}
		}
	})
}

// submit is called by the readers of connections only.
func (w *workers) submit(b beat) bool {
	select {
	case w.queue <- b:
	default:
		return false
	}
	since := w.since.Load()
	if len(w.queue) > manyBeats || since != 0 && time.Now().UnixNano()-since > int64(heldUp) {
		select {
		case w.slots <- struct{}{}:
			w.m.wg.Go(w.help)
		default:
		}
	}
	return true
}

// help empties the queue and ends.
func (w *workers) help() {
	defer func() { <-w.slots }()
	for {
		select {
		case b := <-w.queue:
			b.run()
		case <-w.m.ctx.Done():
			return
		default:
			return
		}
	}
}

func (b beat) run() {
	h := b.it.rpcHeader()
	resp := make(chan raft.RPCResponse, 1)
	b.handle(raft.RPC{
		//lint:ignore SA1019 handlers of raft still read it
		Command:  &raft.AppendEntriesRequest{RPCHeader: h, Term: b.it.part.term, Leader: h.Addr},
		RespChan: resp,
	})
	select {
	case r := <-resp:
		b.it.reply(r)
	default: // Raft is shut down
		b.it.c.refuse(b.it.h, fmt.Errorf("%w: replica %s", ErrClosed, b.e.addr))
	}
}

// handle runs Raft's handler. A panic is one of Raft's own when the store refuses to set its term back: the heartbeat
// raced with a newer term and is lost, no more.
func (b beat) handle(rpc raft.RPC) {
	defer func() {
		if v := recover(); v != nil {
			b.e.m.log.Error("heartbeat handler panicked", "replica", b.e.addr, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	(*b.e.heartbeat.Load())(rpc)
}
