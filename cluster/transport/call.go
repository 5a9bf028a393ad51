package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"
)

// A call's body begins with the time that its caller gives it, in milliseconds (4 bytes; 0: no limit); an answer and
// a notification are the payload alone.
const callSize = 4

// bigCall: requests above this size travel on the data connection, so as not to delay heartbeats.
const bigCall = 64 << 10

// maxPendingNotifies per peer wait for the first attempt to dial it.
const maxPendingNotifies = 256

// maxQueuedNotifies per connection and kind wait for the handler on the receiving side.
const maxQueuedNotifies = 1024

// Call asks another broker (or, with node this broker's, its own handler) and waits for the answer. Calls are not
// ordered. With no connection it waits for one attempt to make it. The payload may be reused when Call returns.
func (m *Mux) Call(ctx context.Context, node int32, kind uint8, payload []byte) ([]byte, error) {
	if len(payload) > m.o.MaxCallBytes {
		return nil, fmt.Errorf("%w: call of %d bytes, the limit is %d", ErrTooLarge, len(payload), m.o.MaxCallBytes)
	}
	if node == m.o.Node {
		f, err := m.handler(kind)
		if err != nil {
			return nil, err
		}
		return f(ctx, node, append([]byte(nil), payload...))
	}
	p, err := m.peer(node)
	if err != nil {
		return nil, err
	}
	l, err := p.await(ctx, nil, 0, true)
	if err != nil {
		return nil, err
	}
	c := l.control
	if len(payload) > bigCall {
		c = l.data
	}
	// The caller's deadline ends the call here; the request's own is for calls without one.
	timeout, millis := 10*time.Minute, uint32(0)
	if d, ok := ctx.Deadline(); ok {
		left := time.Until(d)
		timeout = left + time.Second
		millis = uint32(min(max(left.Milliseconds(), 1), 1<<31))
	}
	w := make(waiter, 1)
	id, err := c.register(&request{expect: frameCallAnswer, timeout: timeout, done: w.done})
	if err != nil {
		return nil, err
	}
	b := newBuffer(headerSize + callSize + len(payload))
	b.b = appendHeader(b.b, header{typ: frameCall, kind: kind, id: id})
	b.b = binary.BigEndian.AppendUint32(b.b, millis)
	b.b = append(b.b, payload...)
	if err := c.sendBuffer(b); err != nil {
		c.forget(id)
		return nil, err
	}
	select {
	case r := <-w:
		return r.body, r.err
	case <-ctx.Done():
		c.forget(id)
		return nil, fmt.Errorf("call of broker %d: %w", node, ctx.Err())
	}
}

// Notify sends and forgets: what cannot be sent now or after the first attempt to connect is dropped, and so is what
// the receiver has no room for. Notifications of one kind arrive in order.
func (m *Mux) Notify(node int32, kind uint8, payload []byte) {
	if len(payload) > m.o.MaxCallBytes {
		m.log.Error("notification too large", "bytes", len(payload), "limit", m.o.MaxCallBytes)
		return
	}
	payload = append([]byte(nil), payload...)
	if node == m.o.Node {
		m.mu.RLock()
		f, ok := m.handlers[kind]
		ok = ok && !m.closed
		if ok {
			m.wg.Go(func() { _, _ = f(m.ctx, node, payload) })
		}
		m.mu.RUnlock()
		return
	}
	p, err := m.peer(node)
	if err != nil {
		return
	}
	p.mu.Lock()
	l := p.connected()
	if l == nil {
		if p.lastErr == nil && len(p.notifies) < maxPendingNotifies {
			p.notifies = append(p.notifies, pendingNotify{kind, payload})
		}
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	m.sendNotify(l, kind, payload)
}

func (m *Mux) sendNotify(l *link, kind uint8, payload []byte) {
	b := newBuffer(headerSize + len(payload))
	b.b = appendHeader(b.b, header{typ: frameNotify, kind: kind})
	b.b = append(b.b, payload...)
	_ = l.control.sendBuffer(b)
}

func (m *Mux) serveCall(c *conn, h header, body []byte) error {
	if len(body) < callSize {
		return errMalformed
	}
	f, err := m.handler(h.kind)
	if err == nil && len(body)-callSize > m.o.MaxCallBytes {
		err = fmt.Errorf("%w: call of %d bytes, the limit of broker %d is %d", ErrTooLarge, len(body), m.o.Node, m.o.MaxCallBytes)
	}
	if err != nil {
		c.refuse(h, err)
		return nil
	}
	select {
	case m.calls <- struct{}{}:
	default:
		c.refuse(h, fmt.Errorf("%w: broker %d has %d calls under way", ErrOverloaded, m.o.Node, m.o.MaxConcurrentCall))
		return nil
	}
	millis := binary.BigEndian.Uint32(body)
	payload := append([]byte(nil), body[callSize:]...)
	m.wg.Go(func() {
		defer func() { <-m.calls }()
		ctx := c.ctx // the call ends with its connection
		if millis > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Duration(millis)*time.Millisecond)
			defer cancel()
		}
		out, err := f(ctx, c.peer.node, payload)
		if err == nil && len(out) > m.o.MaxCallBytes {
			err = fmt.Errorf("%w: answer of %d bytes, the limit is %d", ErrTooLarge, len(out), m.o.MaxCallBytes)
		}
		if err != nil && c.ctx.Err() != nil {
			return // the handler was told to stop; its caller learns that the connection ended
		}
		if err != nil {
			c.refuse(h, err)
			return
		}
		b := newBuffer(headerSize + len(out))
		b.b = appendHeader(b.b, header{typ: frameCallAnswer, kind: h.kind, id: h.id})
		b.b = append(b.b, out...)
		_ = c.sendBuffer(b)
	})
	return nil
}

func (m *Mux) serveNotify(c *conn, h header, body []byte) {
	f, err := m.handler(h.kind)
	if err != nil || len(body) > m.o.MaxCallBytes {
		return
	}
	q, ok := c.notifies[h.kind]
	if !ok {
		q = &serialQueue[[]byte]{max: maxQueuedNotifies, wg: &m.wg, f: func(payload []byte) {
			_, _ = f(m.ctx, c.peer.node, payload)
		}}
		c.notifies[h.kind] = q
	}
	if !q.push(append([]byte(nil), body...)) {
		m.log.Warn("notification dropped, its handler is too slow", "kind", h.kind, "peer", c.peer.node)
	}
}

// result of a request, and a channel for one.
type result struct {
	h    header
	body []byte
	err  error
}

type waiter chan result

// done keeps a copy of body: the reader goes on.
func (w waiter) done(h header, body []byte, buf *buffer, err error) {
	if buf == nil && len(body) > 0 {
		body = append([]byte(nil), body...)
	}
	w <- result{h, body, err}
}
