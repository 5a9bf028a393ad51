package history

import (
	"strings"
	"testing"
)

// sound is a history of two producers on one partition with its final read.
func sound() (*History, map[int32][]Final) {
	h := New()
	var f []Final
	for i := range 6 {
		producer, seq := i%2, i/2
		h.Acked(producer, seq, 0, int64(i))
		v := Value(producer, seq, 20)
		h.Read(0, int64(i), v)
		f = append(f, Final{int64(i), v})
	}
	return h, map[int32][]Final{0: f}
}

func TestSoundHistoryPasses(t *testing.T) {
	h, f := sound()
	if errs := h.Check(f); len(errs) > 0 {
		t.Fatal(errs)
	}
}

func TestWrongHistoriesAreFound(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *History, f map[int32][]Final)
		want   string
	}{
		"lost tail": {func(_ *History, f map[int32][]Final) { f[0] = f[0][:5] }, "LOST"},
		"lost in the middle": {func(_ *History, f map[int32][]Final) {
			f[0] = append(f[0][:2:2], f[0][3:]...)
		}, "follows"},
		"duplicate": {func(_ *History, f map[int32][]Final) {
			f[0] = append(f[0], Final{6, Value(1, 2, 20)})
		}, "stands 2 times"},
		"order": {func(h *History, f map[int32][]Final) {
			f[0][0].Value, f[0][2].Value = f[0][2].Value, f[0][0].Value
		}, "after"},
		"moved": {func(h *History, _ map[int32][]Final) { h.acked[3].Offset = 5 }, "and stands at"},
		"changed while reading": {func(h *History, _ map[int32][]Final) {
			h.Read(0, 2, []byte("other"))
		}, "changed its value"},
		"read and gone": {func(h *History, f map[int32][]Final) {
			h.Read(0, 6, Value(9, 9, 20))
		}, "was read and is gone"},
		"stranger": {func(_ *History, f map[int32][]Final) { f[0][1].Value = []byte("?") }, "nobody sent"},
	} {
		t.Run(name, func(t *testing.T) {
			h, f := sound()
			c.change(h, f)
			errs := strings.Join(h.Check(f), "\n")
			if !strings.Contains(errs, c.want) {
				t.Fatalf("want %q in:\n%s", c.want, errs)
			}
		})
	}
}

func TestUnacknowledgedMayBeThere(t *testing.T) {
	h, f := sound()
	h.Failed(0, 3)
	f[0] = append(f[0], Final{6, Value(0, 3, 20)})
	if errs := h.Check(f); len(errs) > 0 {
		t.Fatal(errs)
	}
}
