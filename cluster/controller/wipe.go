package controller

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/balsa-broker/balsa/vfs"
)

// A member whose log provably diverges from a snapshot that the leader sends (safety rule 6) is emptied and starts
// again. raft keeps the last entry of its log in memory, so this takes a restart: the intent is written down and the
// member stops; Open finishes the wipe. Until the member holds again what it had lost it neither votes nor stands for
// election.
//
//	"Wipe" -> | index of the snapshot, 8 bytes big endian | 0: to be wiped, 1: wiped, waits for that index | CRC-32C 4 |
const (
	wipeAsked = 0
	wipeDone  = 1
)

var errWiped = errors.New("controller: the log of this member differs from the leader's snapshot; it is emptied at the next start and filled again by the leader")

func (c *Controller) wipeForSnapshot(lastIndex, lastTerm uint64) error {
	if t, ok := c.store.termAt(lastIndex); !ok || t == lastTerm {
		return fmt.Errorf("controller: nothing proves that the log differs at index %d term %d: not wiped", lastIndex, lastTerm)
	}
	if err := c.store.bolt.Set([]byte(keyWipe), seal(keyWipe, append(binary.BigEndian.AppendUint64(nil, lastIndex), wipeAsked))); err != nil {
		return fmt.Errorf("store the wipe of the controller's log: %w", err)
	}
	c.voteFloor.Store(lastIndex)
	c.fail(errWiped)
	return errWiped
}

// finishWipe is called at Open, before anything is read. It returns the index below which the member does not vote.
func finishWipe(s *store, dir string) (floor uint64, err error) {
	v, err := s.bolt.Get([]byte(keyWipe))
	if errors.Is(err, raftboltdb.ErrKeyNotFound) || err == nil && len(v) == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the wipe of the controller's log: %w", err)
	}
	if v, err = unseal(keyWipe, v); err != nil {
		return 0, err
	}
	if len(v) != 9 {
		return 0, fmt.Errorf("controller: a wipe record of %d bytes", len(v))
	}
	floor = binary.BigEndian.Uint64(v)
	if v[8] == wipeDone {
		return floor, nil
	}
	if last := s.lastIndex.Load(); last > 0 {
		if err := s.DeleteRange(s.firstIndex.Load(), last); err != nil {
			return 0, err
		}
	}
	if err := removeSnapshots(dir); err != nil {
		return 0, err
	}
	v[8] = wipeDone
	if err := s.bolt.Set([]byte(keyWipe), seal(keyWipe, v)); err != nil {
		return 0, fmt.Errorf("finish the wipe of the controller's log: %w", err)
	}
	return floor, nil
}

// mayVote says whether the member has a configuration (safety rule 1), and all that it ever promised to hold.
func (c *Controller) mayVote() bool {
	if c.store.lastIndex.Load() == 0 && c.snapshots.newest().Index == 0 {
		return false
	}
	floor := c.voteFloor.Load()
	if floor == 0 {
		return true
	}
	r := c.raft.Load()
	if c.failed() != nil || r == nil || r.AppliedIndex() < floor {
		return false
	}
	if err := c.store.bolt.Set([]byte(keyWipe), nil); err != nil {
		return false // asked again at the next vote
	}
	c.voteFloor.Store(0)
	return true
}

// The member file says that this member's log has held something. With it, an empty log is a lost one.
func memberFile(dir string) string { return filepath.Join(dir, "..", "controller.member") }

// wasMember reads the member file.
func wasMember(dir string) (string, error) {
	b, err := os.ReadFile(memberFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the controller's member file: %w", err)
	}
	return string(b), nil
}

// markMember writes it; durable on return.
func markMember(dir, id string) error {
	name := memberFile(dir)
	tmp := name + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return fmt.Errorf("write the controller's member file: %w", err)
	}
	_, err = f.WriteString(id)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("write the controller's member file: %w", err)
	}
	return nil
}

func syncDir(dir string) error { return vfs.OS().SyncDir(dir) }
