package segment

import "fmt"

// Roll closes the active segment, if it holds a batch, so that retention can delete it. What it held is durable on
// return; the next append makes a new segment. OnRoll's function is called.
func (l *Log) Roll() error {
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if s := l.active(); s == nil || s.nextOffset == s.baseOffset {
		return nil
	}
	if err := l.unclean(l.config()); err != nil {
		return err
	}
	return l.roll()
}

// roll closes the active segment and makes an empty one. On return the old one is durable, without preallocated
// space, with a complete index, and the state file covers it. Four syncs.
func (l *Log) roll() error {
	if err := l.openActive(0); err != nil {
		return err
	}
	if err := l.settle(); err != nil {
		return err
	}
	old := l.active()
	if err := l.create(l.nextIndex); err != nil {
		return err // the old segment stays the active one; its space is preallocated again
	}
	old.unpin()
	if err := l.writeState(l.stateAt(old.end(), 0)); err != nil {
		// The state of before is still true, only recovery takes longer.
		l.o.Logger.Warn("state not written", "dir", l.o.Dir, "error", err)
	}
	l.o.Logger.Debug("rolled segment", "dir", l.o.Dir, "base_offset", l.nextOffset, "base_index", l.nextIndex)
	if l.onRoll != nil {
		l.onRoll(l.nextIndex)
	}
	return nil
}

// settle releases the active segment's preallocated space and makes it and its index durable.
func (l *Log) settle() error {
	s := l.active()
	if l.allocated != s.size {
		if err := l.file.Truncate(s.size); err != nil {
			return l.fail("release preallocated space", err)
		}
		l.allocated = s.size
	}
	if err := l.syncActive(); err != nil {
		return err
	}
	if l.idx.written == 0 && len(l.idx.pending) == 0 {
		return nil
	}
	err := l.flushIndex(l.mark())
	if err == nil {
		err = l.idx.f.Sync()
	}
	if err != nil {
		l.o.Logger.Warn("index not written", "dir", l.o.Dir, "error", err)
	}
	if l.idx.f != nil {
		_ = l.idx.f.Close() // it can be rebuilt
		l.idx.f = nil
	}
	return nil
}

// syncActive makes the open active segment durable.
func (l *Log) syncActive() error {
	s := l.active()
	if err := l.openActive(s.nextIndex); err != nil {
		return err
	}
	begin := l.o.Now()
	if err := l.o.Sync.Sync(Append{File: l.file, Pos: l.synced, Len: int(s.size - l.synced)}); err != nil {
		return l.fail("sync", err)
	}
	l.mu.Lock()
	l.synced, l.flushed = s.size, begin
	l.mu.Unlock()
	return nil
}

// Sync makes all that was written durable.
func (l *Log) Sync() error {
	l.wmu.Lock()
	if err := l.usable(); err != nil {
		l.wmu.Unlock()
		return err
	}
	s := l.active()
	if s == nil || l.synced >= s.size {
		l.wmu.Unlock()
		return nil
	}
	m, gen, begin := l.mark(), l.generation, l.o.Now()
	a := Append{Pos: l.synced, Len: int(s.size - l.synced)}
	f, err := s.pin(l.o.FS)
	l.wmu.Unlock()
	if err != nil {
		return err
	}
	defer s.unpin()
	a.File = f
	err = l.o.Sync.Sync(a) // appends go on meanwhile

	l.wmu.Lock()
	defer l.wmu.Unlock()
	if err != nil {
		return l.fail("sync", err)
	}
	if l.closed || l.active() != s || l.generation != gen || l.synced >= m.pos {
		return nil // rolled, truncated or closed meanwhile, each of which syncs
	}
	l.mu.Lock()
	l.synced, l.flushed = m.pos, begin
	l.mu.Unlock()
	if l.markDue(m.pos) {
		l.flushIndexLogged(m)
	}
	return nil
}

// flushBackground is Sync on behalf of the Syncer.
func (l *Log) flushBackground() {
	err := l.Sync()
	l.wmu.Lock()
	defer l.wmu.Unlock()
	l.flushing = false
	if err == nil && !l.closed && l.active() != nil && l.synced < l.active().size {
		l.o.Sync.later(l)
	}
}

// Close syncs, releases preallocated space, writes the clean mark and closes the files. Ranges handed out stay
// readable until they are released. After a failure there is no clean mark, and the error says why.
func (l *Log) Close() error {
	l.o.Sync.forget(l)
	l.wmu.Lock()
	defer l.wmu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	defer func() {
		if l.idx.f != nil {
			_ = l.idx.f.Close()
			l.idx.f = nil
		}
		if l.file != nil {
			l.o.Sync.dismiss(l.file)
			l.active().unpin()
			l.file = nil
		}
	}()
	if l.failed != nil {
		return fmt.Errorf("segment: close: %w: %w", ErrFailed, l.failed)
	}
	if l.persisted.clean || l.active() == nil && !l.persisted.valid {
		return nil // nothing was changed, or nothing was ever written
	}
	if l.active() != nil {
		if err := l.openActive(l.nextIndex); err != nil {
			return err
		}
		if err := l.settle(); err != nil {
			return err
		}
	}
	c := cursor{index: l.nextIndex, offset: l.nextOffset}
	if s := l.active(); s != nil {
		c = s.end()
	}
	return l.writeState(l.stateAt(c, stateClean))
}
