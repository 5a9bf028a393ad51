package broker

import (
	"container/list"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/balsa-broker/balsa/protocol"
)

// Incremental fetch sessions (KIP-227): the broker remembers which partitions a client asks for and what it was told
// last, so that a fetch names only changes and an answer only partitions with news.
//
//	session id, epoch     meaning
//	any,  -1              a full fetch; the session, if there is one, ends
//	any,   0              a full fetch that asks for a new session; the old one ends
//	id,   the next one    an incremental fetch
//
// The cache is bounded in sessions and in partitions. A full one evicts the session that was idle longest, if that is
// evictAfter or more; otherwise the client gets session 0, and goes on with full fetches.

const (
	evictAfter       = 2 * time.Minute // Kafka's min.incremental.fetch.session.eviction.ms
	maxSessionParts  = 500_000         // over all sessions
	maxSessionEpoch  = 1<<31 - 1
	finalEpoch       = -1
	initialEpoch     = 0
	firstIncremental = 1
)

// sessionPart is what a session knows of one partition.
type sessionPart struct {
	fetchPart
	// As last told to the client.
	highWatermark, logStart int64
	elem                    *list.Element
}

// fetchSession. The fields below mu belong to the fetch that holds it; last and lru to the cache.
type fetchSession struct {
	id   int32
	byID bool // partitions are named by topic id
	last time.Time
	lru  *list.Element

	mu    sync.Mutex
	epoch int32 // expected next
	parts map[fetchKey]*sessionPart
	order *list.List // of *sessionPart: those that gave data last go to the end, so that partitions take turns
	size  int        // len(parts) as counted by the cache
}

type sessionCache struct {
	slots int

	mu    sync.Mutex
	m     map[int32]*fetchSession
	lru   *list.List // of *fetchSession, least recently used first
	parts int
}

func newSessionCache(slots int) *sessionCache {
	return &sessionCache{slots: slots, m: map[int32]*fetchSession{}, lru: list.New()}
}

func (c *sessionCache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.m)
}

func (c *sessionCache) removeLocked(s *fetchSession) {
	delete(c.m, s.id)
	c.lru.Remove(s.lru)
	c.parts -= s.size
	s.size = 0
}

func (c *sessionCache) remove(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.m[id]; s != nil {
		c.removeLocked(s)
	}
}

// create makes a session of these partitions; nil when the cache is full. The session is locked.
func (c *sessionCache) create(parts []fetchPart, byID bool, now time.Time) *fetchSession {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slots <= 0 || len(parts) == 0 {
		return nil
	}
	for len(c.m) >= c.slots || c.parts+len(parts) > maxSessionParts {
		front := c.lru.Front()
		if front == nil {
			return nil
		}
		oldest := front.Value.(*fetchSession)
		if now.Sub(oldest.last) < evictAfter {
			return nil
		}
		c.removeLocked(oldest)
	}
	s := &fetchSession{byID: byID, last: now, epoch: firstIncremental, parts: make(map[fetchKey]*sessionPart, len(parts)), order: list.New()}
	for s.id == 0 || c.m[s.id] != nil {
		s.id = rand.Int32() //nolint:gosec // an id, not a secret
	}
	s.mu.Lock()
	for i := range parts {
		s.put(&parts[i])
	}
	s.size = len(s.parts)
	c.parts += s.size
	c.m[s.id] = s
	s.lru = c.lru.PushBack(s)
	return s
}

// put adds a partition, or changes what is asked of it.
func (s *fetchSession) put(p *fetchPart) {
	if old := s.parts[p.fetchKey]; old != nil {
		old.fetchPart = *p
		return
	}
	sp := &sessionPart{fetchPart: *p, highWatermark: -1, logStart: -1}
	sp.elem = s.order.PushBack(sp)
	s.parts[p.fetchKey] = sp
}

// use finds the session of an incremental fetch, takes over the request's changes and locks it. A session that is in
// use by another connection counts as one with the wrong epoch: the client starts anew.
func (c *sessionCache) use(f *fetchRequest, byID bool, now time.Time) (*fetchSession, int16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.m[f.sessionID]
	if s == nil {
		return nil, protocol.FetchSessionIDNotFound
	}
	if s.byID != byID {
		return nil, protocol.FetchSessionTopicIDError
	}
	if !s.mu.TryLock() {
		return nil, protocol.InvalidFetchSessionEpoch
	}
	if s.epoch != f.sessionEpoch {
		s.mu.Unlock()
		return nil, protocol.InvalidFetchSessionEpoch
	}
	if s.epoch == maxSessionEpoch {
		s.epoch = firstIncremental
	} else {
		s.epoch++
	}
	for i := range f.parts {
		s.put(&f.parts[i])
	}
	for _, k := range f.forgotten {
		if p := s.parts[k]; p != nil {
			s.order.Remove(p.elem)
			delete(s.parts, k)
		}
	}
	c.parts += len(s.parts) - s.size
	s.size = len(s.parts)
	if len(s.parts) == 0 || c.parts > maxSessionParts {
		// Nothing left to remember, or too much: this fetch is answered with session 0, the next one is full.
		c.removeLocked(s)
	}
	s.last = now
	if c.m[s.id] == s {
		c.lru.MoveToBack(s.lru)
	}
	return s, 0
}

// release unlocks a session after its fetch was answered.
func (c *sessionCache) release(s *fetchSession) { s.mu.Unlock() }

// alive says whether the session is still in the cache.
func (c *sessionCache) alive(s *fetchSession) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[s.id] == s
}
