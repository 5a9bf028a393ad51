package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

func TestProducerIDs(t *testing.T) {
	var p producerIDs
	var blocks atomic.Int64
	boom := errors.New("no controller")
	more := func(context.Context) (int64, int, error) {
		n := blocks.Add(1)
		if n%3 == 0 {
			return 0, 0, boom
		}
		return n * 1000, 10, nil
	}
	var mu sync.Mutex
	seen := map[int64]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				id, err := p.take(t.Context(), more)
				if err != nil {
					if !errors.Is(err, boom) {
						t.Error(err)
					}
					continue
				}
				mu.Lock()
				if seen[id] {
					t.Errorf("%d twice", id)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hang := make(chan struct{})
	var q producerIDs
	if _, err := q.take(ctx, func(context.Context) (int64, int, error) { <-hang; return 0, 1, nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hang)
}
