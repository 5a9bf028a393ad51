package partition

import (
	"github.com/balsa-broker/balsa/protocol/record"
)

// rememberedBatches is how many batches of a producer are known for de-duplication (Kafka's number: a producer has at
// most five requests in flight).
const rememberedBatches = 5

// seqMask: sequence numbers wrap from 2^31-1 to 0.
const seqMask = 1<<31 - 1

// seqBatch is one batch of a producer that is in the log.
type seqBatch struct {
	first, last int32
	offset      int64 // base
	appendTime  int64 // -1 unless the topic stamps LogAppendTime
}

// producer is what the partition knows of one producer id. epoch and batches follow from the log alone and are the same
// on every replica; the rest is the leader's.
type producer struct {
	epoch   int16
	n       uint8 // batches remembered, oldest first; 0: nothing applied yet
	batches [rememberedBatches]seqBatch

	inflight []*op // appended here and not applied, in order
	used     int64 // ms, when it last appended under this leader; 0: not since it leads
}

// headerOf is what the producer state takes from a batch.
func headerOf(b record.Batch) (id int64, epoch int16, s seqBatch) {
	s = seqBatch{
		first: b.BaseSequence(), last: (b.BaseSequence() + b.LastOffsetDelta()) & seqMask, offset: b.BaseOffset(),
		appendTime: -1,
	}
	if b.LogAppendTime() {
		s.appendTime = b.MaxTimestamp()
	}
	return b.ProducerID(), b.ProducerEpoch(), s
}

// apply takes in a committed batch. It never refuses: the check was before the log (safety rule 15).
func (p *producer) apply(epoch int16, s seqBatch) {
	if p.n == 0 || epoch != p.epoch {
		p.epoch, p.n = epoch, 0
	}
	if int(p.n) == len(p.batches) {
		copy(p.batches[:], p.batches[1:])
		p.n--
	}
	p.batches[p.n] = s
	p.n++
}

// removeInflight forgets o, which was applied or failed.
func (p *producer) removeInflight(o *op) {
	for i, x := range p.inflight {
		if x == o {
			p.inflight = append(p.inflight[:i], p.inflight[i+1:]...)
			return
		}
	}
}

// verdict of a sequence check: append it, or answer like an op in flight, or like a batch in the log.
type verdict struct {
	dup     *op
	applied *seqBatch
	err     error
}

// check decides about the batch (epoch, first..last) of this producer against what is applied and in flight. p may be nil.
//
// A producer that is not known must begin at 0. Kafka takes any number there; but a batch behind a refused first one would
// then be stored before it. Clients answer OUT_OF_ORDER_SEQUENCE of a forgotten producer by a new epoch.
func (p *producer) check(epoch int16, first, last int32) verdict {
	if p == nil || (p.n == 0 && len(p.inflight) == 0) {
		if first != 0 {
			return verdict{err: ErrOutOfOrderSequence}
		}
		return verdict{}
	}
	known, end := p.epoch, int32(0)
	if p.n > 0 {
		end = p.batches[p.n-1].last
	}
	if k := len(p.inflight); k > 0 {
		known, end = p.inflight[k-1].producerEpoch, p.inflight[k-1].seq.last
	}
	switch {
	case epoch < known:
		return verdict{err: ErrProducerFenced}
	case epoch > known:
		if first != 0 {
			return verdict{err: ErrOutOfOrderSequence}
		}
		return verdict{}
	}
	for _, o := range p.inflight {
		if o.producerEpoch == epoch && o.seq.first == first && o.seq.last == last {
			return verdict{dup: o}
		}
	}
	if p.epoch == epoch {
		for i := range p.batches[:p.n] {
			if s := &p.batches[i]; s.first == first && s.last == last {
				return verdict{applied: s}
			}
		}
	}
	switch {
	case first == (end+1)&seqMask:
		return verdict{}
	case (end-last)&seqMask < 1<<30: // all of it is at or behind the end: it is in the log
		return verdict{err: ErrDuplicateSequence}
	default:
		return verdict{err: ErrOutOfOrderSequence}
	}
}
