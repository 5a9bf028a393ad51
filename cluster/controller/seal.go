package controller

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/votes"
)

// What bbolt does not check, the values it keeps, is checked here: a bit that flips in an entry would be applied by this
// member, or sent to the others.

// checkLog reads every entry. The log is short: snapshots are taken of it.
func (s *store) checkLog() error {
	first, last := s.firstIndex.Load(), s.lastIndex.Load()
	term := uint64(0)
	for i := first; i <= last && last > 0; i++ {
		var l raft.Log
		if err := s.bolt.GetLog(i, &l); err != nil {
			return fmt.Errorf("%w: entry %d: %w", votes.ErrDamaged, i, err)
		}
		if err := checkEntry(i, &l); err != nil {
			return err
		}
		if l.Term < term {
			return fmt.Errorf("%w: entry %d of term %d after term %d", votes.ErrDamaged, i, l.Term, term)
		}
		term = l.Term
	}
	if s.term < term {
		return fmt.Errorf("%w: the term is %d, the log's is %d", votes.ErrDamaged, s.term, term)
	}
	return nil
}

// entrySum is what the store keeps with an entry, in its Extensions (which raft does not use here): the CRC-32C of all
// that raft believes of it.
func entrySum(l *raft.Log) []byte {
	b := binary.BigEndian.AppendUint64(nil, l.Index)
	b = binary.BigEndian.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	return binary.BigEndian.AppendUint32(nil, crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, l.Data))
}

func checkEntry(index uint64, l *raft.Log) error {
	if l.Index != index || !bytes.Equal(l.Extensions, entrySum(l)) {
		return fmt.Errorf("%w: entry %d does not check", votes.ErrDamaged, index)
	}
	return nil
}

// seal appends the CRC-32C of key and value to a value.
func seal(key string, v []byte) []byte {
	return binary.BigEndian.AppendUint32(v, crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, v))
}

func unseal(key string, v []byte) ([]byte, error) {
	n := len(v) - 4
	if n < 0 || crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, v[:n]) != binary.BigEndian.Uint32(v[n:]) {
		return nil, fmt.Errorf("%w: %s does not check", votes.ErrDamaged, key)
	}
	return v[:n], nil
}
