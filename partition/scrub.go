package partition

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// Scrub reads all that this replica keeps and checks it: the log, the checkpoints, the identity. What can be made good from
// the rest is written anew; damage of the log, or of the checkpoint that it begins with, stops the replica (Err). pace is
// called with the bytes read since its last call, and ends the scrub by an error. Everything else goes on meanwhile.
func (p *Partition) Scrub(pace func(bytes int) error) error {
	if err := p.log.Scrub(pace); err != nil {
		return p.spoiled(err)
	}
	if err := p.scrubCheckpoints(pace); err != nil {
		return err
	}
	if _, ok, err := readIdentity(p.o.FS, p.o.Dir); err != nil || ok {
		return err
	}
	p.logger.Error("the replica's identity was damaged and is written anew")
	p.mu.Lock()
	id := p.identity
	p.mu.Unlock()
	return writeIdentity(p.o.FS, p.o.Dir, id)
}

// scrubCheckpoints removes damaged checkpoints: the log then starts at another segment, or from the checkpoint before and
// more of the log. The one below the first entry has no other.
func (p *Partition) scrubCheckpoints(pace func(bytes int) error) error {
	p.mu.Lock()
	indexes := slices.Sorted(maps.Keys(p.durable))
	p.mu.Unlock()
	for _, index := range indexes {
		_, body, err := readCheckpoint(p.o.FS, p.o.Dir, index, checkpointSuffix)
		switch {
		case errors.Is(err, fs.ErrNotExist): // pruned meanwhile
		case errors.Is(err, errBadCheckpoint) && index+1 == p.log.FirstIndex():
			return p.spoiled(errors.Join(err, errFirstCheckpoint))
		case errors.Is(err, errBadCheckpoint):
			p.logger.Error("a damaged checkpoint is removed", "error", err)
			p.ckptMu.Lock()
			p.mu.Lock()
			delete(p.durable, index)
			p.mu.Unlock()
			err = removeFile(p.o.FS, checkpointPath(p.o.Dir, index, checkpointSuffix))
			p.ckptMu.Unlock()
			if err != nil {
				return fmt.Errorf("remove checkpoint %d: %w", index, err)
			}
		case err != nil:
			return p.spoiled(err)
		}
		if err := pace(len(body)); err != nil {
			return err
		}
	}
	return nil
}
