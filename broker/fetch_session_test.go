package broker

import (
	"fmt"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/protocol"
)

func sessionParts(n int) []fetchPart {
	out := make([]fetchPart, n)
	for i := range out {
		out[i] = fetchPart{fetchKey: fetchKey{name: fmt.Sprint("t", i)}, offset: int64(i)}
	}
	return out
}

func TestFetchSessions(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newSessionCache(2)
	a := c.create(sessionParts(3), false, now)
	if a == nil || a.id == 0 || a.epoch != 1 {
		t.Fatalf("%+v", a)
	}
	// In use: another connection is turned away.
	if _, code := c.use(&fetchRequest{sessionID: a.id, sessionEpoch: 1}, false, now); code != protocol.InvalidFetchSessionEpoch {
		t.Fatal(code)
	}
	c.release(a)
	for _, x := range []struct {
		id, epoch int32
		byID      bool
		code      int16
	}{
		{a.id ^ 1, 1, false, protocol.FetchSessionIDNotFound},
		{a.id, 2, false, protocol.InvalidFetchSessionEpoch},
		{a.id, 1, true, protocol.FetchSessionTopicIDError},
	} {
		if _, code := c.use(&fetchRequest{sessionID: x.id, sessionEpoch: x.epoch}, x.byID, now); code != x.code {
			t.Errorf("%+v: %d", x, code)
		}
	}
	// Changes are taken over: one more, one other, one less.
	f := &fetchRequest{sessionID: a.id, sessionEpoch: 1, parts: []fetchPart{
		{fetchKey: fetchKey{name: "new"}, offset: 5}, {fetchKey: fetchKey{name: "t1"}, offset: 99},
	}, forgotten: []fetchKey{{name: "t0"}, {name: "never"}}}
	s, code := c.use(f, false, now)
	if code != 0 || s != a || len(s.parts) != 3 || s.order.Len() != 3 || s.parts[fetchKey{name: "t1"}].offset != 99 || s.epoch != 2 || c.parts != 3 {
		t.Fatalf("%d %+v", code, s)
	}
	// The epoch wraps to 1, never 0.
	s.epoch = maxSessionEpoch
	c.release(s)
	if s, code = c.use(&fetchRequest{sessionID: a.id, sessionEpoch: maxSessionEpoch}, false, now); code != 0 || s.epoch != 1 {
		t.Fatal(code, s)
	}
	c.release(s)

	// Full: no session, until one has been idle for long.
	b := c.create(sessionParts(1), true, now.Add(time.Minute))
	c.release(b)
	if c.create(sessionParts(1), true, now.Add(time.Minute)) != nil {
		t.Fatal("a third session")
	}
	d := c.create(sessionParts(1), true, now.Add(evictAfter))
	if d == nil || c.alive(a) || !c.alive(b) || c.parts != 2 || c.len() != 2 {
		t.Fatalf("%+v, %d partitions", d, c.parts)
	}
	c.release(d)

	// A session with nothing left ends.
	if s, code = c.use(&fetchRequest{sessionID: d.id, sessionEpoch: 1, forgotten: []fetchKey{{name: "t0"}}}, true, now); code != 0 || c.alive(s) {
		t.Fatal(code)
	}
	c.release(s)
	c.remove(b.id)
	if c.parts != 0 || c.len() != 0 || c.lru.Len() != 0 {
		t.Fatalf("%d partitions, %d sessions left", c.parts, c.len())
	}
	if newSessionCache(0).create(sessionParts(1), true, now) != nil {
		t.Fatal("a session without slots")
	}
}
