package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/vfs"
)

// ServerID is the replica's name in Raft: server id and address alike, "<node>/<id>".
func (r Replica) ServerID() raft.ServerID { return raft.ServerID(r.String()) }

// String is "<node>/<id>".
func (r Replica) String() string {
	return strconv.FormatInt(int64(r.Node), 10) + "/" + strconv.FormatUint(r.ID, 10)
}

// ParseReplica is the inverse of String.
func ParseReplica(s string) (Replica, error) {
	node, id, ok := strings.Cut(s, "/")
	n, err1 := strconv.ParseInt(node, 10, 32)
	i, err2 := strconv.ParseUint(id, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return Replica{}, fmt.Errorf("partition: %q is no replica name", s)
	}
	return Replica{Node: int32(n), ID: i}, nil
}

// identity says whose log a folder holds, and what may be believed of it (safety rule 1). It is written before anything
// else, so an empty log beside votes can be told from a log that was lost.
//
//	offset size field
//	     0    4 magic "BREP"
//	     4    2 version = 1
//	     6    1 flags: 1 = the log may be empty although votes were given (a learner, or a log wiped by rule 6),
//	                   2 = unclean: the log may lack entries that this replica confirmed (safety rule 13)
//	     7    1 0
//	     8   16 topic id
//	    24    4 partition
//	    28    4 node
//	    32    8 replica id
//	    40    8 vote floor: no vote and no candidacy until the log reaches this index
//	    48    4 CRC-32C of the above
type identity struct {
	topicID   [16]byte
	partition int32
	self      Replica
	emptyOK   bool
	unclean   bool
	voteFloor uint64
}

const (
	identityName = "replica"
	identitySize = 52
	identityMax  = 4096
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (i identity) encode() []byte {
	b := make([]byte, 0, identitySize)
	b = append(b, "BREP"...)
	b = binary.BigEndian.AppendUint16(b, 1)
	flags := byte(0)
	if i.emptyOK {
		flags |= 1
	}
	if i.unclean {
		flags |= 2
	}
	b = append(b, flags, 0)
	b = append(b, i.topicID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(i.partition))
	b = binary.BigEndian.AppendUint32(b, uint32(i.self.Node))
	b = binary.BigEndian.AppendUint64(b, i.self.ID)
	b = binary.BigEndian.AppendUint64(b, i.voteFloor)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeIdentity(b []byte) (i identity, ok bool) {
	if len(b) != identitySize || string(b[:4]) != "BREP" || binary.BigEndian.Uint16(b[4:]) != 1 ||
		crc32.Checksum(b[:48], castagnoli) != binary.BigEndian.Uint32(b[48:]) {
		return identity{}, false
	}
	i.emptyOK, i.unclean = b[6]&1 != 0, b[6]&2 != 0
	copy(i.topicID[:], b[8:])
	i.partition = int32(binary.BigEndian.Uint32(b[24:]))
	i.self.Node = int32(binary.BigEndian.Uint32(b[28:]))
	i.self.ID = binary.BigEndian.Uint64(b[32:])
	i.voteFloor = binary.BigEndian.Uint64(b[40:])
	return i, true
}

// readIdentity reports ok false when there is no file, or one torn while it was first written.
func readIdentity(fsys vfs.FS, dir string) (i identity, ok bool, err error) {
	b, err := vfs.ReadFile(fsys, filepath.Join(dir, identityName), identityMax)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, false, nil
	}
	if err != nil {
		return identity{}, false, fmt.Errorf("read replica identity: %w", err)
	}
	i, ok = decodeIdentity(b)
	return i, ok, nil
}

// writeIdentity is durable on return.
func writeIdentity(fsys vfs.FS, dir string, i identity) error {
	if err := vfs.WriteFile(fsys, dir, filepath.Join(dir, identityName), i.encode()); err != nil {
		return fmt.Errorf("write replica identity: %w", err)
	}
	return nil
}
