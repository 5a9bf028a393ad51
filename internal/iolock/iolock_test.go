package iolock

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Holders that wait let the bubble's clock run, and come one after the other in the order in which they asked.
func TestMutex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Mutex
		var wg sync.WaitGroup
		var order []int
		for i := range 5 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				m.Lock()
				defer m.Unlock()
				time.Sleep(time.Second)
				order = append(order, i)
			})
		}
		began := time.Now()
		wg.Wait()
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("five seconds of work took %v", d)
		}
		for i, got := range order {
			if got != i {
				t.Fatalf("order %v", order)
			}
		}
		m.Lock()
		order = nil // free again, and what it guards is ours
		m.Unlock()
		defer func() {
			if recover() == nil {
				t.Error("an unlocked Mutex was unlocked")
			}
		}()
		m.Unlock()
	})
}
