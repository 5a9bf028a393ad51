package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
)

// Produce, versions 3-13 (0-2 are advertised, see protocol.Range).
//
// Deviations from Kafka: acks=1 waits for a majority as acks=all does. Transactional batches are refused.
//
// The reader goroutine decodes the request, validates the batches and appends them, so that batches of one connection
// enter a partition in the order in which they were sent; the writer waits for the outcome. The records stay in the
// request's frame: it is given back only when every append of it is known to have succeeded.

// maxProduceParts bounds the partitions of one request.
const maxProduceParts = 20_000

// produceCall is a produce request under way.
type produceCall struct {
	acks     int16
	deadline time.Time
	topics   []producedTopic
	parts    []producedPart // of all topics, in order
	// reuse: no append of this request may still point into its frame.
	reuse bool
}

type producedTopic struct {
	name  string
	id    meta.TopicID
	parts int // number of its entries in parts
}

type producedPart struct {
	partition int32
	topic     *meta.Topic
	pending   *partition.Pending // nil: code says why
	size      int
	code      int16
	message   string
	faults    []record.Fault
}

// startProduce decodes r and starts its appends. An error means that the request is malformed; nothing was appended then.
func (s *Server) startProduce(r *request) (*produceCall, error) {
	flex := flexibleRequest(protocol.Produce, r.header.Version)
	b := protocol.Reader{B: r.body}
	txn := b.String(flex)
	c := &produceCall{acks: b.Int16(), reuse: true}
	timeout := time.Duration(max(b.Int32(), 1)) * time.Millisecond
	c.deadline = r.start.Add(timeout)
	img := s.image()

	type work struct{ records []byte }
	var batches [8]work
	all := batches[:0]
	topics := b.Array(flex, 5)
	c.topics = make([]producedTopic, 0, min(topics, 64))
	for range topics {
		var t producedTopic
		var topic *meta.Topic
		missing := protocol.UnknownTopicOrPartition
		if r.header.Version >= 13 {
			t.id = b.UUID()
			topic, missing = img.TopicsByID[t.id], protocol.UnknownTopicID
		} else {
			name := b.String(flex)
			if topic = img.Topics[string(name)]; topic != nil {
				t.name = topic.Name
			} else {
				t.name = string(name)
			}
		}
		t.parts = b.Array(flex, 5)
		if len(c.parts)+t.parts > maxProduceParts {
			return nil, fmt.Errorf("%w: a produce to more than %d partitions", protocol.ErrMalformed, maxProduceParts)
		}
		if c.parts == nil {
			c.parts = make([]producedPart, 0, t.parts)
		}
		for range t.parts {
			p := producedPart{partition: b.Int32(), topic: topic}
			records := b.Bytes(flex)
			if flex {
				b.Tags()
			}
			if topic == nil || p.partition < 0 || int(p.partition) >= len(topic.Partitions) {
				if p.code = missing; topic != nil {
					p.code = protocol.UnknownTopicOrPartition
				}
			}
			all = append(all, work{records})
			c.parts = append(c.parts, p)
		}
		if flex {
			b.Tags()
		}
		c.topics = append(c.topics, t)
		if b.Bad {
			break
		}
	}
	if flex {
		b.Tags()
	}
	if b.Bad {
		return nil, fmt.Errorf("%w: produce", protocol.ErrMalformed)
	}
	// Only now, with the whole request sound, is anything appended.
	for i := range c.parts {
		p := &c.parts[i]
		switch {
		case c.acks < -1 || c.acks > 1:
			p.code = protocol.InvalidRequiredAcks
		case p.code != 0:
		case txn != nil:
			p.code, p.message = protocol.InvalidTxnState, "transactions are not supported yet"
		default:
			s.startAppend(c, p, s.topicConfig(img, p.topic), all[i].records, r.header.Version)
		}
	}
	return c, nil
}

// startAppend validates one partition's records and hands them to the partition.
func (s *Server) startAppend(c *produceCall, p *producedPart, tc *config.Topic, records []byte, version int16) {
	part, ok := s.node.Partition(p.topic.ID, p.partition)
	if !ok {
		p.code = protocol.NotLeaderOrFollower
		return
	}
	if _, leading := part.Leading(); !leading {
		p.code = protocol.NotLeaderOrFollower
		return
	}
	batch, err := s.checkBatch(tc, records, version)
	if err != nil {
		p.code, p.message = codeOf(err), err.Error()
		if inv, ok := errors.AsType[*record.InvalidError](err); ok {
			p.faults, p.message = inv.Faults, "one or more records have been rejected"
		}
		return
	}
	p.size = len(batch)
	// Back-pressure may block here: all partitions of the request share its time.
	p.pending = part.Append(batch, c.acks, max(time.Until(c.deadline), time.Millisecond))
}

var errTransactional = errors.New("broker: transactional batch without a transaction")

// checkBatch makes the batch that is appended: the client's bytes, but for LogAppendTime and another compression type.
func (s *Server) checkBatch(tc *config.Topic, records []byte, version int16) (record.Batch, error) {
	batch, err := record.Check(records)
	if err != nil {
		return nil, err
	}
	if len(batch) != len(records) {
		return nil, fmt.Errorf("%w: more than one batch", record.ErrInvalid)
	}
	if batch.Transactional() && !batch.Control() {
		return nil, errTransactional
	}
	info, err := record.Validate(batch, &record.ValidateOptions{
		Now:           s.now().UnixMilli(),
		LogAppendTime: tc.LogAppendTime,
		BeforeMax:     tc.TimestampBeforeMax,
		AfterMax:      tc.TimestampAfterMax,
		Compacted:     tc.CleanupCompact,
		MaxBytes:      tc.MaxMessageBytes,
		NoZstd:        version < 7,
	})
	if err != nil {
		return nil, err
	}
	if codec, given := codecOf(tc.CompressionType); given && codec != batch.Codec() {
		batch, err = record.Rewrite(batch, codec, tc.CompressionLevel, record.Limits{MaxRecordBytes: tc.MaxMessageBytes})
		if err != nil {
			return nil, err
		}
		if len(batch) > tc.MaxMessageBytes {
			return nil, fmt.Errorf("%w: %d bytes as %s, the topic takes %d", record.ErrTooLarge, len(batch), tc.CompressionType, tc.MaxMessageBytes)
		}
	}
	if tc.LogAppendTime {
		batch.SetLogAppendTime(s.now().UnixMilli())
	} else {
		batch.SetMaxTimestamp(info.MaxTimestamp)
	}
	return batch, nil
}

// codecOf a topic's compression.type; given is false for "producer".
func codecOf(name string) (codec int8, given bool) {
	switch name {
	case "uncompressed":
		return record.CodecNone, true
	case "gzip":
		return record.CodecGzip, true
	case "snappy":
		return record.CodecSnappy, true
	case "lz4":
		return record.CodecLZ4, true
	case "zstd":
		return record.CodecZstd, true
	}
	return 0, false
}

// answerProduce waits for the appends and puts the answer into k.out. reuse says whether the frame may be used again.
func (k *conn) answerProduce(r *request) (reuse bool, err error) {
	c := r.produce
	resp := kmsg.ProduceResponse{Topics: make([]kmsg.ProduceResponseTopic, len(c.topics))}
	hints := hintSet{s: k.s, listener: r.listener, on: r.header.Version >= 10}
	partitions := make([]kmsg.ProduceResponseTopicPartition, len(c.parts))
	failed := int16(0)
	for i := range c.parts {
		p, out := &c.parts[i], &partitions[i]
		*out = kmsg.ProduceResponseTopicPartition{Partition: p.partition, BaseOffset: -1, LogAppendTime: -1, LogStartOffset: -1}
		out.CurrentLeader.LeaderID, out.CurrentLeader.LeaderEpoch = -1, -1
		if p.pending != nil {
			k.awaitAppend(c, p, out)
		}
		out.ErrorCode = p.code
		if p.code == 0 {
			continue
		}
		failed = p.code
		k.s.m.failed(p.code)
		if p.message != "" {
			out.ErrorMessage = &p.message
		}
		for j := range p.faults {
			out.ErrorRecords = append(out.ErrorRecords, kmsg.ProduceResponseTopicPartitionErrorRecord{
				RelativeOffset: p.faults[j].Index, ErrorMessage: &p.faults[j].Message,
			})
		}
		if p.code == protocol.NotLeaderOrFollower && p.topic != nil {
			if l, ok := hints.add(p.topic.ID, p.partition); ok {
				out.CurrentLeader.LeaderID, out.CurrentLeader.LeaderEpoch = l.Node, l.Epoch
			}
		}
	}
	if c.acks == 0 {
		if failed != 0 {
			return c.reuse, fmt.Errorf("a produce with acks=0 failed: %s", protocol.ErrorName(failed))
		}
		return c.reuse, nil
	}
	if k.broken {
		return c.reuse, nil
	}
	for i := range c.topics {
		t := &c.topics[i]
		resp.Topics[i] = kmsg.ProduceResponseTopic{Topic: t.name, TopicID: t.id, Partitions: partitions[:t.parts:t.parts]}
		partitions = partitions[t.parts:]
	}
	for _, b := range hints.brokers {
		resp.Brokers = append(resp.Brokers, kmsg.ProduceResponseBroker{NodeID: b.id, Host: b.host, Port: b.port, Rack: b.rack})
	}
	k.append(r, &resp, r.header.Version)
	return c.reuse, nil
}

// awaitAppend waits for one append until the request's deadline.
func (k *conn) awaitAppend(c *produceCall, p *producedPart, out *kmsg.ProduceResponseTopicPartition) {
	select {
	case <-p.pending.Done():
	default:
		k.flush() // earlier answers do not wait for this one
		if !k.wait(p.pending.Done(), time.Until(c.deadline)) {
			c.reuse = false
			p.code = protocol.RequestTimedOut
			return
		}
	}
	res := p.pending.Result()
	if res.Err != nil {
		// Some of these are ambiguous: the entry may still be on its way to a follower.
		c.reuse = false
		p.code, p.message = codeOf(res.Err), res.Err.Error()
		return
	}
	out.BaseOffset, out.LogStartOffset, out.LogAppendTime = res.BaseOffset, res.LogStartOffset, res.LogAppendTime
	k.s.m.producedBytes.Add(float64(p.size))
	k.s.m.producedBatches.Inc()
}

// wait waits for done at most d; false when it was not done, or the client went.
func (k *conn) wait(done <-chan struct{}, d time.Duration) bool {
	if k.timer == nil {
		k.timer = time.NewTimer(d)
	} else {
		k.timer.Reset(d)
	}
	defer k.timer.Stop()
	select {
	case <-done:
		return true
	case <-k.timer.C:
	case <-k.ctx.Done():
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}
