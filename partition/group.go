package partition

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/segment"
)

// What cluster/transport needs of a group (its Group interface) follows.

// FirstIndex and LastIndex of the local log; 0, 0 when it never held anything.
func (p *Partition) FirstIndex() uint64 { return p.log.FirstIndex() }

// LastIndex: see FirstIndex.
func (p *Partition) LastIndex() uint64 { return p.log.LastIndex() }

// Term of a local entry, also of FirstIndex-1 when known.
func (p *Partition) Term(index uint64) (uint64, bool) { return p.log.Term(index) }

// Committed is the highest index known committed and held here.
func (p *Partition) Committed() uint64 {
	c := p.applied.Load()
	if g := p.group.Load(); g != nil {
		c = max(c, g.raft.AppliedIndex())
	}
	return c
}

// HasConfiguration says whether this replica may vote: it holds a configuration, and its log has not been wiped below
// entries that it acknowledged (safety rules 1 and 6).
func (p *Partition) HasConfiguration() bool { return p.hasConf.Load() && p.mayVote() }

func (p *Partition) mayVote() bool {
	p.mu.Lock()
	floor := p.identity.voteFloor
	p.mu.Unlock()
	return p.failed() == nil && p.log.LastIndex() >= floor
}

// EncodeEntries appends the frames of entries[0..n) as they lie in the segment to buf. They were checked: what is damaged
// is not sent, and ends this replica.
func (p *Partition) EncodeEntries(buf []byte, entries []*raft.Log, maxBytes int) ([]byte, int, error) {
	if len(entries) == 0 {
		return buf, 0, nil
	}
	first := entries[0].Index
	at := len(buf)
	buf, n, err := p.log.ReadFrames(buf, first, first+uint64(len(entries))-1, maxBytes)
	if err != nil {
		return buf, 0, fmt.Errorf("encode entry %d: %w", first, p.spoiled(err))
	}
	// A truncation may have come in between: same index and term is the same entry.
	for _, e := range entries[:n] {
		if term, ok := p.log.Term(e.Index); !ok || term != e.Term {
			return buf[:at], 0, fmt.Errorf("encode entry %d of term %d: %w", e.Index, e.Term, segment.ErrNotFound)
		}
	}
	return buf, n, nil
}

// Frame reads and checks the bytes of one entry, as they lie in the segment.
func (p *Partition) Frame(index uint64) ([]byte, error) { return p.readFrame(index) }

// DecodeEntries makes Raft's logs of the leader's frames. Their data alias payload.
func (p *Partition) DecodeEntries(first uint64, payload []byte) ([]*raft.Log, error) {
	var out []*raft.Log
	err := segment.ParseFrames(first, payload, func(e segment.Entry, frame []byte) error {
		if len(out) >= maxAppendEntries {
			return fmt.Errorf("partition: more than %d entries in one request", maxAppendEntries)
		}
		l := &raft.Log{Index: e.Index, Term: e.Term, Type: raft.LogCommand, Data: e.Payload}
		switch e.Type {
		case segment.Batch:
			l.Data, l.Extensions = frame, extBatch
		case segment.Command:
			l.Extensions = extCommand
		case segment.Void:
			l.Data, l.Extensions = nil, extVoid
		case segment.Noop:
			l.Type = raft.LogNoop
		case segment.Barrier:
			l.Type = raft.LogBarrier
		case segment.Configuration:
			l.Type = raft.LogConfiguration
		default:
			return fmt.Errorf("entry %d: %w: type %d", e.Index, segment.ErrCorrupt, e.Type)
		}
		out = append(out, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("decode entries: %w", err)
	}
	return out, nil
}

// guard stands between Raft and its transport: a replica whose log lacks what it once acknowledged asks for no votes
// (safety rule 6), and closing twice is harmless.
type guard struct {
	raft.Transport
	p    *Partition
	once sync.Once
}

// guardPreVote is a guard over a transport that knows pre-votes.
type guardPreVote struct {
	*guard
	pre raft.WithPreVote
}

var errMayNotVote = errors.New("partition: the log does not reach what this replica acknowledged")

func guardTransport(p *Partition, t raft.Transport) raft.Transport {
	g := &guard{Transport: t, p: p}
	if pre, ok := t.(raft.WithPreVote); ok {
		return &guardPreVote{g, pre}
	}
	return g
}

func (g *guard) RequestVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest,
	resp *raft.RequestVoteResponse,
) error {
	if !g.p.mayVote() {
		return errMayNotVote
	}
	return g.Transport.RequestVote(id, to, args, resp)
}

func (g *guardPreVote) RequestPreVote(id raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest,
	resp *raft.RequestPreVoteResponse,
) error {
	if !g.p.mayVote() {
		return errMayNotVote
	}
	return g.pre.RequestPreVote(id, to, args, resp)
}

func (g *guard) Close() (err error) {
	g.once.Do(func() {
		if c, ok := g.Transport.(raft.WithClose); ok {
			err = c.Close()
		}
	})
	return err
}

// votes is the group's stable store. Raft panics when it cannot save a term, and the term of a heartbeat is saved on the
// transport's goroutine; so a failure to save one stops this group and is not told (safety rule 7): nothing is stored and
// no vote is given after it, and a term that nobody voted in may be forgotten.
//
// Raft handles heartbeats beside its own goroutine, and the two together can set the term back. The newer term stays, and
// the group starts again on it.
type votes struct {
	raft.StableStore
	p *Partition

	mu   sync.Mutex
	high uint64 // of the terms given to be saved
}

func (v *votes) SetUint64(key []byte, val uint64) error {
	if string(key) == keyCurrentTerm && v.termBack(val) {
		v.p.requestRestart(restartRequest{why: "the term was about to be set back"})
		return nil
	}
	err := v.p.failed()
	if err == nil {
		if err = v.StableStore.SetUint64(key, val); err != nil {
			err = fmt.Errorf("save %s: %w", key, err)
			v.p.failStop(err)
		}
	}
	if string(key) == keyCurrentTerm {
		return nil
	}
	return err
}

func (v *votes) termBack(val uint64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.high == 0 {
		v.high, _ = v.GetUint64([]byte(keyCurrentTerm))
	}
	if val < v.high {
		return true
	}
	v.high = val
	return false
}

func (v *votes) Set(key, val []byte) error {
	if err := v.p.failed(); err != nil {
		return err
	}
	if err := v.StableStore.Set(key, val); err != nil {
		err = fmt.Errorf("save %s: %w", key, err)
		v.p.failStop(err)
		return err
	}
	return nil
}
