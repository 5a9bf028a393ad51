package history

import (
	"strings"
	"testing"
)

// sound records two producers that send three records each to one partition, and a consumer that polls twice. It
// returns the final read too.
func sound() (*History, map[int32][]Final) {
	h := New()
	var f []Final
	c := h.Consumer("consumer a")
	c.Assign(0, 0)
	for i := range 6 {
		if i%3 == 0 {
			c.BeginPoll()
		}
		producer, seq := i%2, i/2
		h.Send(producer, seq, 0).OK(int64(i))
		v := Value(producer, seq, 20)
		c.Read(0, int64(i), v)
		f = append(f, Final{int64(i), v})
		if i%3 == 2 {
			c.EndPoll()
		}
	}
	return h, map[int32][]Final{0: f}
}

func TestSoundHistoryPasses(t *testing.T) {
	h, f := sound()
	if v := h.Check(f); len(v) > 0 {
		t.Fatal(v)
	}
	if h.Count() != 6 {
		t.Fatal(h.Count())
	}
}

// TestWrongHistoriesAreFound damages the sound history in each way and wants that found, with the operations that
// prove it.
func TestWrongHistoriesAreFound(t *testing.T) {
	drop := func(f map[int32][]Final, i int) { f[0] = append(f[0][:i:i], f[0][i+1:]...) }
	for _, c := range []struct {
		name   string
		change func(h *History, f map[int32][]Final)
		kind   string
		proof  string
	}{
		{"tail lost that nobody read", func(h *History, _ map[int32][]Final) { h.Send(0, 3, 0).OK(6) }, "unseen", "producer 0 sends 0:3"},
		{"tail lost that was read", func(_ *History, f map[int32][]Final) { f[0] = f[0][:5] }, "lost", "consumer a polls"},
		{"acknowledged tail lost", func(_ *History, f map[int32][]Final) { f[0] = f[0][:5] }, "lost", "the final reader polls"},
		{"whole partition lost", func(h *History, f map[int32][]Final) { h.Send(5, 0, 1).OK(0); f[1] = nil }, "unseen", "producer 5 sends 5:0"},
		{"whole partition not read", func(h *History, _ map[int32][]Final) { h.Send(5, 0, 1).OK(0) }, "unseen", "producer 5 sends 5:0"},
		{"lost in the middle", func(_ *History, f map[int32][]Final) { drop(f, 2) }, "lost", "consumer a polls"},
		{"hole", func(_ *History, f map[int32][]Final) { drop(f, 2) }, "skip", "the final reader polls"},
		{"replaced", func(h *History, f map[int32][]Final) {
			h.Send(0, 3, 0).OK(6)
			h.Send(1, 3, 0).Unknown()
			f[0] = append(f[0], Final{6, Value(1, 3, 20)})
		}, "lost", "producer 0 sends 0:3"},
		{"duplicate", func(_ *History, f map[int32][]Final) {
			f[0] = append(f[0], Final{6, Value(1, 2, 20)})
		}, "duplicate", "producer 1 sends 1:2"},
		{"order", func(h *History, f map[int32][]Final) {
			h.Send(7, 0, 0).Unknown()
			h.Send(7, 1, 0).Unknown()
			f[0] = append(f[0], Final{6, Value(7, 1, 20)}, Final{7, Value(7, 0, 20)})
		}, "order", "the final reader polls"},
		{"acknowledged offsets fall", func(h *History, f map[int32][]Final) {
			h.Send(7, 0, 0).OK(7)
			h.Send(7, 1, 0).OK(6)
		}, "send-order", "stored at 6"},
		{"one offset acknowledged twice", func(h *History, _ map[int32][]Final) { h.Send(7, 0, 0).OK(3) }, "inconsistent", "producer 7"},
		{"stands elsewhere", func(h *History, f map[int32][]Final) {
			h.Send(7, 0, 0).OK(9)
			f[0] = append(f[0], Final{6, Value(7, 0, 20)})
		}, "inconsistent", "producer 7"},
		{"changed while it was read", func(h *History, _ map[int32][]Final) {
			b := h.Consumer("consumer b")
			b.Assign(0, 2)
			b.BeginPoll()
			b.Read(0, 2, Value(1, 0, 20))
		}, "inconsistent", "consumer b polls"},
		{"changed at the end", func(_ *History, f map[int32][]Final) {
			f[0][0].Value, f[0][2].Value = f[0][2].Value, f[0][0].Value
		}, "inconsistent", "the final reader"},
		{"consumer skips", func(h *History, _ map[int32][]Final) {
			b := h.Consumer("consumer b")
			b.Assign(0, 1)
			b.BeginPoll()
			b.Read(0, 2, Value(0, 1, 20))
		}, "skip", "consumer b starts reading partition 0 at 1"},
		{"consumer goes back", func(h *History, _ map[int32][]Final) {
			b := h.Consumer("consumer b")
			b.Assign(0, 3)
			b.BeginPoll()
			b.Read(0, 3, Value(1, 1, 20))
			b.EndPoll()
			b.BeginPoll()
			b.Read(0, 3, Value(1, 1, 20))
		}, "back", "consumer b polls"},
		{"not assigned", func(h *History, _ map[int32][]Final) {
			b := h.Consumer("consumer b")
			b.BeginPoll()
			b.Read(0, 3, Value(1, 1, 20))
		}, "skip", "consumer b polls"},
		{"failed and there", func(h *History, f map[int32][]Final) {
			h.Send(0, 3, 0).Failed()
			f[0] = append(f[0], Final{6, Value(0, 3, 20)})
		}, "failed-seen", "producer 0 sends 0:3"},
		{"never sent", func(_ *History, f map[int32][]Final) { f[0] = append(f[0], Final{6, Value(9, 9, 20)}) }, "alien", "the final reader"},
		{"a flipped bit", func(_ *History, f map[int32][]Final) { f[0][1].Value[19] ^= 1 }, "alien", "the final reader"},
		{"a wild offset", func(_ *History, f map[int32][]Final) { f[0][5].Offset = 1 << 60 }, "alien", "the final reader"},
		{"deletion undone", func(h *History, _ map[int32][]Final) { h.Delete("admin", 0, 2).OK(-1) }, "log-start", "admin deletes"},
		{"deleted too far", func(h *History, f map[int32][]Final) {
			h.Delete("admin", 0, 2).OK(-1)
			f[0] = f[0][3:]
		}, "log-start", "admin deletes"},
		{"deleted by nobody", func(_ *History, f map[int32][]Final) { f[0] = f[0][1:] }, "log-start", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, f := sound()
			c.change(h, f)
			found := h.Check(f)
			for _, v := range found {
				if v.Kind == c.kind && strings.Contains(strings.Join(v.Proof, "\n"), c.proof) {
					return
				}
			}
			t.Fatalf("want %s proved by %q in:\n%v", c.kind, c.proof, found)
		})
	}
}

// TestAllowedHistoriesPass is what may happen and is no violation.
func TestAllowedHistoriesPass(t *testing.T) {
	for name, change := range map[string]func(h *History, f map[int32][]Final){
		"an unknown send is there": func(h *History, f map[int32][]Final) {
			h.Send(0, 3, 0).Unknown()
			f[0] = append(f[0], Final{6, Value(0, 3, 20)})
		},
		"a send that never returned is there": func(h *History, f map[int32][]Final) {
			h.Send(0, 3, 0)
			f[0] = append(f[0], Final{6, Value(0, 3, 20)})
		},
		"unknown and failed sends are not there": func(h *History, _ map[int32][]Final) {
			h.Send(0, 3, 0).Unknown()
			h.Send(0, 4, 0).Failed()
		},
		"deleted":                   func(h *History, f map[int32][]Final) { h.Delete("admin", 0, 2).OK(-1); f[0] = f[0][2:] },
		"a deletion without answer": func(h *History, f map[int32][]Final) { h.Delete("admin", 0, 2); f[0] = f[0][1:] },
		"all deleted":               func(h *History, f map[int32][]Final) { h.Delete("admin", 0, 6).OK(-1); f[0] = nil },
		"assigned anew": func(h *History, _ map[int32][]Final) {
			b := h.Consumer("consumer b")
			for range 2 {
				b.Assign(0, 1)
				b.BeginPoll()
				b.Read(0, 1, Value(1, 0, 20))
				b.EndPoll()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, f := sound()
			change(h, f)
			if v := h.Check(f); len(v) > 0 {
				t.Fatal(v)
			}
		})
	}
}

func TestFindingsAreBounded(t *testing.T) {
	h, f := sound()
	for i := range 1000 {
		h.Send(8, i, 0).OK(int64(100 + i))
	}
	found := h.Check(f)
	if len(found) != maxPerKind+1 || !strings.Contains(found[maxPerKind].String(), "1000 in all") {
		t.Fatal(len(found), found[len(found)-1])
	}
}
