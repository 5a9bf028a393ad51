package cluster

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/balsa-broker/balsa/cluster/controller"
	"github.com/balsa-broker/balsa/vfs"
)

// The data folder:
//
//	<data>/balsa.lock                              held by the running broker
//	<data>/balsa.meta                              who this disk is (below)
//	<data>/peers.json                              where the other brokers were last seen: a hint for gossip, nothing more
//	<data>/controller/                             the controller group's log, votes and checkpoints
//	<data>/votes.db                                votes and terms of every partition replica
//	<data>/topics/<topic>-<partition>-<replica>/   one partition replica
const (
	metaFile       = "balsa.meta"
	lockFile       = "balsa.lock"
	peersFile      = "peers.json"
	controllerDir  = "controller"
	votesFile      = "votes.db"
	topicsDir      = "topics"
	formatVersion  = 1
	maxMetaSize    = 1 << 20
	incarnationMax = 1<<54 - 1
)

// Errors of opening a data folder.
var (
	// ErrLocked: another process uses the data folder.
	ErrLocked = errors.New("cluster: the data folder is used by another process")
	// ErrWrongNode: the data folder belongs to another node id.
	ErrWrongNode = errors.New("cluster: the data folder belongs to another node id")
	// ErrWrongCluster: a peer, or the metadata, has another cluster ID than this disk.
	ErrWrongCluster = errors.New("cluster: another cluster")
	// ErrFormat: the data folder was written by a newer Balsa, or its identity file is damaged.
	ErrFormat = errors.New("cluster: the data folder cannot be read by this version")
)

// identity is what a disk knows of itself. It is made once per data folder: a wiped disk is another incarnation, and
// never votes under the old one's replica ids (safety rule 1).
type identity struct {
	Format      int    `json:"format"`
	NodeID      int32  `json:"node_id"`
	Incarnation uint64 `json:"incarnation"`
	ClusterID   string `json:"cluster_id,omitempty"`
	// Generation of this disk's member of the controller group: the next one begins when its log was damaged.
	Generation uint8  `json:"controller_generation,omitempty"`
	Check      string `json:"check"` // CRC-32C of the others, see sum
}

// sum is the CRC-32C of what the identity says. A flipped digit would make another disk of this one, and all that it holds
// would be thrown away.
func (id identity) sum() string {
	s := fmt.Sprintf("%d %d %d %q %d", id.Format, id.NodeID, id.Incarnation, id.ClusterID, id.Generation)
	return fmt.Sprintf("%08x", crc32.Checksum([]byte(s), crc32.MakeTable(crc32.Castagnoli)))
}

// member is what this disk is in the controller group.
func (id identity) member() controller.Member {
	return controller.MemberOf(id.NodeID, id.Incarnation, id.Generation)
}

// loadIdentity reads the identity of a data folder, or makes it durably when the folder has none.
func loadIdentity(fsys vfs.FS, dir string, node int32) (identity, error) {
	name := filepath.Join(dir, metaFile)
	buf, err := vfs.ReadFile(fsys, name, maxMetaSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		inc, err := newIncarnation()
		if err != nil {
			return identity{}, err
		}
		id := identity{Format: formatVersion, NodeID: node, Incarnation: inc}
		return id, id.save(fsys, dir)
	case err != nil:
		return identity{}, fmt.Errorf("cluster: reading %s: %w", name, err)
	}
	var id identity
	if err := json.Unmarshal(buf, &id); err != nil || id.Incarnation == 0 || id.Check != id.sum() {
		return identity{}, fmt.Errorf("%w: %s is damaged: it says which broker this is and which cluster the data belongs to. "+
			"Put the file back from a copy; or start the broker with an empty --data-dir, and its replicas are made anew from the other brokers (those with a replication factor of 1 are lost then)", ErrFormat, name)
	}
	id.Check = ""
	if id.Format != formatVersion {
		return identity{}, fmt.Errorf("%w: %s has format %d, this version reads %d", ErrFormat, name, id.Format, formatVersion)
	}
	if id.NodeID != node {
		return identity{}, fmt.Errorf("%w: %s is node %d's, --node-id is %d", ErrWrongNode, dir, id.NodeID, node)
	}
	return id, nil
}

// save is durable on return.
func (id identity) save(fsys vfs.FS, dir string) error {
	id.Check = id.sum()
	buf, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, metaFile)
	if err := vfs.WriteFile(fsys, dir, name, append(buf, '\n')); err != nil {
		return fmt.Errorf("cluster: writing %s: %w", name, err)
	}
	return nil
}

// newIncarnation is random and never 0. 54 bits: above are the generations of the controller's member, and its replica ids set
// the top bit.
func newIncarnation() (uint64, error) {
	var b [8]byte
	for {
		if _, err := rand.Read(b[:]); err != nil {
			return 0, fmt.Errorf("cluster: making an incarnation: %w", err)
		}
		if v := binary.LittleEndian.Uint64(b[:]) & incarnationMax; v != 0 {
			return v, nil
		}
	}
}

func wrongCluster(dir, have, got string) error {
	return fmt.Errorf("%w: the data folder %s belongs to cluster %s, the controller to cluster %s", ErrWrongCluster, dir, have, got)
}
