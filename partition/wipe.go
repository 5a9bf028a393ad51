package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/balsa-broker/balsa/vfs"
)

// restartRequest asks the loop to start the group again, and before that to wipe the log when floor > 0.
type restartRequest struct {
	floor uint64
	term  uint64 // of the leader's entry floor
	why   string
}

const wipeName = "wipe"

// WipeForSnapshot answers the transport's request to empty a log that provably differs from the leader's at lastIndex
// (safety rule 6). Raft keeps its idea of the last index in memory, so the whole group has to start again: the request is
// noted, the caller gets ErrRestarting, and the leader's next attempt finds an empty log. Until the log has reached
// lastIndex again this replica neither votes nor stands: it has acknowledged entries below.
func (p *Partition) WipeForSnapshot(lastIndex, lastTerm uint64) error {
	if !p.differs(lastIndex, lastTerm) {
		return fmt.Errorf("wipe for snapshot at entry %d of term %d: the log does not differ there", lastIndex, lastTerm)
	}
	p.requestRestart(restartRequest{floor: lastIndex, term: lastTerm, why: "the log differs from the leader's snapshot"})
	return ErrRestarting
}

// differs says whether the log holds an uncommitted entry index of another term.
func (p *Partition) differs(index, term uint64) bool {
	have, ok := p.log.Term(index)
	return ok && have != term && index > p.Committed() && index <= p.log.LastIndex()
}

func (p *Partition) requestRestart(r restartRequest) {
	p.mu.Lock()
	if p.restart == nil || r.floor > p.restart.floor {
		p.restart = &r
	}
	p.mu.Unlock()
	p.kick()
}

// startWipe makes the decision durable: from here on a crash finishes it.
func (p *Partition) startWipe(floor uint64) error {
	b := binary.BigEndian.AppendUint64(nil, floor)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if err := vfs.WriteFile(p.o.FS, p.o.Dir, filepath.Join(p.o.Dir, wipeName), b); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	return p.finishWipe()
}

// finishWipe carries out a wipe whose mark is on disk; nothing when there is none. Raft does not run.
func (p *Partition) finishWipe() error {
	name := filepath.Join(p.o.Dir, wipeName)
	b, err := vfs.ReadFile(p.o.FS, name, 64)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	if len(b) != 12 || crc32.Checksum(b[:8], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return fmt.Errorf("%w: the wipe mark does not check", ErrCorrupt)
	}
	p.mu.Lock()
	p.identity.emptyOK = true
	p.identity.voteFloor = max(p.identity.voteFloor, binary.BigEndian.Uint64(b))
	id := p.identity
	p.mu.Unlock()
	if err := writeIdentity(p.o.FS, p.o.Dir, id); err != nil {
		return err
	}
	if err := p.mark.reset(); err != nil {
		return err
	}
	for _, suffix := range []string{checkpointSuffix, installSuffix} {
		indexes, err := listCheckpoints(p.o.FS, p.o.Dir, suffix)
		if err != nil {
			return err
		}
		for _, i := range indexes {
			if err := removeFile(p.o.FS, checkpointPath(p.o.Dir, i, suffix)); err != nil {
				return fmt.Errorf("wipe: %w", err)
			}
		}
	}
	if err := p.log.Reset(1, 0, 0); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	if err := removeFile(p.o.FS, name); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	return p.o.FS.SyncDir(p.o.Dir)
}

// wipeState follows finishWipe in a replica that runs on. The loop calls it, Raft is stopped.
func (p *Partition) wipeState() error {
	if p.o.Machine != nil {
		if err := p.o.Machine.Restore(nil); err != nil {
			return fmt.Errorf("wipe the state machine: %w", err)
		}
	}
	p.mu.Lock()
	p.next, p.confIndex, p.conf, p.producers = 0, 0, nil, map[int64]*producer{}
	p.rolls, p.durable = nil, map[uint64]bool{}
	p.mu.Unlock()
	p.applied.Store(0)
	p.logStart.Store(0)
	p.fileStart.Store(0)
	p.hasConf.Store(false)
	// The high watermark in memory stays: what was committed is.
	return nil
}

// install replaces the log by a checkpoint of the leader: the file first, then the reset, then its proper name, so that a
// crash in between is finished at the next start (safety rule 6). storeMu is held, or nothing else runs.
func (p *Partition) install(c *checkpoint, body []byte) error {
	if err := writeCheckpoint(p.o.FS, p.o.Dir, c.index, installSuffix, body); err != nil {
		return err
	}
	return p.finishInstall()
}

// finishInstall carries out the newest install found on disk; nothing when there is none.
func (p *Partition) finishInstall() error {
	indexes, err := listCheckpoints(p.o.FS, p.o.Dir, installSuffix)
	if err != nil || len(indexes) == 0 {
		return err
	}
	index := indexes[len(indexes)-1]
	c, _, err := readCheckpoint(p.o.FS, p.o.Dir, index, installSuffix)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if p.log.FirstIndex() != index+1 {
		if err := p.log.Reset(index+1, c.next, c.term); err != nil {
			return fmt.Errorf("install checkpoint %d: %w", index, err)
		}
	}
	err = p.o.FS.Rename(checkpointPath(p.o.Dir, index, installSuffix), checkpointPath(p.o.Dir, index, checkpointSuffix))
	if err != nil {
		return fmt.Errorf("install checkpoint %d: %w", index, err)
	}
	for _, i := range indexes[:len(indexes)-1] {
		if err := removeFile(p.o.FS, checkpointPath(p.o.Dir, i, installSuffix)); err != nil {
			return fmt.Errorf("install checkpoint %d: %w", index, err)
		}
	}
	return p.o.FS.SyncDir(p.o.Dir)
}
