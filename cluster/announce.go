package cluster

import (
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"time"
)

// announcer tells the other brokers what this one leads, and learns from them. Three ways, each covering for the one
// before: a batch within milliseconds of a change, a pull of everything when a connection to a broker is made, and
// digests from time to time.
type announcer struct {
	host  announceHost
	table *leaderTable
	self  int32
	t     Timing
	log   *slog.Logger

	mu    sync.Mutex
	peers map[int32]*announcePeer
	ctx   context.Context
	wg    sync.WaitGroup
}

type announceHost interface {
	call(ctx context.Context, node int32, k kind, payload []byte) ([]byte, error)
	alivePeers() []int32
	gone(node int32) bool
	resigned(l *leadership) // another broker says that it leads a partition no more; must not block
}

type announcePeer struct {
	pending map[partitionKey]*leadership
	running bool
	pulling bool
	again   bool
}

const (
	maxAnnounce  = 256 << 10 // bytes of a message, about
	announceCall = 2 * time.Second
)

func newAnnouncer(ctx context.Context, host announceHost, table *leaderTable, self int32, t Timing, logger *slog.Logger) *announcer {
	return &announcer{host: host, table: table, self: self, t: t, log: logger, peers: make(map[int32]*announcePeer), ctx: ctx}
}

// announce puts l into the table and tells every living broker. It does not block.
func (a *announcer) announce(l *leadership) {
	if !a.table.put(l) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, node := range a.host.alivePeers() {
		p := a.peerLocked(node)
		p.pending[l.key] = l
		if !p.running && a.ctx.Err() == nil {
			p.running = true
			a.wg.Go(func() { a.send(node) })
		}
	}
}

func (a *announcer) peerLocked(node int32) *announcePeer {
	p := a.peers[node]
	if p == nil {
		p = &announcePeer{pending: make(map[partitionKey]*leadership)}
		a.peers[node] = p
	}
	return p
}

// send empties a peer's queue and ends. What cannot be told is dropped once the peer is gone: it will pull.
func (a *announcer) send(node int32) {
	wait := a.t.Announce
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-time.After(wait):
		}
		a.mu.Lock()
		p := a.peers[node]
		if len(p.pending) == 0 || a.host.gone(node) {
			clear(p.pending)
			p.running = false
			a.mu.Unlock()
			return
		}
		var batch []*leadership
		var payload []byte
		for k, l := range p.pending {
			if len(payload) >= maxAnnounce {
				break
			}
			payload = l.encode(payload)
			batch = append(batch, l)
			delete(p.pending, k)
		}
		a.mu.Unlock()
		ctx, cancel := context.WithTimeout(a.ctx, announceCall)
		_, err := a.host.call(ctx, node, kindAnnounce, payload)
		cancel()
		if wait = a.t.Announce; err == nil {
			continue
		}
		wait = 50 * time.Millisecond
		a.mu.Lock()
		for _, l := range batch {
			if _, newer := p.pending[l.key]; !newer {
				p.pending[l.key] = l
			}
		}
		a.mu.Unlock()
	}
}

// receive takes announcements; the answer is empty.
func (a *announcer) receive(payload []byte) ([]byte, error) {
	ls, err := decodeLeaderships(payload)
	for _, l := range ls {
		if a.table.put(l) && l.resigned {
			a.host.resigned(l)
		}
	}
	return nil, err
}

// answerPull gives the entries of shards from the one named on, and the shard to go on with.
//
//	request: shard uvarint · answer: next shard uvarint | leaderships
func (a *announcer) answerPull(payload []byte) ([]byte, error) {
	r := reader{b: payload}
	shard := r.uvarint()
	if r.bad || shard > leaderShards {
		return nil, errMalformed
	}
	var body []byte
	for ; shard < leaderShards && len(body) < maxAnnounce; shard++ {
		for _, l := range a.table.shards[shard].list() {
			body = l.encode(body)
		}
	}
	return append(binary.AppendUvarint(nil, shard), body...), nil
}

// pull fetches a peer's table. It does not block; calls while one is under way ask once more.
func (a *announcer) pull(node int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.peerLocked(node)
	if p.pulling || a.ctx.Err() != nil {
		p.again = true
		return
	}
	p.pulling = true
	a.wg.Go(func() {
		for {
			err := a.pullAll(node)
			a.mu.Lock()
			again := p.again || err != nil && !a.host.gone(node)
			p.again = false
			if !again || a.ctx.Err() != nil {
				p.pulling = false
				a.mu.Unlock()
				return
			}
			a.mu.Unlock()
			select {
			case <-a.ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

func (a *announcer) pullAll(node int32) error {
	for shard := uint64(0); shard < leaderShards; {
		ctx, cancel := context.WithTimeout(a.ctx, announceCall)
		b, err := a.host.call(ctx, node, kindPull, binary.AppendUvarint(nil, shard))
		cancel()
		if err != nil {
			return err
		}
		r := reader{b: b}
		next := r.uvarint()
		if r.bad || next <= shard {
			return errMalformed
		}
		if _, err := a.receive(r.b); err != nil {
			return err
		}
		shard = next
	}
	return nil
}

// compare sends what this broker leads, as a digest, to every living peer; one that disagrees pulls.
func (a *announcer) compare() {
	count, sum := a.table.digest(a.self)
	payload := binary.LittleEndian.AppendUint64(nil, count)
	payload = binary.LittleEndian.AppendUint64(payload, sum)
	for _, node := range a.host.alivePeers() {
		a.wg.Go(func() {
			ctx, cancel := context.WithTimeout(a.ctx, announceCall)
			defer cancel()
			_, _ = a.host.call(ctx, node, kindDigest, payload)
		})
	}
}

func (a *announcer) answerDigest(from int32, payload []byte) ([]byte, error) {
	if len(payload) != 16 {
		return nil, errMalformed
	}
	count, sum := a.table.digest(from)
	if count != binary.LittleEndian.Uint64(payload) || sum != binary.LittleEndian.Uint64(payload[8:]) {
		a.pull(from)
	}
	return nil, nil
}
