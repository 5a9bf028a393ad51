package transport

import "sync"

// serialQueue runs f on each item, one after the other, on a goroutine that lives only while there are items: a
// thousand idle groups hold no goroutine for it.
type serialQueue[T any] struct {
	f   func(T)
	max int
	wg  *sync.WaitGroup // counts the goroutine

	mu      sync.Mutex
	items   []T
	spare   []T
	running bool
}

// push appends x; false when max items wait already. The caller keeps wg from falling to zero meanwhile.
func (q *serialQueue[T]) push(x T) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) >= q.max {
		return false
	}
	q.items = append(q.items, x)
	if !q.running {
		q.running = true
		q.wg.Add(1)
		go q.drain()
	}
	return true
}

// runOrPush runs f on the caller's goroutine when the queue is idle, and otherwise pushes. f must not wait then.
func (q *serialQueue[T]) runOrPush(x T) bool {
	q.mu.Lock()
	if q.running || len(q.items) > 0 {
		q.mu.Unlock()
		return q.push(x)
	}
	q.running = true
	q.mu.Unlock()
	q.f(x)
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		q.running = false
		return true
	}
	q.wg.Add(1) // others came meanwhile
	go q.drain()
	return true
}

func (q *serialQueue[T]) drain() {
	defer q.wg.Done()
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) > 0 {
		batch := q.items
		q.items, q.spare = q.spare[:0], nil
		q.mu.Unlock()
		for _, x := range batch {
			q.f(x)
		}
		clear(batch)
		q.mu.Lock()
		if cap(batch) <= 1024 {
			q.spare = batch[:0]
		}
	}
	if cap(q.items) > 64 { // a burst is over: idle groups keep little
		q.items, q.spare = nil, nil
	}
	q.running = false
}
