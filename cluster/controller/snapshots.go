package controller

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/votes"
	"github.com/balsa-broker/balsa/internal/raftlog"
	"github.com/balsa-broker/balsa/vfs"
)

// snapshots is raft's file snapshot store (which syncs), and knows the newest one.
type snapshots struct {
	raft.SnapshotStore
	dir   string
	last  atomic.Pointer[raft.SnapshotMeta]
	first func() error // called when a snapshot is complete, before anyone hears of it
}

func openSnapshots(dir string, logger *slog.Logger) (*snapshots, error) {
	if err := checkSnapshots(dir); err != nil {
		return nil, err
	}
	s, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, raftlog.New(logger))
	if err != nil {
		return nil, fmt.Errorf("open the controller's snapshots in %s: %w", dir, err)
	}
	list, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("list the controller's snapshots in %s: %w", dir, err)
	}
	for _, m := range list { // the state's own CRC
		_, r, err := s.Open(m.ID)
		if err != nil {
			return nil, fmt.Errorf("%w: snapshot %s: %w", votes.ErrDamaged, m.ID, err)
		}
		_ = r.Close()
	}
	w := &snapshots{SnapshotStore: s, dir: dir}
	w.last.Store(&raft.SnapshotMeta{})
	if len(list) > 0 {
		w.last.Store(list[0])
	}
	return w, nil
}

// newest is the meta of the newest complete snapshot, zero when there is none.
func (s *snapshots) newest() *raft.SnapshotMeta { return s.last.Load() }

func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, cIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, c, cIndex, t)
	if err != nil {
		return nil, err
	}
	return &sinkDone{SnapshotSink: sink, s: s, meta: raft.SnapshotMeta{ID: sink.ID(), Index: index, Term: term}}, nil
}

type sinkDone struct {
	raft.SnapshotSink
	s    *snapshots
	meta raft.SnapshotMeta
}

func (d *sinkDone) Close() error {
	if err := d.SnapshotSink.Close(); err != nil {
		return err
	}
	if err := sealSnapshot(d.s.dir, d.ID()); err != nil {
		return err
	}
	if err := d.s.first(); err != nil {
		return err
	}
	if d.meta.Index >= d.s.newest().Index {
		d.s.last.Store(&d.meta)
	}
	return nil
}

// raft's store has a CRC of the state, none of meta.json, which says of what index and term it is. Beside it stands, written
// last,
//
//	meta.sum  | CRC-32C of meta.json, 4 bytes |
//
// A snapshot without it was never complete: nobody has counted on it.
const (
	snapshotMeta = "meta.json"
	snapshotSum  = "meta.sum"
	maxSnapMeta  = 16 << 20
)

func sealSnapshot(dir, id string) error {
	dir = filepath.Join(dir, "snapshots", id)
	b, err := vfs.ReadFile(vfs.OS(), filepath.Join(dir, snapshotMeta), maxSnapMeta)
	if err == nil {
		err = vfs.WriteFile(vfs.OS(), dir, filepath.Join(dir, snapshotSum), seal(snapshotMeta, b)[len(b):])
	}
	if err != nil {
		return fmt.Errorf("seal the controller's snapshot %s: %w", id, err)
	}
	return nil
}

// checkSnapshots removes incomplete snapshots. ErrDamaged: one is not what was written.
func checkSnapshots(dir string) error {
	dir = filepath.Join(dir, "snapshots")
	names, err := vfs.OS().ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the controller's snapshots: %w", err)
	}
	for _, d := range names {
		if !d.IsDir() || strings.HasSuffix(d.Name(), ".tmp") {
			continue
		}
		at := filepath.Join(dir, d.Name())
		sum, err := vfs.ReadFile(vfs.OS(), filepath.Join(at, snapshotSum), 64)
		if errors.Is(err, fs.ErrNotExist) {
			if err := vfs.OS().RemoveAll(at); err != nil {
				return fmt.Errorf("remove an incomplete snapshot of the controller: %w", err)
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("read the controller's snapshot %s: %w", d.Name(), err)
		}
		b, err := vfs.ReadFile(vfs.OS(), filepath.Join(at, snapshotMeta), maxSnapMeta)
		if err != nil || !bytes.Equal(seal(snapshotMeta, b)[len(b):], sum) {
			return fmt.Errorf("%w: snapshot %s does not check (%w)", votes.ErrDamaged, d.Name(), errors.Join(err))
		}
	}
	return nil
}

// removeSnapshots deletes every snapshot; gone when it returns.
func removeSnapshots(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, "snapshots")); err != nil {
		return fmt.Errorf("remove the controller's snapshots: %w", err)
	}
	return syncDir(dir)
}
