package partition

import (
	"encoding/binary"
	"fmt"
)

// A Command frame's payload begins with what it is for. The partition's own commands are decisions of the leader
// (retention, expiry); applying them is pure.
//
//	machine:  0, then the state machine's own bytes
//	logStart: 1, then the offset (8)
//	forget:   2, then the number of producer ids (4) and that many ids (8 each)
const (
	cmdMachine  = 0
	cmdLogStart = 1
	cmdForget   = 2
)

func encodeLogStart(offset int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{cmdLogStart}, uint64(offset))
}

func encodeForget(ids []int64) []byte {
	b := binary.BigEndian.AppendUint32([]byte{cmdForget}, uint32(len(ids)))
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, uint64(id))
	}
	return b
}

// applyCommand takes in a committed command of the partition. p.mu is held.
func (p *Partition) applyCommand(payload []byte) error {
	if len(payload) == 0 {
		return fmt.Errorf("%w: empty command", ErrCorrupt)
	}
	d := decoder{b: payload[1:]}
	switch payload[0] {
	case cmdLogStart:
		offset := int64(d.u64())
		if !d.failed && offset > p.logStart.Load() {
			p.logStart.Store(min(offset, p.next))
		}
	case cmdForget:
		for range d.u32() {
			id := int64(d.u64())
			if d.failed {
				break
			}
			if s := p.producers[id]; s != nil {
				s.n, s.epoch = 0, 0
				if len(s.inflight) == 0 {
					delete(p.producers, id)
				}
			}
		}
	default:
		return fmt.Errorf("%w: command %d", ErrCorrupt, payload[0])
	}
	if d.failed {
		return fmt.Errorf("%w: short command %d", ErrCorrupt, payload[0])
	}
	return nil
}
