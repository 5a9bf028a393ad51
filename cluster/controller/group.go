package controller

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// group is the controller's log as the transport sees it.
type group struct{ c *Controller }

func (g group) FirstIndex() uint64 { return g.c.store.firstIndex.Load() }
func (g group) LastIndex() uint64 {
	return max(g.c.store.lastIndex.Load(), g.c.snapshots.newest().Index)
}

// Term knows the log's entries and the newest snapshot's last.
func (g group) Term(index uint64) (uint64, bool) {
	if s := g.c.snapshots.newest(); index > 0 && index == s.Index {
		return s.Term, true
	}
	return g.c.store.termAt(index)
}

func (g group) Committed() uint64 {
	committed := g.c.snapshots.newest().Index
	if r := g.c.raft.Load(); r != nil {
		committed = max(committed, min(r.CommitIndex(), g.LastIndex()))
	}
	return committed
}

func (g group) HasConfiguration() bool { return g.c.mayVote() }

// An entry on the wire:
//
//	+--------+-------+------+------+----------+-----+
//	| length | index | term | type | data ... | CRC |
//	+--------+-------+------+------+----------+-----+
//	    4        8      8      1    the rest     4
//
// length counts what follows it; the CRC-32C covers everything before it. All big endian.
const (
	entryHead    = 4 + 8 + 8 + 1
	entryFrame   = entryHead + 4
	maxEntryData = 16 << 20
)

var errEntry = errors.New("controller: bad entry from the wire")

func (g group) EncodeEntries(buf []byte, entries []*raft.Log, maxBytes int) ([]byte, int, error) {
	start := len(buf)
	for i, e := range entries {
		size := entryFrame + len(e.Data)
		if i > 0 && len(buf)-start+size > maxBytes {
			return buf, i, nil
		}
		at := len(buf)
		buf = binary.BigEndian.AppendUint32(buf, uint32(size-4))
		buf = binary.BigEndian.AppendUint64(buf, e.Index)
		buf = binary.BigEndian.AppendUint64(buf, e.Term)
		buf = append(buf, byte(e.Type))
		buf = append(buf, e.Data...)
		buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf[at:], castagnoli))
	}
	return buf, len(entries), nil
}

func (g group) DecodeEntries(first uint64, payload []byte) ([]*raft.Log, error) {
	var logs []*raft.Log
	for len(payload) > 0 {
		if len(payload) < entryFrame {
			return nil, fmt.Errorf("%w: cut short", errEntry)
		}
		size := uint64(binary.BigEndian.Uint32(payload)) + 4
		if size < entryFrame || size > entryFrame+maxEntryData || size > uint64(len(payload)) {
			return nil, fmt.Errorf("%w: a length of %d in %d bytes", errEntry, size, len(payload))
		}
		frame, rest := payload[:size:size], payload[size:]
		body, sum := frame[:size-4], binary.BigEndian.Uint32(frame[size-4:])
		if crc32.Checksum(body, castagnoli) != sum {
			return nil, fmt.Errorf("%w: CRC", errEntry)
		}
		l := &raft.Log{
			Index: binary.BigEndian.Uint64(body[4:]),
			Term:  binary.BigEndian.Uint64(body[12:]),
			Type:  raft.LogType(body[20]),
			Data:  body[entryHead:],
		}
		if l.Index != first+uint64(len(logs)) || l.Type > raft.LogConfiguration {
			return nil, fmt.Errorf("%w: index %d type %d, expected index %d", errEntry, l.Index, l.Type, first+uint64(len(logs)))
		}
		logs = append(logs, l)
		payload = rest
	}
	return logs, nil
}

func (g group) WipeForSnapshot(lastIndex, lastTerm uint64) error {
	return g.c.wipeForSnapshot(lastIndex, lastTerm)
}
