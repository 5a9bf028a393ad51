package cluster

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

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
	incarnationMax = 1<<62 - 1
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
	if err := json.Unmarshal(buf, &id); err != nil || id.Incarnation == 0 {
		return identity{}, fmt.Errorf("%w: %s is damaged", ErrFormat, name)
	}
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

// newIncarnation is random and never 0. 62 bits: the controller's replica ids set the top bit.
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
