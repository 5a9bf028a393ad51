package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/internal/raftconf"
	"github.com/balsa-broker/balsa/segment"
	"github.com/balsa-broker/balsa/vfs"
)

// A replica that found damage while it ran says so in its folder: the next start, which does not read all of a log, would
// not find it again, and the replica would vote and serve once more. The file holds the reason, for people. Who has put
// the folder right by hand removes it.
const (
	damagedName = "damaged"
	maxReason   = 4 << 10
)

// IsDamage says whether an error of Open, or of a replica that stopped (Err), means that what the replica holds cannot be
// believed: it does not come back by being opened again, but by being rebuilt from its peers.
func IsDamage(err error) bool {
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrLost) || errors.Is(err, segment.ErrCorrupt)
}

// Err says why the replica stopped; nil while it works.
func (p *Partition) Err() error { return p.failed() }

// noteDamage keeps the reason in the folder, durably.
func (p *Partition) noteDamage(err error) {
	if !IsDamage(err) {
		return
	}
	reason := []byte(err.Error())
	reason = reason[:min(len(reason), maxReason)]
	if err := vfs.WriteFile(p.o.FS, p.o.Dir, filepath.Join(p.o.Dir, damagedName), reason); err != nil {
		p.logger.Error("cannot note that the replica is damaged", "error", err)
	}
}

// checkDamageNote returns ErrCorrupt when the replica was found damaged in an earlier run.
func (p *Partition) checkDamageNote() error {
	b, err := vfs.ReadFile(p.o.FS, filepath.Join(p.o.Dir, damagedName), maxReason)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the note of damage: %w", err)
	}
	return fmt.Errorf("%w: found in an earlier run: %s", ErrCorrupt, b)
}

// spoiled looks at an error of reading the log: bytes that do not check, or that the disk cannot read, end this replica,
// so that another leads and this one is rebuilt.
func (p *Partition) spoiled(err error) error {
	if IsDamage(err) || errors.Is(err, syscall.EIO) {
		p.failStop(fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	return err
}

// soleVoter says whether the log's last configuration has this replica as its only voter: a later one would need its vote.
func (p *Partition) soleVoter() bool {
	index, b := p.log.ConfigurationAt(p.log.LastIndex())
	if index == 0 {
		return false
	}
	conf, err := raftconf.Decode(b)
	voters := 0
	self := false
	for _, s := range conf.Servers {
		if s.Suffrage == raft.Voter {
			voters++
			self = self || s.ID == p.o.Self.ServerID()
		}
	}
	return err == nil && voters == 1 && self
}
