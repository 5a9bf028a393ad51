package history

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func decide(t *testing.T, h *History) *Violation {
	t.Helper()
	v, err := h.Linearizable(0, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// tick lets fake time go on: what lies on two sides of it is ordered.
func tick() { time.Sleep(time.Millisecond) }

func TestLinearizable(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(h *History, c *Consumer)
		ok   bool
	}{
		{"concurrent sends in any order", func(h *History, _ *Consumer) {
			a, b := h.Send(0, 0, 0), h.Send(1, 0, 0)
			tick()
			a.OK(1)
			b.OK(0)
		}, true},
		{"a later send below an earlier one", func(h *History, _ *Consumer) {
			a := h.Send(0, 0, 0)
			tick()
			a.OK(1)
			tick()
			b := h.Send(1, 0, 0)
			tick()
			b.OK(0)
		}, false},
		{"an unknown send between two others", func(h *History, _ *Consumer) {
			h.Send(2, 0, 0)
			tick()
			h.Send(0, 0, 0).OK(0)
			tick()
			h.Send(1, 0, 0).OK(2)
		}, true},
		{"a gap that nobody sent into", func(h *History, _ *Consumer) {
			h.Send(0, 0, 0).OK(0)
			tick()
			h.Send(1, 0, 0).OK(2)
		}, false},
		{"a failed send does not fill a gap", func(h *History, _ *Consumer) {
			h.Send(2, 0, 0).Failed()
			tick()
			h.Send(0, 0, 0).OK(0)
			tick()
			h.Send(1, 0, 0).OK(2)
		}, false},
		{"a read during the send", func(h *History, c *Consumer) {
			a := h.Send(0, 0, 0)
			tick()
			c.BeginPoll()
			c.Read(0, 0, Value(0, 0, 10))
			c.EndPoll()
			tick()
			a.OK(0)
		}, true},
		{"a read before the send", func(h *History, c *Consumer) {
			c.BeginPoll()
			c.Read(0, 0, Value(0, 0, 10))
			c.EndPoll()
			tick()
			h.Send(0, 0, 0).OK(0)
		}, false},
		{"the end counts what was acknowledged", func(h *History, _ *Consumer) {
			h.Send(0, 0, 0).OK(0)
			tick()
			h.End("admin", 0).OK(1)
		}, true},
		{"a stale end", func(h *History, _ *Consumer) {
			h.Send(0, 0, 0).OK(0)
			tick()
			h.End("admin", 0).OK(0)
		}, false},
		{"the end goes back", func(h *History, _ *Consumer) {
			a := h.Send(0, 0, 0)
			tick()
			h.End("admin", 0).OK(1)
			tick()
			h.End("admin", 0).OK(0)
			tick()
			a.OK(0)
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := New()
				consumer := h.Consumer("consumer a")
				consumer.Assign(0, 0)
				tick()
				c.run(h, consumer)
				v := decide(t, h)
				if (v == nil) != c.ok {
					t.Fatalf("linearizable: %v, want %v: %v", v == nil, c.ok, v)
				}
				if v != nil && len(v.Proof) == 0 {
					t.Fatal("no operation proves it")
				}
			})
		})
	}
}

func TestTooManyUnknownSends(t *testing.T) {
	h := New()
	for i := range maxUnknown + 1 {
		h.Send(0, i, 0).Unknown()
	}
	if _, err := h.Linearizable(0, time.Second); !errors.Is(err, ErrUndecided) {
		t.Fatal(err)
	}
}
