package partition

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Status for describe commands, metrics and elections.
type Status struct {
	State                                       string // leader, follower, candidate, damaged, closed
	Serving                                     bool
	Term                                        uint64
	Epoch                                       int32
	Leader                                      Replica
	FirstIndex, LastIndex, CommitIndex          uint64
	LastTerm                                    uint64
	LogStart, HighWatermark, LastStable, LogEnd int64
	Size                                        int64
	LastContact                                 time.Duration // since the leader was last heard; 0 on the leader
	Voters, Learners                            []Replica
	InSync                                      []Replica // the leader and the voters within replica.lag.time.max.ms; on the leader only
	Err                                         string
}

// never is LastContact of a replica that has not heard a leader since it started.
const never = 365 * 24 * time.Hour

// Status takes a look at all of it; the fields are not of one instant.
func (p *Partition) Status() Status {
	r := p.Raft()
	s := Status{
		Term: r.CurrentTerm(), Epoch: -1, FirstIndex: p.log.FirstIndex(), LastIndex: p.log.LastIndex(),
		CommitIndex: p.Committed(), LogStart: p.LogStart(), HighWatermark: p.HighWatermark(),
		LastStable: p.LastStableOffset(), LogEnd: p.log.NextOffset(), Size: p.log.Size(),
	}
	s.LastTerm, _ = p.log.Term(s.LastIndex)
	s.Voters, s.Learners = p.members()
	s.Epoch, s.Serving = p.Leading()
	_, id := r.LeaderWithID()
	s.Leader, _ = ParseReplica(string(id))
	switch r.State() {
	case raft.Leader:
		s.State = "leader"
		s.InSync = p.inSyncVoters(s.Voters)
	case raft.Candidate:
		s.State = "candidate"
	case raft.Follower:
		s.State = "follower"
	default:
		s.State = "closed"
	}
	if s.State != "leader" {
		s.LastContact = never
		if t := r.LastContact(); !t.IsZero() {
			s.LastContact = time.Since(t)
		}
	}
	if err := p.failed(); err != nil {
		s.State, s.Err = "damaged", err.Error()
	}
	if p.isClosing() {
		s.State = "closed"
	}
	return s
}

// Raft gives cluster the group for membership changes and elections. It is another one after the group restarted
// (WipeForSnapshot): do not keep it. Leadership is handed over by TransferLeadership only.
func (p *Partition) Raft() *raft.Raft { return p.group.Load().raft }

// members of the latest configuration.
func (p *Partition) members() (voters, learners []Replica) {
	f := p.Raft().GetConfiguration()
	return split(f.Configuration())
}

// split a configuration into those who vote and those who learn.
func split(c raft.Configuration) (voters, learners []Replica) {
	for _, s := range c.Servers {
		r, err := ParseReplica(string(s.ID))
		if err != nil {
			continue
		}
		if s.Suffrage == raft.Voter {
			voters = append(voters, r)
		} else {
			learners = append(learners, r)
		}
	}
	return voters, learners
}

// InSync are the leader and the voters within replica.lag.time.max.ms, as this replica, if it leads, sees them.
func (p *Partition) InSync() []Replica {
	voters, _ := p.members()
	return p.inSyncVoters(voters)
}

func (p *Partition) inSyncVoters(voters []Replica) []Replica {
	var in []Replica
	for _, v := range voters {
		if v == p.o.Self || p.o.ReplicaLag == nil {
			in = append(in, v)
			continue
		}
		if lag, _, ok := p.o.ReplicaLag(v); ok && lag <= p.o.ReplicaLagMax {
			in = append(in, v)
		}
	}
	return in
}

// inSyncCache spares each append the look at every follower.
type inSyncCache struct {
	mu    sync.Mutex
	at    time.Time
	count int
}

const inSyncFor = 50 * time.Millisecond

func (p *Partition) inSyncCount() int {
	c := &p.inSync
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.at.IsZero() && now.Sub(c.at) <= inSyncFor {
		return c.count
	}
	voters, _ := p.members()
	c.count, c.at = len(p.inSyncVoters(voters)), time.Time{}
	if c.count == len(voters) { // good news keeps for a moment, bad news is looked at again
		c.at = now
	}
	return c.count
}

// holders counts the voters that have the entry, this replica among them.
func (p *Partition) holders(index uint64) int {
	voters, _ := p.members()
	n := 0
	for _, v := range voters {
		if v == p.o.Self || p.o.ReplicaLag == nil {
			n++
			continue
		}
		if _, match, ok := p.o.ReplicaLag(v); ok && match >= index {
			n++
		}
	}
	return n
}
