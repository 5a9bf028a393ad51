package partition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/hashicorp/raft"
)

// snapshotStore is the Partition as Raft's SnapshotStore. The first List, by NewRaft, tells where the state stands, so
// that Raft neither applies again what is applied nor takes an uncommitted entry for committed (safety rule 12). After
// that the one snapshot is the checkpoint just below the log's first entry: a follower that gets it needs every entry
// that is retained, and no other.
type snapshotStore struct {
	p        *Partition
	starting bool // only NewRaft's goroutine looks at it before the group runs
	last     *snapshotSink
}

func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	p := s.p
	if s.starting {
		s.starting = false
		index := p.applied.Load()
		if index == 0 {
			return nil, nil
		}
		term, ok := p.log.Term(index)
		if !ok {
			return nil, fmt.Errorf("%w: entry %d is applied and not in the log", ErrCorrupt, index)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		c := checkpoint{index: index, term: term, conf: p.conf, confIndex: p.confIndex}
		return []*raft.SnapshotMeta{c.meta("start", 0)}, nil
	}
	first := p.log.FirstIndex()
	if first <= 1 {
		return nil, nil
	}
	c, body, err := readCheckpoint(p.o.FS, p.o.Dir, first-1, checkpointSuffix)
	if err != nil {
		if errors.Is(err, errBadCheckpoint) {
			p.failStop(errors.Join(errFirstCheckpoint, err))
		}
		return nil, err
	}
	return []*raft.SnapshotMeta{c.meta(strconv.FormatUint(c.index, 10), int64(len(body)))}, nil
}

// Open gives a checkpoint's file, or what was just received.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if k := s.last; k != nil && k.ID() == id {
		return k.meta, io.NopCloser(bytes.NewReader(k.buf.Bytes())), nil
	}
	index, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return nil, nil, fmt.Errorf("partition: no snapshot %q", id)
	}
	c, body, err := readCheckpoint(s.p.o.FS, s.p.o.Dir, index, checkpointSuffix)
	if err != nil {
		return nil, nil, err
	}
	return c.meta(id, int64(len(body))), io.NopCloser(bytes.NewReader(body)), nil
}

// Create begins to receive the leader's checkpoint. The transport answered those that the log does not need
// (safety rule 6); one more check here, as a log that reaches the snapshot is never to be replaced.
func (s *snapshotStore) Create(_ raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64,
	_ raft.Transport,
) (raft.SnapshotSink, error) {
	if last := s.p.log.LastIndex(); index <= last || index <= s.p.Committed() {
		return nil, fmt.Errorf("partition: snapshot at entry %d refused: the log goes to %d", index, last)
	}
	return &snapshotSink{s: s, meta: &raft.SnapshotMeta{
		Version: 1, ID: "received-" + strconv.FormatUint(index, 10), Index: index, Term: term,
		Configuration: conf, ConfigurationIndex: confIndex,
	}}, nil
}

// snapshotSink receives a checkpoint into memory. Nothing on disk changes before it is whole and checked, and Raft calls
// Restore, right after Close.
type snapshotSink struct {
	s    *snapshotStore
	meta *raft.SnapshotMeta
	buf  bytes.Buffer
}

func (k *snapshotSink) ID() string { return k.meta.ID }

func (k *snapshotSink) Write(b []byte) (int, error) {
	if k.buf.Len()+len(b) > maxCheckpoint {
		return 0, errors.New("partition: checkpoint is too large")
	}
	return k.buf.Write(b)
}

func (k *snapshotSink) Close() error {
	c, err := decodeCheckpoint(k.buf.Bytes())
	if err != nil {
		return err
	}
	if c.index != k.meta.Index || c.term != k.meta.Term {
		return fmt.Errorf("%w: it is of entry %d of term %d, announced as %d of %d", errBadCheckpoint, c.index, c.term,
			k.meta.Index, k.meta.Term)
	}
	k.meta.Size = int64(k.buf.Len())
	k.s.last = k
	return nil
}

func (k *snapshotSink) Cancel() error {
	k.buf.Reset()
	return nil
}
