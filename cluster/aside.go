package cluster

import (
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/balsa-broker/balsa/partition"
)

// What the table of replicas does with those that fail.

// damagedSuffix: a damaged replica's folder that was put aside when its successor was made. Nothing reads it; it is for
// people. The newest of a partition is kept until the successor votes.
const damagedSuffix = ".damaged"

// asideKey is the part of a replica folder's name that all replicas of its partition share.
func asideKey(name string, id uint64) string {
	return strings.TrimSuffix(name, "-"+strconv.FormatUint(id, 10))
}

// foundAside remembers a folder that an earlier run put aside. Of two the older replica's goes.
func (rs *replicas) foundAside(name string) {
	base := strings.TrimSuffix(name, damagedSuffix)
	id, err := strconv.ParseUint(base[strings.LastIndexByte(base, '-')+1:], 10, 64)
	if err != nil {
		return
	}
	key := asideKey(base, id)
	if old, ok := rs.aside[key]; ok {
		if old > name {
			old, name = name, old
		}
		rs.removeAside(old)
	}
	rs.aside[key] = name
}

func (rs *replicas) removeAside(name string) {
	if err := rs.fs.RemoveAll(filepath.Join(rs.dir, name)); err != nil {
		rs.log.Warn("Removing a damaged replica", "folder", name, "err", err)
	}
}

// putAside keeps the folder of a damaged replica that has a successor, and deletes its votes.
func (rs *replicas) putAside(r *replica) {
	name := filepath.Base(r.dir)
	switch err := rs.fs.Rename(r.dir, r.dir+damagedSuffix); {
	case errors.Is(err, fs.ErrNotExist): // it was lost
	case err != nil:
		rs.log.Warn("Putting a damaged replica aside", "folder", r.dir, "err", err)
		return
	default:
		if err := rs.fs.SyncDir(rs.dir); err != nil {
			rs.log.Warn("Putting a damaged replica aside", "folder", r.dir, "err", err)
		}
		rs.mu.Lock()
		key := asideKey(name, r.self.ID)
		old := rs.aside[key]
		rs.aside[key] = name + damagedSuffix
		rs.mu.Unlock()
		if old != "" {
			rs.removeAside(old)
		}
		rs.log.Info("Damaged replica put aside", "folder", r.dir+damagedSuffix)
	}
	if err := rs.host.deleteVotes(r.self.ID); err != nil {
		rs.log.Warn("Deleting the votes of a damaged replica", "replica", raftAddress(r.self), "err", err)
	}
}

// clearAside removes the folders put aside of partitions whose replica here is whole again, or that have none here.
func (rs *replicas) clearAside(whole func(*replica) bool) {
	rs.mu.RLock()
	here := make(map[string]*replica, len(rs.aside))
	if len(rs.aside) > 0 {
		for _, r := range rs.byKey {
			here[asideKey(filepath.Base(r.dir), r.self.ID)] = r
		}
	}
	var gone []string
	for key := range rs.aside {
		if r, ok := here[key]; !ok || whole(r) {
			gone = append(gone, key)
		}
	}
	rs.mu.RUnlock()
	for _, key := range gone {
		rs.mu.Lock()
		name := rs.aside[key]
		delete(rs.aside, key)
		rs.mu.Unlock()
		rs.removeAside(name)
	}
}

// stopFailed closes a replica that stopped by itself. A damaged one stays closed until it has a successor; one whose store
// failed is opened again, which writes and syncs anew what is not known durable (safety rule 8), later each time.
func (rs *replicas) stopFailed(r *replica, p *partition.Partition) {
	rs.mu.Lock()
	if rs.closed || r.busy || r.p.Load() != p {
		rs.mu.Unlock()
		return
	}
	r.busy = true
	rs.mu.Unlock()
	err := p.Err()
	rs.host.replicaGone(r)
	r.p.Store(nil)
	if cerr := p.Close(); cerr != nil {
		rs.log.Debug("Closing a replica that stopped", "topic", r.topic, "partition", r.key.part, "err", cerr)
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.busy = false
	rs.failedLocked(r, err)
	if !r.damaged {
		if time.Since(r.opened) > 2*maxReopenPause {
			r.failures = 0
		}
		r.retryAt = time.Now().Add(min(replicaRetry<<min(r.failures, 10), maxReopenPause))
		r.failures++
	}
}

// failedLocked notes why a replica is not open.
func (rs *replicas) failedLocked(r *replica, err error) {
	if r.err == nil || r.err.Error() != err.Error() {
		rs.log.Error("Replica does not work", "topic", r.topic, "partition", r.key.part, "replica", raftAddress(r.self), "err", err)
	}
	r.err = err
	if partition.IsDamage(err) && !r.damaged {
		r.damaged = true
		rs.host.replicaDamaged()
	}
}

// damagedNow lists the damaged replicas whose leader is to be asked now, and puts off the next time.
func (rs *replicas) damagedNow(now time.Time) (out []*replica) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range rs.byID {
		if r.damaged && !r.busy && !rs.closed && !now.Before(r.retryAt) {
			r.retryAt = now.Add(time.Second)
			out = append(out, r)
		}
	}
	return out
}

func (rs *replicas) setWaits(r *replica, waits string) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if waits != r.waits && waits != "" {
		rs.log.Warn("Damaged replica is not rebuilt yet", "topic", r.topic, "partition", r.key.part, "replica", raftAddress(r.self), "because", waits)
	}
	r.waits = waits
}

func (rs *replicas) errOf(r *replica) error {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return r.err
}

// failures lists the replicas that do not open or are damaged, in order.
func (rs *replicas) failures() []ReplicaFailure {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	var out []ReplicaFailure
	for _, r := range rs.byID {
		if r.err != nil {
			out = append(out, ReplicaFailure{
				Topic: r.topic, Partition: r.key.part, Replica: r.self.ID, Damaged: r.damaged, NeedsRecovery: r.unclean != nil, Reason: r.err.Error(), Waits: r.waits,
			})
		}
	}
	slices.SortFunc(out, func(a, b ReplicaFailure) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Replica, b.Replica))
	})
	return out
}
