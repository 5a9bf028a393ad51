package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

// A snapshot travels on a connection of its own, so that it delays nothing and TCP itself holds back the sender:
//
//	leader                          follower
//	handshake, class snapshot  -->
//	frameSnapshot              -->  guards (safety rule 6)
//	                           <--  frameSnapshotAnswer or frameRefusal: the end
//	                           <--  frameSnapshotGo: Raft wants it
//	size bytes                 -->
//	                           <--  frameSnapshotAnswer or frameRefusal
//
// Every single read and write must make progress within Options.AppendTimeout.

// InstallSnapshot implements raft.Transport.
func (e *Endpoint) InstallSnapshot(_ raft.ServerID, a raft.ServerAddress, q *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	t, err := e.target(a)
	if err != nil {
		return err
	}
	if _, err := e.await(t.peer); err != nil {
		return err
	}
	c, err := e.m.dialConn(e.ctx, t.peer.node, classSnapshot)
	if err != nil {
		return fmt.Errorf("install snapshot: %w", err)
	}
	defer c.fail(ErrClosed)
	stop := context.AfterFunc(e.ctx, func() { c.fail(ErrClosed) })
	defer stop()
	body := appendSnapshot(nil, t.route, q)
	h := header{length: uint32(len(body)), typ: frameSnapshot, kind: uint8(q.ProtocolVersion), id: 1}
	w := progressWriter{c}
	if _, err := w.Write(append(appendHeader(nil, h), body...)); err != nil {
		return fmt.Errorf("install snapshot: %w", err)
	}
	typ, body, err := c.readSnapshotFrame()
	if err != nil {
		return fmt.Errorf("install snapshot: %w", err)
	}
	if typ == frameSnapshotGo {
		n, err := io.CopyN(w, data, q.Size)
		if err != nil {
			return fmt.Errorf("install snapshot: %d of %d bytes sent: %w", n, q.Size, err)
		}
		if typ, body, err = c.readSnapshotFrame(); err != nil {
			return fmt.Errorf("install snapshot: %w", err)
		}
	}
	if typ != frameSnapshotAnswer {
		return fmt.Errorf("install snapshot: %w: type %d", errMalformed, typ)
	}
	resp.Term, resp.Success, err = parseVerdict(body)
	if err == nil && resp.Success {
		f := t.follower
		f.sent(q.Term, e.group.LastIndex(), time.Now())
		f.matched(q.Term, q.LastLogIndex)
	}
	return err
}

// readSnapshotFrame reads the follower's next word; a refusal is an error.
func (c *conn) readSnapshotFrame() (frameType, []byte, error) {
	r := progressReader{c}
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, err
	}
	h, err := parseHeader(b, c.m.o.MaxFrameBytes)
	if err != nil {
		return 0, nil, err
	}
	if h.length > 1<<20 {
		return 0, nil, errMalformed
	}
	body := make([]byte, h.length)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	if h.typ == frameRefusal {
		return 0, nil, &RemoteError{Node: c.peer.node, Code: h.kind, Msg: string(body)}
	}
	if h.typ == frameSnapshot { // with what belongs to the header
		return h.typ, append([]byte{h.kind}, body...), nil
	}
	return h.typ, body, nil
}

// progressReader and progressWriter give each operation a deadline of its own. A snapshot may take Raft long to install:
// the leader's wait for the answer is bounded by ten times that.
type progressReader struct{ c *conn }

func (r progressReader) Read(b []byte) (int, error) {
	d := r.c.m.o.AppendTimeout
	if r.c.outbound {
		d *= 10
	}
	_ = r.c.nc.SetReadDeadline(time.Now().Add(d))
	return r.c.br.Read(b)
}

type progressWriter struct{ c *conn }

func (w progressWriter) Write(b []byte) (int, error) {
	_ = w.c.nc.SetWriteDeadline(time.Now().Add(w.c.m.o.AppendTimeout))
	return w.c.nc.Write(b)
}

// snapshotIn is an InstallSnapshot on the follower's side.
type snapshotIn struct {
	req  *raft.InstallSnapshotRequest
	done chan raft.RPCResponse // capacity 1
}

// serveSnapshot is the life of a snapshot connection.
func (m *Mux) serveSnapshot(c *conn) error {
	stop := context.AfterFunc(m.ctx, func() { c.fail(ErrClosed) })
	defer stop()
	typ, body, err := c.readSnapshotFrame()
	if err != nil {
		return err
	}
	if typ != frameSnapshot {
		return fmt.Errorf("%w: type %d on a snapshot connection", errMalformed, typ)
	}
	r, q, err := parseSnapshot(body[1:])
	if err != nil {
		return err
	}
	it := &inbound{
		c: c, h: header{typ: frameSnapshot, kind: body[0], id: 1}, route: r, src: c.source(r.source),
		snap: &snapshotIn{req: q, done: make(chan raft.RPCResponse, 1)},
	}
	q.RPCHeader = it.rpcHeader()
	q.Leader = q.Addr
	e, err := m.endpointFor(c, r)
	if err == nil && !e.requests.push(it) {
		err = e.full()
	}
	var res raft.RPCResponse
	if err != nil {
		res.Error = err
	} else {
		res = <-it.snap.done
	}
	w := progressWriter{c}
	h := header{typ: frameSnapshotAnswer, id: 1}
	if res.Error != nil {
		text := res.Error.Error()
		text = text[:min(len(text), 2000)]
		h = header{typ: frameRefusal, id: 1, kind: uint8(codeOf(res.Error)), length: uint32(len(text))}
		_, err = w.Write(append(appendHeader(nil, h), text...))
		return errors.Join(res.Error, err)
	}
	resp := res.Response.(*raft.InstallSnapshotResponse)
	h.length = verdictSize
	_, err = w.Write(appendVerdict(appendHeader(nil, h), resp.Term, resp.Success))
	return err
}

// processSnapshot is the group's turn with a snapshot: nothing else of the group is handed to Raft meanwhile. The
// probe first makes sure that the sender still leads (nothing is wiped for a deposed leader) and that Raft has
// answered all that came before.
func (e *Endpoint) processSnapshot(it *inbound) {
	q := it.snap.req
	resp, err := e.probe(it, q.Term)
	if err != nil || !resp.Success {
		r := raft.RPCResponse{Error: err}
		if err == nil {
			r.Response = &raft.InstallSnapshotResponse{Term: resp.Term}
		}
		e.finish(it, r)
		return
	}
	log := e.m.log.With("replica", e.addr, "from", it.from(), "index", q.LastLogIndex, "term", q.LastLogTerm)
	switch judgeSnapshot(e.group, q.LastLogIndex, q.LastLogTerm) {
	case snapshotHave:
		e.finish(it, raft.RPCResponse{Response: &raft.InstallSnapshotResponse{Term: resp.Term, Success: true}})
		return
	case snapshotUnproven:
		e.finish(it, raft.RPCResponse{Error: fmt.Errorf("transport: the term of the local entry %d of %s is not known", q.LastLogIndex, e.addr)})
		return
	case snapshotWipe:
		log.Warn("log diverges from the leader's snapshot and is emptied", "last_index", e.group.LastIndex())
		err := ErrWiped
		if werr := e.group.WipeForSnapshot(q.LastLogIndex, q.LastLogTerm); werr != nil {
			err = fmt.Errorf("empty the log of %s for a snapshot: %w", e.addr, werr)
		}
		e.finish(it, raft.RPCResponse{Error: err})
		return
	}
	log.Info("receiving a snapshot", "size", q.Size)
	if _, err := (progressWriter{it.c}).Write(appendHeader(nil, header{typ: frameSnapshotGo, id: 1})); err != nil {
		e.finish(it, raft.RPCResponse{Error: err})
		return
	}
	got := make(chan raft.RPCResponse, 1)
	a := &pendingAnswer{it: it, resp: make(chan raft.RPCResponse, 1), after: func(r raft.RPCResponse) { got <- r }}
	select {
	case e.consumer <- raft.RPC{Command: q, Reader: io.LimitReader(progressReader{it.c}, q.Size), RespChan: a.resp}:
		e.answers.push(a)
	case <-e.ctx.Done():
		e.finish(it, raft.RPCResponse{Error: ErrClosed})
		return
	}
	e.finish(it, <-got)
}
