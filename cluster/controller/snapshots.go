package controller

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/internal/raftlog"
)

// snapshots is raft's file snapshot store (which syncs), and knows the newest one.
type snapshots struct {
	raft.SnapshotStore
	last  atomic.Pointer[raft.SnapshotMeta]
	first func() error // called when a snapshot is complete, before anyone hears of it
}

func openSnapshots(dir string, logger *slog.Logger) (*snapshots, error) {
	s, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, raftlog.New(logger))
	if err != nil {
		return nil, fmt.Errorf("open the controller's snapshots in %s: %w", dir, err)
	}
	list, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("list the controller's snapshots in %s: %w", dir, err)
	}
	w := &snapshots{SnapshotStore: s}
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
	if err := d.s.first(); err != nil {
		return err
	}
	if d.meta.Index >= d.s.newest().Index {
		d.s.last.Store(&d.meta)
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
