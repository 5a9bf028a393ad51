package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/votes"
	"github.com/balsa-broker/balsa/partition"
)

// Repair of damaged replicas. One that stopped, or that does not open, because what it holds cannot be believed, takes no
// part in its group any more. Its broker tells the group's leader; the leader, when a majority of the voters answers it
// without that replica, has the metadata give it a successor under a new id on the same broker. The rest is a change of
// members like any other (nextStep): the dead replica leaves the configuration, the new one comes as a learner, catches
// up and votes. docs/design/repair.md.

// repair is this broker's part in it.
type repair struct {
	damaged atomic.Uint64 // replicas found damaged in this run
	rebuilt atomic.Uint64 // of those replaced here: successors that vote again

	mu       sync.Mutex
	under    map[partitionKey]time.Time // being rebuilt on this broker, since when
	others   map[int32]damageList       // as the other brokers say
	told     bool                       // the last list sent was not empty
	nextTell time.Time
}

type damageList struct {
	failures []ReplicaFailure
	at       time.Time
}

// damageReport asks the leader of a partition to have a replica on the asking broker replaced.
type damageReport struct {
	Topic     meta.TopicID `json:"topic"`
	Partition int32        `json:"partition"`
	Replica   uint64       `json:"replica"`
	Reason    string       `json:"reason"`
}

// damageAnswer: Waits says why the replica is not replaced now; "" when it is.
type damageAnswer struct {
	Waits string `json:"waits,omitempty"`
}

const (
	repairTimeout  = 10 * time.Second
	maxToldDamages = 1000            // in one list to the other brokers
	tellDamage     = 3 * time.Second // between two lists
	damageForgets  = 4 * tellDamage
	maxReasonBytes = 1 << 10
	maxReopenPause = 5 * time.Minute
	onlyReplica    = "it is the only replica: there is nothing to rebuild it from"
	noLeaderKnown  = "the partition has no leader: a majority of its replicas has to answer first"
)

// repairLoop looks after the replicas here that stopped or do not open.
func (n *Node) repairLoop(ctx context.Context) {
	for sleep(ctx, n.timing.Repair) {
		for _, r := range n.replicas.open() {
			if p := r.partition(); p != nil && p.Err() != nil && !errors.Is(p.Err(), votes.ErrFailed) {
				n.replicas.stopFailed(r, p)
			}
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, parallelMembers)
		for _, r := range n.replicas.damagedNow(time.Now()) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				n.askForRebuild(ctx, r)
			})
		}
		wg.Wait()
		n.noteRebuilt()
		n.tellDamages()
	}
}

// askForRebuild tells the leader that a replica here is damaged, and keeps what it waits for.
func (n *Node) askForRebuild(ctx context.Context, r *replica) {
	_, mp, ok := n.Image().Lookup(r.key.topic, r.key.part)
	if !ok {
		return
	}
	if _, removing, ok := mp.Find(r.self.ID); !ok || removing {
		return // replaced already: reconcile puts it aside
	}
	waits := n.askLeader(ctx, r, mp)
	if waits == "" {
		n.repair.mu.Lock()
		n.repair.under[r.key] = time.Now()
		n.repair.mu.Unlock()
	}
	n.replicas.setWaits(r, waits)
}

func (n *Node) askLeader(ctx context.Context, r *replica, mp *meta.Partition) (waits string) {
	if len(mp.Replicas) == 1 {
		return onlyReplica
	}
	l, ok := n.Leader(r.key.topic, r.key.part)
	if !ok || l.Node == n.self {
		return noLeaderKnown
	}
	reason := n.replicas.errOf(r).Error()
	payload, err := json.Marshal(damageReport{
		Topic: r.key.topic, Partition: r.key.part, Replica: r.self.ID, Reason: reason[:min(len(reason), maxReasonBytes)],
	})
	if err != nil {
		return err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	b, err := n.call(ctx, l.Node, kindDamaged, payload)
	if err != nil {
		return fmt.Sprintf("the leader, broker %d, cannot be asked: %v", l.Node, err)
	}
	var a damageAnswer
	if err := json.Unmarshal(b, &a); err != nil {
		return fmt.Sprintf("the leader, broker %d, gave no answer: %v", l.Node, err)
	}
	return a.Waits
}

// answerDamaged is the leader's side.
func (n *Node) answerDamaged(from int32, payload []byte) ([]byte, error) {
	var d damageReport
	if err := json.Unmarshal(payload, &d); err != nil {
		return nil, errMalformed
	}
	ctx, cancel := context.WithTimeout(n.ctx, repairTimeout)
	defer cancel()
	var a damageAnswer
	if err := n.replaceDamaged(ctx, from, d); err != nil {
		a.Waits = err.Error()
	}
	return json.Marshal(a)
}

// replaceDamaged gives a damaged replica a successor, if this broker leads its group with a majority of the voters, and
// every other replica of the partition votes: two are never replaced at once.
func (n *Node) replaceDamaged(ctx context.Context, from int32, d damageReport) error {
	r, ok := n.replicas.find(partitionKey{d.Topic, d.Partition})
	if !ok {
		return fmt.Errorf("broker %d has no replica of it", n.self)
	}
	p := r.partition()
	if p == nil {
		return fmt.Errorf("broker %d does not lead it", n.self)
	}
	if _, leading := p.Leading(); !leading {
		return fmt.Errorf("broker %d does not lead it", n.self)
	}
	_, mp, ok := n.Image().Lookup(d.Topic, d.Partition)
	if !ok {
		return errors.New("the partition is not known")
	}
	old, removing, ok := mp.Find(d.Replica)
	switch {
	case removing:
		return nil
	case mp.Recovery != nil:
		return errors.New("the partition is being recovered after a loss of power")
	case !ok || old.Node != from:
		return fmt.Errorf("broker %d has no replica %d of it", from, d.Replica)
	}
	f := p.Raft().GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	if other, ok := notVoting(mp.Replicas, d.Replica, f.Configuration().Servers); ok {
		return fmt.Errorf("replica %s does not vote yet: one is rebuilt or moved at a time", other)
	}
	// The damaged replica does not answer: this is a majority without it, and each entry that was acknowledged is in it.
	if err := p.VerifyLeader(ctx); err != nil {
		return fmt.Errorf("no majority of the replicas answers: %w", err)
	}
	err := n.propose(ctx, repairTimeout, meta.ReplaceReplica{
		Topic: d.Topic, Partition: d.Partition, ID: d.Replica, Epoch: mp.Epoch,
	})
	if err != nil {
		return err
	}
	n.log.Warn("Replica is damaged and gets a successor", "topic", r.topic, "partition", d.Partition, "replica", old.String(), "reason", d.Reason)
	return nil
}

// notVoting is a replica of the target, other than the one named, that is not a voter of the group.
func notVoting(target []meta.Replica, but uint64, servers []raft.Server) (r meta.Replica, ok bool) {
	for _, r := range target {
		votes := slices.ContainsFunc(servers, func(s raft.Server) bool {
			return s.Suffrage == raft.Voter && parseReplica(string(s.ID)) == partition.Replica{Node: r.Node, ID: r.ID}
		})
		if r.ID != but && !votes {
			return r, true
		}
	}
	return meta.Replica{}, false
}

// noteRebuilt counts the successors that vote, and removes what was kept of their predecessors.
func (n *Node) noteRebuilt() {
	img := n.Image()
	whole := func(r *replica) bool { // it votes, and no predecessor of its broker is left
		p := r.partition()
		_, mp, ok := img.Lookup(r.key.topic, r.key.part)
		return ok && p != nil && p.Err() == nil && isVoter(p.Raft(), r.self) &&
			!slices.ContainsFunc(mp.Removing, func(x meta.Replica) bool { return x.Node == n.self })
	}
	n.repair.mu.Lock()
	for k, since := range n.repair.under {
		r, ok := n.replicas.find(k)
		switch {
		case !ok && time.Since(since) > repairTimeout:
			delete(n.repair.under, k) // the topic was deleted, or the replica moved
		case ok && whole(r):
			delete(n.repair.under, k)
			n.repair.rebuilt.Add(1)
			n.log.Info("Replica was rebuilt", "topic", r.topic, "partition", k.part, "replica", raftAddress(r.self), "after", time.Since(since).Round(time.Millisecond))
		}
	}
	n.repair.mu.Unlock()
	if n.followed.Load() {
		n.replicas.clearAside(whole)
	}
}

// tellDamages tells the other brokers which replicas here are damaged, so that each of them can say so.
func (n *Node) tellDamages() {
	now := time.Now()
	n.repair.mu.Lock()
	defer n.repair.mu.Unlock()
	for id, l := range n.repair.others {
		if now.Sub(l.at) > damageForgets {
			delete(n.repair.others, id)
		}
	}
	failures := n.replicas.failures()
	if now.Before(n.repair.nextTell) || len(failures) == 0 && !n.repair.told {
		return
	}
	n.repair.told, n.repair.nextTell = len(failures) > 0, now.Add(tellDamage)
	payload, err := json.Marshal(failures[:min(len(failures), maxToldDamages)])
	if err != nil {
		return
	}
	for _, id := range n.alivePeers() {
		n.mux.Notify(id, kindDamages, payload)
	}
}

func (n *Node) hearDamages(from int32, payload []byte) ([]byte, error) {
	var l damageList
	if err := json.Unmarshal(payload, &l.failures); err != nil {
		return nil, errMalformed
	}
	l.at = time.Now()
	n.repair.mu.Lock()
	defer n.repair.mu.Unlock()
	n.repair.others[from] = l
	return nil, nil
}

// Damaged lists the replicas on a broker that are damaged or do not open: of this one, or as that broker said.
func (n *Node) Damaged(node int32) []ReplicaFailure {
	if node == n.self {
		return n.replicas.failures()
	}
	n.repair.mu.Lock()
	defer n.repair.mu.Unlock()
	return n.repair.others[node].failures
}
