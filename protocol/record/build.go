package record

import (
	"bytes"
	"encoding/binary"
)

// Builder makes a batch: for tests, the command line, and the broker's own records. The zero value makes an
// uncompressed batch without a producer.
type Builder struct {
	Codec         int8
	Level         int
	Transactional bool
	// Producer fields, used when HasProducer; -1 otherwise.
	HasProducer   bool
	ProducerID    int64
	ProducerEpoch int16
	BaseSequence  int32

	control bool
	n       int32
	base    int64
	max     int64
	recs    []byte
	scratch []byte
}

// Add appends a record; key or value nil is null. The slices are copied.
func (b *Builder) Add(timestamp int64, key, value []byte, headers ...Header) {
	if b.n == 0 {
		b.base, b.max = timestamp, timestamp
	}
	b.max = max(b.max, timestamp)
	r := append(b.scratch[:0], 0)
	r = binary.AppendVarint(r, timestamp-b.base)
	r = binary.AppendVarint(r, int64(b.n))
	r = appendBytes(r, key)
	r = appendBytes(r, value)
	r = binary.AppendVarint(r, int64(len(headers)))
	for _, h := range headers {
		r = binary.AppendVarint(r, int64(len(h.Key)))
		r = append(r, h.Key...)
		r = appendBytes(r, h.Value)
	}
	b.scratch = r
	b.recs = binary.AppendVarint(b.recs, int64(len(r)))
	b.recs = append(b.recs, r...)
	b.n++
}

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

// Len is the number of records added, Bytes their size before compression.
func (b *Builder) Len() int   { return int(b.n) }
func (b *Builder) Bytes() int { return len(b.recs) }

// Build returns the batch in a buffer of its own, base offset 0 and leader epoch -1, and empties the builder.
func (b *Builder) Build() Batch {
	out := bytes.NewBuffer(make([]byte, 0, HeaderSize+len(b.recs)))
	out.Write(make([]byte, HeaderSize))
	codec := b.Codec
	if codec == CodecNone {
		out.Write(b.recs)
	} else {
		enc, err := newEncoder(codec, b.Level, out)
		if err == nil {
			if _, err = enc.Write(b.recs); err == nil {
				err = enc.Close()
			}
		}
		if err != nil {
			panic("record: Builder with a codec or level that does not exist: " + err.Error())
		}
	}
	h := Batch(out.Bytes())
	binary.BigEndian.PutUint32(h[8:], uint32(len(h)-Overhead))
	h.SetLeaderEpoch(-1)
	h[16] = 2
	attrs := int16(codec)
	if b.Transactional {
		attrs |= 16
	}
	if b.control {
		attrs |= 32
	}
	h.setAttributes(attrs)
	binary.BigEndian.PutUint32(h[23:], uint32(b.n-1))
	binary.BigEndian.PutUint64(h[27:], uint64(b.base))
	h.setMaxTimestamp(b.max)
	id, epoch, seq := int64(-1), int16(-1), int32(-1)
	if b.HasProducer {
		id, epoch, seq = b.ProducerID, b.ProducerEpoch, b.BaseSequence
	}
	h.setProducer(id, epoch, seq)
	binary.BigEndian.PutUint32(h[57:], uint32(b.n))
	h.StampCRC()
	b.recs, b.n = b.recs[:0], 0
	return h
}

func (b Batch) setProducer(id int64, epoch int16, seq int32) {
	binary.BigEndian.PutUint64(b[43:], uint64(id))
	binary.BigEndian.PutUint16(b[51:], uint16(epoch))
	binary.BigEndian.PutUint32(b[53:], uint32(seq))
}

// BuildControl makes the control batch that ends a transaction: one record whose key is version and type (0 abort,
// 1 commit), whose value is version and coordinator epoch.
func BuildControl(producerID int64, producerEpoch int16, timestamp int64, commit bool, coordinatorEpoch int32) Batch {
	b := Builder{HasProducer: true, ProducerID: producerID, ProducerEpoch: producerEpoch, BaseSequence: -1, Transactional: true, control: true}
	key := []byte{0, 0, 0, 0}
	if commit {
		key[3] = 1
	}
	value := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(coordinatorEpoch))
	b.Add(timestamp, key, value)
	return b.Build()
}
