// Package iolock has a lock for who works on files while holding it.
package iolock

import "sync"

// Mutex is a fair mutual exclusion lock that may be held for as long as a disk takes. Unlike a wait for a sync.Mutex, a
// wait for this one is a wait to testing/synctest, whose clock would else stand still while the holder waits for a slow
// disk. The zero value is an unlocked Mutex; it is not copied after its first use.
type Mutex struct {
	mu      sync.Mutex
	held    bool
	waiting []chan struct{} // first come, first served; closed when the lock is handed over
}

// Lock waits for the lock.
func (m *Mutex) Lock() {
	m.mu.Lock()
	if !m.held {
		m.held = true
		m.mu.Unlock()
		return
	}
	turn := make(chan struct{})
	m.waiting = append(m.waiting, turn)
	m.mu.Unlock()
	<-turn
}

// Unlock gives the lock to the one that waits longest. It panics when nobody holds it.
func (m *Mutex) Unlock() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.held {
		panic("iolock: unlock of an unlocked Mutex")
	}
	if len(m.waiting) == 0 {
		m.held = false
		return
	}
	close(m.waiting[0])
	m.waiting = m.waiting[1:]
}
