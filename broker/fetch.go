package broker

import (
	"context"
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/balsa-broker/balsa/cluster"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
)

// Fetch, versions 4-18.
//
// Deviations from Kafka: only a leader answers (no KIP-392), whatever replica id the client gives.
//
// The answer's fields are encoded by hand; the records are stretches of segment files, sent from file to socket.

// fetchResult is the outcome for one partition.
type fetchResult struct {
	part    *fetchPart
	session *sessionPart // nil without a session
	read    partition.ReadResult
	code    int16
	leader  cluster.Leader
	hasHint bool
	copied  []byte // the records of a small answer
}

// fetchCall is one fetch under way.
type fetchCall struct {
	s        *Server
	k        *conn
	req      *fetchRequest
	version  int16
	deadline time.Time
	maxBytes int
	results  []fetchResult
	hints    hintSet
	session  *fetchSession
	full     bool // answer every partition, news or not
	code     int16
}

func (k *conn) answerFetch(r *request) error {
	req, err := decodeFetch(r.body, r.header.Version)
	if err != nil {
		return err
	}
	k.finish(r, true) // nothing aliases the frame: a long poll does not hold it
	c := &fetchCall{
		s: k.s, k: k, req: req, version: r.header.Version, full: true,
		deadline: r.start.Add(time.Duration(max(req.maxWaitMillis, 0)) * time.Millisecond),
		maxBytes: int(min(max(req.maxBytes, 0), int32(k.s.config().FetchMaxBytes()))),
		hints:    hintSet{s: k.s, listener: r.listener, on: r.header.Version >= 16},
	}
	defer c.close()
	c.openSession()
	if c.code == 0 {
		c.poll(r.ctx)
	}
	return k.sendFetch(r, c)
}

func (c *fetchCall) close() {
	c.releaseRanges()
	if c.session != nil {
		c.s.sessions.release(c.session)
	}
}

// openSession finds the partitions of the fetch.
func (c *fetchCall) openSession() {
	f := c.req
	byID := c.version >= 13
	switch f.sessionEpoch {
	case finalEpoch, initialEpoch:
		if f.sessionID != 0 {
			c.s.sessions.remove(f.sessionID)
		}
		if f.sessionEpoch == initialEpoch {
			c.session = c.s.sessions.create(f.parts, byID, c.s.now())
		}
	default:
		c.full = false
		if c.session, c.code = c.s.sessions.use(f, byID, c.s.now()); c.code != 0 {
			c.s.m.failed(c.code)
			return
		}
	}
	if c.session == nil {
		c.results = make([]fetchResult, len(f.parts))
		for i := range f.parts {
			c.results[i].part = &f.parts[i]
		}
		return
	}
	c.results = make([]fetchResult, 0, c.session.order.Len())
	for e := c.session.order.Front(); e != nil; e = e.Next() {
		sp := e.Value.(*sessionPart)
		c.results = append(c.results, fetchResult{part: &sp.fetchPart, session: sp})
	}
}

// poll reads until there is enough to answer or time is up.
func (c *fetchCall) poll(ctx context.Context) {
	w := waiter{deadline: c.deadline}
	defer w.stop()
	for {
		w.reset()
		bytes, answer := c.readAll(&w)
		if answer || bytes >= int(c.req.minBytes) || len(c.results) == 0 {
			return
		}
		if !time.Now().Before(c.deadline) || ctx.Err() != nil || c.k.stopping() {
			return
		}
		c.releaseRanges() // nothing stays pinned while waiting
		w.wait(ctx, c.k.stop)
		if ctx.Err() != nil {
			return
		}
	}
}

func (c *fetchCall) releaseRanges() {
	for i := range c.results {
		c.results[i].read.Release()
		c.results[i].read = partition.ReadResult{}
	}
}

// readAll reads every partition once, in order, until the bytes of the answer are used up. answer says that there is
// something to tell beside records.
func (c *fetchCall) readAll(w *waiter) (bytes int, answer bool) {
	img := c.s.image()
	for i := range c.results {
		r := &c.results[i]
		r.code, r.hasHint = 0, false
		c.readOne(img, r, w, bytes)
		bytes += r.read.Bytes
		if r.code != 0 || r.read.Diverging {
			answer = true
		}
	}
	return bytes, answer
}

func (c *fetchCall) readOne(img *meta.Image, r *fetchResult, w *waiter, used int) {
	p := r.part
	var t *meta.Topic
	missing := protocol.UnknownTopicOrPartition
	if c.version >= 13 {
		t, missing = img.TopicsByID[p.id], protocol.UnknownTopicID
	} else {
		t = img.Topics[p.name]
	}
	switch {
	case t == nil:
		r.code = missing
		return
	case p.partition < 0 || int(p.partition) >= len(t.Partitions):
		r.code = protocol.UnknownTopicOrPartition
		return
	}
	local, ok := c.s.node.Partition(t.ID, p.partition)
	if !ok {
		r.code = protocol.NotLeaderOrFollower
		r.leader, r.hasHint = c.hints.add(t.ID, p.partition)
		return
	}
	w.add(local.Changed()) // before Read: a change between the two is seen
	read, err := local.Read(partition.ReadRequest{
		Offset: p.offset, CurrentEpoch: p.currentEpoch, LastFetchedEpoch: p.lastFetchedEpoch,
		MaxBytes: max(min(int(p.maxBytes), c.maxBytes-used), 0), MinOne: used == 0 && p.maxBytes > 0,
		ReadCommitted: c.req.readCommitted,
	})
	if err == nil && c.version < 10 && hasZstd(read.Ranges) {
		read.Release()
		read = partition.ReadResult{}
		err = record.ErrCodec
	}
	r.read = read
	if err == nil {
		return
	}
	r.read.Release()
	r.read = partition.ReadResult{}
	r.code = codeOf(err)
	switch r.code {
	case protocol.NotLeaderOrFollower, protocol.FencedLeaderEpoch:
		r.leader, r.hasHint = c.hints.add(t.ID, p.partition)
	case protocol.OffsetOutOfRange: // told, so that the client can choose another
		r.read.HighWatermark, r.read.LogStartOffset = local.HighWatermark(), local.LogStart()
		r.read.LastStableOffset = local.LastStableOffset()
	case protocol.KafkaStorageError, protocol.UnknownServerError:
		c.s.log.Error("a partition cannot be read", "topic", t.Name, "partition", p.partition, "offset", p.offset, "err", err)
	}
}

// hasZstd says whether a batch of the ranges is compressed with zstd; only asked for clients from before zstd.
func hasZstd(ranges []segment.Range) bool {
	var h [record.HeaderSize]byte
	for _, r := range ranges {
		for pos, end := r.Pos, r.Pos+int64(r.Len); pos+record.HeaderSize <= end; {
			if _, err := r.File.ReadAt(h[:], pos); err != nil {
				return false // the read for the answer will meet it
			}
			b := record.Batch(h[:])
			if b.Codec() == record.CodecZstd {
				return true
			}
			if b.Length() < record.HeaderSize-record.Overhead {
				return false
			}
			pos += int64(b.Size())
		}
	}
	return false
}

// news says whether an incremental answer names the partition, and notes what it tells.
func (r *fetchResult) news() bool {
	sp := r.session
	hw, start := r.read.HighWatermark, r.read.LogStartOffset
	if r.code != 0 {
		sp.highWatermark = -1 // tell it again once it is well
		return true
	}
	changed := r.read.Bytes > 0 || r.read.Diverging || hw != sp.highWatermark || start != sp.logStart
	sp.highWatermark, sp.logStart = hw, start
	return changed
}

// sendFetch encodes and sends the answer:
//
//	throttle ms int32 · error int16, session id int32 (v7) · topics: name or id (v13)
//	  partitions: index int32, error int16, high watermark, last stable offset int64, log start int64 (v5),
//	    aborted transactions (nullable array), preferred read replica int32 (v11), records,
//	    tags: 0 diverging epoch, 1 current leader (v12)
//	tags: 0 node endpoints (v16)
func (k *conn) sendFetch(r *request, c *fetchCall) error {
	flex := flexibleRequest(protocol.Fetch, c.version)
	told := make([]*fetchResult, 0, len(c.results))
	for i := range c.results {
		res := &c.results[i]
		if res.session == nil || res.news() || c.full {
			told = append(told, res)
		}
		if res.session != nil && res.read.Bytes > 0 {
			c.session.order.MoveToBack(res.session.elem)
		}
	}
	total := 0
	for _, res := range told {
		total += res.read.Bytes
	}
	copied := total <= copyBelow
	if copied {
		bp := copyBuffers.Get().(*[]byte)
		defer copyBuffers.Put(bp)
		k.copyRecords(told, (*bp)[:0])
	}
	sessionID := int32(0)
	if c.session != nil && c.s.sessions.alive(c.session) {
		sessionID = c.session.id
	}
	if c.session != nil {
		// Partitions of one topic stand together; sessions shuffle them.
		slices.SortStableFunc(told, func(a, b *fetchResult) int {
			if d := slices.Compare(a.part.id[:], b.part.id[:]); d != 0 {
				return d
			}
			return strings.Compare(a.part.name, b.part.name)
		})
	}

	e := encoder{b: k.out, flex: flex}
	k.out = nil
	at := len(e.b)
	e.i32(0)
	e.i32(r.header.CorrelationID)
	e.tags()
	e.i32(0)
	if c.version >= 7 {
		e.i16(c.code)
		e.i32(sessionID)
	}
	topics := 0
	for i, res := range told {
		if i == 0 || !sameTopic(told[i-1], res) {
			topics++
		}
	}
	var pieces []piece
	elsewhere := 0
	e.array(topics)
	for i := 0; i < len(told); {
		j := i + 1
		for j < len(told) && sameTopic(told[i], told[j]) {
			j++
		}
		if c.version >= 13 {
			e.b = append(e.b, told[i].part.id[:]...)
		} else {
			e.string(told[i].part.name)
		}
		e.array(j - i)
		for ; i < j; i++ {
			res := told[i]
			k.s.m.failed(res.code)
			e.partition(c, res)
			e.bytesLen(res.read.Bytes)
			if copied {
				e.b = append(e.b, res.copied...)
				k.s.m.fetchedBytes.Add(float64(len(res.copied)))
			} else if res.read.Bytes > 0 {
				k.s.m.fetchedBytes.Add(float64(res.read.Bytes))
				pieces = append(pieces, piece{upTo: len(e.b), ranges: res.read.Ranges})
				elsewhere += res.read.Bytes
			}
			e.partitionTags(res)
		}
		e.tags()
	}
	if flex {
		e.endpoints(c.hints.brokers)
	}
	binary.BigEndian.PutUint32(e.b[at:], uint32(len(e.b)-at-protocol.FrameLenSize+elsewhere))
	k.s.m.bytesOut.Add(float64(len(e.b) - at + elsewhere))
	k.sendPieces(e.b, pieces)
	return nil
}

// copyRecords reads the records of a small answer into buf, before anything of it is sent: what cannot be read is the
// error of its partition.
func (k *conn) copyRecords(told []*fetchResult, buf []byte) {
	for _, res := range told {
		from := len(buf)
		for _, r := range res.read.Ranges {
			n := len(buf)
			buf = buf[:n+r.Len]
			if err := readFull(r.File, buf[n:], r.Pos); err != nil {
				k.log.Error("a range of a segment cannot be read", "file", r.File.Name(), "pos", r.Pos, "len", r.Len, "err", err)
				buf = buf[:from]
				res.read.Release()
				res.read = partition.ReadResult{}
				res.code = protocol.KafkaStorageError
				if res.session != nil {
					res.session.highWatermark = -1
				}
				break
			}
		}
		res.copied = buf[from:]
	}
}

func sameTopic(a, b *fetchResult) bool {
	return a.part.id == b.part.id && a.part.name == b.part.name
}

// partition appends the fields before the records.
func (e *encoder) partition(c *fetchCall, r *fetchResult) {
	hw, lso, start := r.read.HighWatermark, r.read.LastStableOffset, r.read.LogStartOffset
	if r.code != 0 && r.code != protocol.OffsetOutOfRange {
		hw, lso, start = -1, -1, -1
	}
	e.i32(r.part.partition)
	e.i16(r.code)
	e.i64(hw)
	e.i64(lso)
	if c.version >= 5 {
		e.i64(start)
	}
	if c.req.readCommitted {
		e.array(0) // aborted transactions
	} else {
		e.nullArray()
	}
	if c.version >= 11 {
		e.i32(-1)
	}
}

func (e *encoder) partitionTags(r *fetchResult) {
	if !e.flex {
		return
	}
	n := 0
	if r.read.Diverging {
		n++
	}
	if r.hasHint {
		n++
	}
	e.uvarint(n)
	if r.read.Diverging {
		e.uvarint(0)
		e.uvarint(4 + 8 + 1)
		e.i32(r.read.DivergingEpoch)
		e.i64(r.read.DivergingEnd)
		e.tags()
	}
	if r.hasHint {
		e.uvarint(1)
		e.uvarint(4 + 4 + 1)
		e.i32(r.leader.Node)
		e.i32(r.leader.Epoch)
		e.tags()
	}
}

// endpoints appends the top-level tags.
func (e *encoder) endpoints(brokers []endpoint) {
	if len(brokers) == 0 {
		e.uvarint(0)
		return
	}
	in := encoder{flex: true}
	in.array(len(brokers))
	for _, b := range brokers {
		in.i32(b.id)
		in.string(b.host)
		in.i32(b.port)
		in.nullableString(b.rack)
		in.tags()
	}
	e.uvarint(1)
	e.uvarint(0)
	e.uvarint(len(in.b))
	e.b = append(e.b, in.b...)
}

// waiter waits for one of several partitions to change. No goroutines: a select for few, reflect.Select for many.
type waiter struct {
	deadline time.Time
	timer    *time.Timer
	chans    []<-chan struct{}
}

const fewChans = 8

func (w *waiter) reset() { w.chans = w.chans[:0] }

func (w *waiter) add(ch <-chan struct{}) { w.chans = append(w.chans, ch) }

func (w *waiter) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// wait returns when a partition changed, at the deadline, or when ctx or stop end.
func (w *waiter) wait(ctx context.Context, stop <-chan struct{}) {
	if w.timer == nil {
		w.timer = time.NewTimer(time.Until(w.deadline))
	}
	if len(w.chans) <= fewChans {
		var c [fewChans]<-chan struct{} // nil channels are never ready
		copy(c[:], w.chans)
		select {
		case <-c[0]:
		case <-c[1]:
		case <-c[2]:
		case <-c[3]:
		case <-c[4]:
		case <-c[5]:
		case <-c[6]:
		case <-c[7]:
		case <-w.timer.C:
		case <-ctx.Done():
		case <-stop:
		}
		return
	}
	cases := make([]reflect.SelectCase, 0, len(w.chans)+3)
	for _, c := range w.chans {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(c)})
	}
	cases = append(cases,
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(w.timer.C)},
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())},
		reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(stop)})
	reflect.Select(cases)
}
