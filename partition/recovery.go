package partition

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/internal/raftconf"
	"github.com/balsa-broker/balsa/segment"
)

// Unclean is Open's error for a replica whose log was written without a sync before each entry counted (flush policy
// replicated), and whose machine then went down without a clean stop: the end of the log, which it had confirmed,
// may be missing (safety rule 13). It stays so, through any number of restarts, until Recover.
type Unclean struct{ Standing Standing }

func (u *Unclean) Error() string {
	return fmt.Sprintf("partition: power was lost under flush policy replicated: the log ends at entry %d, offset %d, and may have gone on",
		u.Standing.LastIndex, u.Standing.LogEnd)
}

// Standing is what a replica has, for the choice of the log from which its partition goes on (safety rule 13).
type Standing struct {
	Term                uint64 // the highest that it knows
	LastTerm, LastIndex uint64 // of its log
	LogEnd              int64  // offset after the last record
	// Known is the highest high watermark that it knows to have been reached: beyond LogEnd when the log lost records. -1:
	// it knows of none.
	Known int64
	// Flushed: what it had stored before was on its disk, as far as it can prove; zero: it cannot.
	Flushed time.Time
	Voters  []Replica // of the last configuration in its log
}

// Standing of a replica that runs. Its fields are not of one instant.
func (p *Partition) Standing() Standing {
	s := Standing{
		Term: p.Raft().CurrentTerm(), LastIndex: p.log.LastIndex(), LogEnd: p.log.NextOffset(), Known: p.HighWatermark(),
		Flushed: p.o.Now(),
	}
	s.LastTerm, _ = p.log.Term(s.LastIndex)
	s.Voters, _ = p.members()
	return s
}

// checkClean finds out whether the log may have lost its end, and notes it durably before anything is written, which
// would make the log look clean.
func (p *Partition) checkClean(voted bool) error {
	rec := p.log.Recovery()
	if p.identity.unclean || !rec.Unsynced || rec.Clean || rec.SameBoot || !voted {
		return nil
	}
	p.identity.unclean = true
	return writeIdentity(p.o.FS, p.o.Dir, p.identity)
}

// resting is the standing of a replica whose log is open and whose group does not run.
func (p *Partition) resting() Standing {
	last := p.log.LastIndex()
	s := Standing{LastIndex: last, LogEnd: p.log.NextOffset(), Known: -1}
	if p.mark.last.index > 0 {
		s.Known = p.mark.last.offset
	}
	s.LastTerm, _ = p.log.Term(last)
	s.Term = s.LastTerm
	if term, err := p.o.Votes.GetUint64([]byte(keyCurrentTerm)); err == nil {
		s.Term = max(s.Term, term)
	}
	if ms := p.mark.last.flushed; ms > 0 {
		s.Flushed = time.UnixMilli(ms)
	}
	_, conf := p.log.ConfigurationAt(last)
	if conf == nil { // the log begins behind it
		if indexes, err := listCheckpoints(p.o.FS, p.o.Dir, checkpointSuffix); err == nil {
			for _, i := range indexes {
				if c, _, err := readCheckpoint(p.o.FS, p.o.Dir, i, checkpointSuffix); err == nil && i <= last {
					conf = c.conf
				}
			}
		}
	}
	if c, err := raftconf.Decode(conf); err == nil && conf != nil {
		s.Voters, _ = split(c)
	}
	return s
}

// ErrGoneOn: the replica is not what it was when it was chosen. Its log ends before, or another term came after.
var ErrGoneOn = errors.New("partition: the replica is not as it was when it was chosen")

// Recover makes the replica in o.Dir the only voter of its group, whatever it may have lost: the choice of safety rule 13
// fell on it. Its log gets a configuration of at least the given term, which is above all that the group has seen; its
// votes follow. Nothing else may use the folder. On return that is durable and the replica is clean: Open starts it. A crash in
// between is made up for by calling it again; once done, it does nothing. wantTerm and wantIndex are where its log ended
// when it was chosen.
func Recover(o Options, term, wantTerm, wantIndex uint64) error {
	p := newPartition(o)
	err := p.recoverAlone(term, wantTerm, wantIndex)
	if p.log != nil {
		err = errors.Join(err, p.log.Close())
	}
	if err != nil {
		return fmt.Errorf("recover %s-%d in %s: %w", o.Topic, o.ID, o.Dir, err)
	}
	return nil
}

func (p *Partition) recoverAlone(term, wantTerm, wantIndex uint64) error {
	voted, _, err := participation(p.o.Votes)
	if err != nil {
		return err
	}
	if err := p.openLog(voted); err != nil {
		return err
	}
	last := p.log.LastIndex()
	lastTerm, _ := p.log.Term(last)
	alone := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: p.o.Self.ServerID(), Address: raft.ServerAddress(p.o.Self.String()),
	}}})
	typ, payload, _ := p.log.Type(last)
	done := lastTerm >= term && typ == segment.Configuration && bytes.Equal(payload, alone)
	switch {
	case done:
	case lastTerm >= term, lastTerm < wantTerm, lastTerm == wantTerm && last < wantIndex:
		return fmt.Errorf("%w: its log ends at entry %d of term %d", ErrGoneOn, last, lastTerm)
	}
	if !done {
		// What is written from here on must not make the log look clean before it is.
		p.identity.unclean = true
		if err := writeIdentity(p.o.FS, p.o.Dir, p.identity); err != nil {
			return err
		}
		if err := p.forgetBeyond(last); err != nil {
			return err
		}
	}
	now, err := p.o.Votes.GetUint64([]byte(keyCurrentTerm))
	if err != nil && err.Error() != "not found" {
		return fmt.Errorf("read %s: %w", keyCurrentTerm, err)
	}
	if !done && now >= term { // it stood for election since
		term = now + 1
	}
	if now < term {
		if err := p.o.Votes.SetUint64([]byte(keyCurrentTerm), term); err != nil {
			return fmt.Errorf("save %s: %w", keyCurrentTerm, err)
		}
	}
	if !done {
		entry := segment.NewEntry{Index: last + 1, Term: term, Type: segment.Configuration, Data: alone}
		if err := p.log.Append([]segment.NewEntry{entry}); err != nil {
			return err
		}
	}
	if err := p.log.Sync(); err != nil {
		return err
	}
	p.identity.unclean, p.identity.emptyOK, p.identity.voteFloor = false, false, 0
	return errors.Join(p.log.Close(), writeIdentity(p.o.FS, p.o.Dir, p.identity))
}

// forgetBeyond removes what speaks of entries behind the last: they are lost, and others will stand in their place.
func (p *Partition) forgetBeyond(last uint64) error {
	if term, ok := p.log.Term(p.mark.last.index); p.mark.last.index > 0 && (!ok || term != p.mark.last.term) {
		if err := p.mark.reset(); err != nil {
			return err
		}
	}
	indexes, err := listCheckpoints(p.o.FS, p.o.Dir, checkpointSuffix)
	if err != nil {
		return err
	}
	for _, i := range indexes {
		if i <= last {
			continue
		}
		if err := removeFile(p.o.FS, checkpointPath(p.o.Dir, i, checkpointSuffix)); err != nil {
			return err
		}
	}
	return p.o.FS.SyncDir(p.o.Dir)
}
