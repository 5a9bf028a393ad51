package cluster

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/transport"
	"github.com/balsa-broker/balsa/partition"
)

// failover finds leaders for groups that have none, without waiting for Raft's slow timers (safety rule 17). A group
// whose leader's broker is gone, or that knows no leader, is an orphan; orphans are taken in batches through rounds (one
// call per peer for all groups that share it) until they are led.
//
// It only ever moves when a group stands for election. Who wins is Raft's business, so a wrong guess costs a term,
// never data.
type failover struct {
	host failoverHost
	log  *slog.Logger
	t    Timing
	self int32

	mu       sync.Mutex
	orphans  map[uint64]*orphan
	promises map[uint64]promise

	stood atomic.Uint64 // elections that were started here

	wake chan struct{}
	wg   sync.WaitGroup
}

// failoverHost is what the driver needs of the node.
type failoverHost interface {
	call(ctx context.Context, node int32, k kind, payload []byte) ([]byte, error)
	timeoutNow(replica uint64) error
	gone(node int32) bool
	replica(id uint64) (*replica, bool)
	openReplicas() []*replica
	restart(r *replica)
}

type orphan struct {
	r         *replica
	next      time.Time
	rounds    int
	candidate time.Time // since when someone has been standing
	suspect   suspicion
	busy      bool
}

// suspicion: the leader's broker came back or lost its connection, so the leader may be one no more, though Raft here
// still believes in it. Ends with the term.
type suspicion struct {
	leader partition.Replica
	term   uint64
}

const (
	maxRoundGroups = 2000
	maxRetry       = 500 * time.Millisecond
	standTimeout   = 30 * time.Second
)

func newFailover(host failoverHost, self int32, t Timing, logger *slog.Logger) *failover {
	return &failover{
		host: host, log: logger, t: t, self: self, orphans: make(map[uint64]*orphan), promises: make(map[uint64]promise),
		wake: make(chan struct{}, 1),
	}
}

func (f *failover) run(ctx context.Context) {
	defer f.wg.Wait()
	scan := time.NewTicker(f.t.Scan)
	defer scan.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		batch, wait := f.due(time.Now())
		if len(batch) > 0 {
			f.wg.Go(func() { f.round(ctx, batch) })
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-scan.C:
			f.scan()
		case <-f.wake:
		case <-timer.C:
		}
	}
}

func (f *failover) kick() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// due takes the orphans whose time has come, or says how long there is to wait.
func (f *failover) due(now time.Time) (batch []*orphan, wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait = time.Minute
	for _, o := range f.orphans {
		if o.busy {
			continue
		}
		if d := o.next.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		if len(batch) == maxRoundGroups {
			return batch, 0
		}
		o.busy = true
		batch = append(batch, o)
	}
	return batch, wait
}

// scan looks at every local replica: those without a leader become orphans, those with one none.
func (f *failover) scan() {
	now := time.Now()
	for _, r := range f.host.openReplicas() {
		if !f.calm(r) {
			f.look(r, now)
		}
	}
	f.mu.Lock()
	for id, p := range f.promises {
		if now.After(p.until.Add(2 * f.t.DeferFor)) {
			delete(f.promises, id)
		}
	}
	for id, o := range f.orphans {
		if r, ok := f.host.replica(id); !o.busy && (!ok || r != o.r) {
			delete(f.orphans, id)
		}
	}
	f.mu.Unlock()
	f.kick()
}

// nodeDown makes orphans of all groups that node led, at once.
func (f *failover) nodeDown() { f.scan() }

// nodeUp: the connection to node is new, so its process may be. Ask whether it still leads what it led.
func (f *failover) nodeUp(node int32) {
	now := time.Now()
	f.mu.Lock()
	for _, r := range f.host.openReplicas() {
		ra := r.raft()
		if ra == nil {
			continue
		}
		if leader := raftLeader(ra); leader.Node == node && node != f.self {
			o := f.orphans[r.self.ID]
			if o == nil {
				o = &orphan{r: r}
				f.orphans[r.self.ID] = o
			}
			r.calm.Store(nil)
			o.next, o.suspect = now, suspicion{leader: leader, term: ra.CurrentTerm()}
		}
	}
	f.mu.Unlock()
	f.kick()
}

// resigned: node says that it leads r's group no more, though its broker lives. If Raft here still believes in it after
// the time that a hand-over takes, ask around: a replica that stopped sends no heartbeats, and nobody misses them for
// seconds.
func (f *failover) resigned(r *replica, node int32) {
	ra := r.raft()
	if ra == nil {
		return
	}
	leader := raftLeader(ra)
	if leader.Node != node || node == f.self {
		return
	}
	f.mu.Lock()
	o := f.orphans[r.self.ID]
	if o == nil {
		o = &orphan{r: r}
		f.orphans[r.self.ID] = o
	}
	r.calm.Store(nil)
	o.next, o.suspect = time.Now().Add(f.t.DeferFor), suspicion{leader: leader, term: ra.CurrentTerm()}
	f.mu.Unlock()
	f.kick()
}

// calm says, cheaply, that a replica was led at the last look, still is by the same leader, and that this leader lives.
func (f *failover) calm(r *replica) bool {
	ra := r.raft()
	if ra == nil {
		return true
	}
	_, id := ra.LeaderWithID()
	c := r.calm.Load()
	return c != nil && c.id == id && id != "" && !f.host.gone(c.node)
}

// calmLeader is what calm compares with.
type calmLeader struct {
	id   raft.ServerID
	node int32
}

func (r *replica) setCalm(leader partition.Replica) {
	if leader == (partition.Replica{}) {
		r.calm.Store(nil)
		return
	}
	r.calm.Store(&calmLeader{id: raft.ServerID(raftAddress(leader)), node: leader.Node})
}

func (f *failover) look(r *replica, now time.Time) {
	ra := r.raft()
	if ra == nil {
		return
	}
	state, leader := ra.State(), raftLeader(ra)
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.orphans[r.self.ID]
	r.setCalm(partition.Replica{})
	switch {
	case state == raft.Leader || state == raft.Shutdown:
		r.hadLeader.Store(true)
		if o != nil && !o.busy {
			delete(f.orphans, r.self.ID)
			o = nil
		}
		if o == nil && state == raft.Leader {
			r.setCalm(leader)
		}
		return
	case leader != (partition.Replica{}) && !f.host.gone(leader.Node):
		r.hadLeader.Store(true)
		if o != nil && !o.busy && (o.suspect.leader != leader || o.suspect.term != ra.CurrentTerm()) {
			delete(f.orphans, r.self.ID)
			o = nil
		}
		if o == nil {
			r.setCalm(leader)
		}
		return
	case o != nil:
		if leader != (partition.Replica{}) && o.rounds == 0 {
			o.next = now // the leader's broker went while we were waiting for other reasons
		}
		return
	}
	if !isVoter(ra, r.self) {
		return // a learner waits for the voters
	}
	o = &orphan{r: r, next: now}
	switch {
	case leader != (partition.Replica{}): // and gone
	case r.hadLeader.Load():
		o.next = now.Add(f.t.DeferFor) // an election that is under way ends within that
	case r.preferred():
		o.next = r.opened.Add(f.t.ColdPreferred)
	default:
		o.next = r.opened.Add(f.t.ColdOther)
	}
	f.orphans[r.self.ID] = o
}

// opened is called when a replica was opened, so that a new topic need not wait for the next scan.
func (f *failover) opened(r *replica) {
	f.look(r, time.Now())
	f.kick()
}

// asked is one group of a round.
type asked struct {
	o       *orphan
	voters  []partition.Replica
	answers map[partition.Replica]standing
}

// round asks the peers how the groups' other voters stand, and acts on what comes back.
func (f *failover) round(ctx context.Context, batch []*orphan) {
	groups := make([]*asked, 0, len(batch))
	perNode := make(map[int32][]int) // node -> groups to ask it about, by position in groups
	for _, o := range batch {
		g := &asked{o: o, answers: make(map[partition.Replica]standing)}
		mine, ok := f.standing(o.r)
		if ok {
			g.voters = o.r.voters()
			g.answers[o.r.self] = mine
			if mine.state != stateLeader {
				for _, v := range g.voters {
					if v.Node != f.self && !f.host.gone(v.Node) {
						perNode[v.Node] = append(perNode[v.Node], len(groups))
					}
				}
			}
		}
		groups = append(groups, g)
	}
	type reply struct {
		node      int32
		standings []standing
		asked     []int
	}
	replies := make(chan reply, len(perNode))
	cctx, cancel := context.WithTimeout(ctx, f.t.RoundTimeout)
	defer cancel()
	for node, which := range perNode {
		payload := make([]byte, 0, len(which)*questionSize)
		for _, i := range which {
			payload = f.question(groups[i], node).encode(payload)
		}
		f.wg.Go(func() {
			r := reply{node: node, asked: which}
			if b, err := f.host.call(cctx, node, kindRound, payload); err == nil {
				if s, err := decodeStandings(b); err == nil && len(s) == len(which) {
					r.standings = s
				}
			}
			replies <- r
		})
	}
	for range len(perNode) {
		r := <-replies
		if r.standings == nil {
			continue
		}
		for k, i := range r.asked {
			for _, v := range groups[i].voters {
				if v.Node == r.node {
					groups[i].answers[v] = r.standings[k]
				}
			}
		}
	}
	if ctx.Err() != nil {
		return
	}
	var stand []*replica
	for _, g := range groups {
		if f.conclude(g) {
			stand = append(stand, g.o.r)
		}
	}
	f.standAll(stand)
	f.kick()
}

func (f *failover) question(g *asked, node int32) question {
	mine := g.answers[g.o.r.self]
	q := question{asker: g.o.r.self, term: mine.term, last: logPosition{mine.lastTerm, mine.lastIndex}}
	for _, v := range g.voters {
		if v.Node == node {
			q.group = v.ID
			q.before = before(g.o.r.self, v, g.voters)
		}
	}
	return q
}

// standAll puts a TimeoutNow into the inbox of each replica. Raft takes it when it gets to it, so not one by one.
func (f *failover) standAll(stand []*replica) {
	for _, r := range stand {
		// One at a time: a second TimeoutNow that Raft takes after it has won with the first would depose it.
		ra := r.raft()
		if ra == nil || ra.State() != raft.Follower || !r.standing.CompareAndSwap(false, true) {
			continue
		}
		f.stood.Add(1)
		f.wg.Go(func() {
			err := f.host.timeoutNow(r.self.ID)
			if err != nil {
				f.log.Debug("Standing for election", "replica", raftAddress(r.self), "err", err)
			}
			if errors.Is(err, transport.ErrTimeout) {
				time.AfterFunc(standTimeout, func() { r.standing.Store(false) }) // it may still be in Raft's inbox
				return
			}
			r.standing.Store(false)
		})
	}
}

// conclude draws the conclusion of a round for one group; true: stand for election now.
func (f *failover) conclude(g *asked) (stand bool) {
	now := time.Now()
	o := g.o
	f.mu.Lock()
	defer f.mu.Unlock()
	o.busy = false
	o.rounds++
	if len(g.voters) == 0 { // closed meanwhile
		delete(f.orphans, o.r.self.ID)
		return false
	}
	grace := o.candidate.IsZero() || now.Sub(o.candidate) < f.t.CandidateGrace
	v := decide(o.r.self, g.voters, g.answers, grace)
	if v == verdictStand && f.promisedLocked(o.r.self, now) {
		v = verdictDefer
	}
	if v != verdictCandidate && v != verdictStand && v != verdictUnstick {
		o.candidate = time.Time{}
	}
	switch v {
	case verdictLed:
		o.suspect = suspicion{}
		o.next = now.Add(time.Second)
		if g.answers[o.r.self].state == stateLeader {
			delete(f.orphans, o.r.self.ID)
		}
	case verdictStand:
		o.candidate = now
		o.next = now.Add(f.t.CandidateGrace / 4)
		stand = true
	case verdictCandidate:
		if o.candidate.IsZero() {
			o.candidate = now
		}
		o.next = now.Add(f.t.RoundRetry)
	case verdictDefer:
		o.next = now.Add(f.t.DeferFor)
	case verdictUnstick:
		o.next = now.Add(f.t.RoundRetry << min(o.rounds, 3))
		if now.Sub(o.candidate) >= f.t.CandidateStuck {
			o.candidate = time.Time{}
			f.wg.Go(func() { f.host.restart(o.r) })
		}
	default:
		o.next = now.Add(min(f.t.RoundRetry<<min(o.rounds, 8), maxRetry))
	}
	return stand
}

// standing of a local replica.
func (f *failover) standing(r *replica) (standing, bool) {
	p := r.partition()
	if p == nil {
		return standing{}, false
	}
	ra := p.Raft()
	s := standing{term: ra.CurrentTerm(), leader: raftLeader(ra), voter: isVoter(ra, r.self)}
	switch ra.State() {
	case raft.Follower:
		s.state = stateFollower
		if r.standing.Load() {
			s.state, s.leader = stateCandidate, partition.Replica{} // in a moment
		}
	case raft.Candidate:
		s.state = stateCandidate
	case raft.Leader:
		s.state = stateLeader
		s.leader = r.self
	default:
		return standing{}, false
	}
	s.lastIndex = ra.LastIndex()
	s.lastTerm, _ = p.Term(s.lastIndex)
	s.lost = s.state != stateLeader && (s.leader == (partition.Replica{}) || f.host.gone(s.leader.Node))
	return s, true
}

// answer is the other side of a round: how the replicas asked for stand. A follower that has lost its leader too and
// is asked by a better one promises to wait for it, so that not both stand at once.
func (f *failover) answer(payload []byte) ([]byte, error) {
	qs, err := decodeQuestions(payload)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := make([]byte, 0, len(qs)*answerSize)
	for _, q := range qs {
		var s standing
		if r, ok := f.host.replica(q.group); ok {
			if s, ok = f.standing(r); ok && s.state != stateLeader {
				if s.leader == q.asker {
					s.lost = true // it would not ask if it led
				}
				f.mu.Lock()
				s.deferred = f.promisedLocked(r.self, now)
				mine := standing{lastTerm: s.lastTerm, lastIndex: s.lastIndex}
				asker := standing{lastTerm: q.last.term, lastIndex: q.last.index}
				if s.lost && (better(asker, mine) || !better(mine, asker) && q.before) {
					f.promiseLocked(q.group, q.asker, now)
				}
				f.mu.Unlock()
			}
		}
		out = s.encode(out)
	}
	return out, nil
}

func (f *failover) promisedLocked(self partition.Replica, now time.Time) bool {
	p, ok := f.promises[self.ID]
	return ok && now.Before(p.until)
}

// promiseLocked makes a promise unless one was made lately: an asker that can never win must not hold us for ever.
func (f *failover) promiseLocked(group uint64, to partition.Replica, now time.Time) {
	if p, ok := f.promises[group]; ok && now.Before(p.until.Add(f.t.DeferFor)) {
		return
	}
	f.promises[group] = promise{to: to, until: now.Add(f.t.DeferFor)}
}

// leaderless counts the groups with a replica here that have no leader as far as is known.
func (f *failover) leaderless() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.orphans)
}

func raftAddress(r partition.Replica) string {
	return strconv.Itoa(int(r.Node)) + "/" + strconv.FormatUint(r.ID, 10)
}

// parseReplica reads a Raft server id; zero when it is none.
func parseReplica(s string) partition.Replica {
	a, b, ok := strings.Cut(s, "/")
	node, err1 := strconv.ParseInt(a, 10, 32)
	id, err2 := strconv.ParseUint(b, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return partition.Replica{}
	}
	return partition.Replica{Node: int32(node), ID: id}
}

func raftLeader(ra *raft.Raft) partition.Replica {
	_, id := ra.LeaderWithID()
	return parseReplica(string(id))
}

func raftVoters(ra *raft.Raft) []partition.Replica {
	f := ra.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	servers := f.Configuration().Servers
	out := make([]partition.Replica, 0, len(servers))
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			out = append(out, parseReplica(string(s.ID)))
		}
	}
	return out
}

func isVoter(ra *raft.Raft, self partition.Replica) bool {
	return slices.Contains(raftVoters(ra), self)
}
