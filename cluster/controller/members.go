package controller

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
)

const (
	// memberTimeout bounds one change of the configuration.
	memberTimeout = 10 * time.Second
	// absentGrace is how long a voter's broker must be away before another takes its vote, and a member that never
	// registered before it is dropped.
	absentGrace = time.Minute
	// maxVoterLag is how many entries a member may lack when it gets a vote: AddVoter counts it at once.
	maxVoterLag = 256
)

func (c *Controller) servers() []raft.Server {
	f := c.raft.Load().GetConfiguration() // answered from a copy, at once
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

func (c *Controller) voters() []raft.ServerID {
	var ids []raft.ServerID
	for _, s := range c.servers() {
		if s.Suffrage == raft.Voter {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// Members are the members of the group as this broker knows them.
func (c *Controller) Members() []MemberStatus {
	var members []MemberStatus
	for _, s := range c.servers() {
		if m, err := parseMember(s.ID); err == nil {
			members = append(members, MemberStatus{Member: m, Voter: s.Suffrage == raft.Voter})
		}
	}
	return members
}

// AddVoter gives a member a vote. Leader only, as are the next three.
func (c *Controller) AddVoter(ctx context.Context, m Member) error {
	return c.change(ctx, "add voter", m, func(r *raft.Raft) raft.Future {
		return r.AddVoter(m.ServerID(), raft.ServerAddress(m.ServerID()), 0, memberTimeout)
	})
}

// AddNonvoter adds a member that follows.
func (c *Controller) AddNonvoter(ctx context.Context, m Member) error {
	return c.change(ctx, "add", m, func(r *raft.Raft) raft.Future {
		return r.AddNonvoter(m.ServerID(), raft.ServerAddress(m.ServerID()), 0, memberTimeout)
	})
}

// Demote takes a member's vote.
func (c *Controller) Demote(ctx context.Context, m Member) error {
	return c.change(ctx, "demote", m, func(r *raft.Raft) raft.Future { return r.DemoteVoter(m.ServerID(), 0, memberTimeout) })
}

// Remove takes a member out. The leader hands over first, and answers ErrNotLeader: the next one is to be asked.
func (c *Controller) Remove(ctx context.Context, m Member) error {
	if m == c.self && len(c.voters()) > 1 {
		if err := c.TransferLeadership(ctx); err != nil {
			return err
		}
		return ErrNotLeader
	}
	return c.change(ctx, "remove", m, func(r *raft.Raft) raft.Future { return r.RemoveServer(m.ServerID(), 0, memberTimeout) })
}

// TransferLeadership hands the controller to another voter, for a clean stop. Nothing to do for a follower.
func (c *Controller) TransferLeadership(ctx context.Context) error {
	r := c.raft.Load()
	if r.State() != raft.Leader {
		return nil
	}
	if err := c.wait(ctx, r.LeadershipTransfer()); err != nil {
		return fmt.Errorf("hand over the controller: %w", err)
	}
	return nil
}

func (c *Controller) change(ctx context.Context, what string, m Member, do func(*raft.Raft) raft.Future) error {
	if err := c.wait(ctx, do(c.raft.Load())); err != nil {
		if errors.Is(err, raft.ErrNotLeader) {
			err = errors.Join(ErrNotLeader, err)
		}
		return fmt.Errorf("controller: %s member %s: %w", what, m, err)
	}
	c.logger.Info("the controller group changed", "what", what, "member", m)
	return nil
}

// Reconcile moves the group's members one step towards what they should be; the node calls it on the leader, every
// second or so and after each new image, with the brokers that gossip holds for alive. It returns whether it changed
// something (then there may be more to do). On a follower it does nothing. Steps, the first that applies:
//
//  1. A member whose broker is registered with another incarnation goes: its disk is gone. So does one whose broker runs as
//     another member of the same disk: its log was damaged.
//  2. A member whose broker is not registered and has been away for a minute goes.
//  3. An alive registered broker that is no member becomes one without a vote.
//  4. Too many voters: one goes, the longest dead first, never the leader.
//  5. Too few, counting no voter that has been away for a minute: the first that has caught up gets a vote. From one
//     voter to three only when two can be had: two voters survive less than one.
func (c *Controller) Reconcile(ctx context.Context, alive []Member) (changed bool, err error) {
	if !c.IsLeader() {
		return false, nil
	}
	c.membersMu.Lock()
	defer c.membersMu.Unlock()
	img, members := c.Image(), c.Members()
	c.noteAbsent(members, alive)

	for _, m := range members {
		b := img.Brokers[m.Node]
		switch {
		case m.Member == c.self:
		case b != nil && (!m.OnDisk(b.Incarnation) || replaced(m.Member, alive)), b == nil && c.absentFor(m.Member) >= absentGrace:
			return true, c.Remove(ctx, m.Member)
		}
	}
	for _, m := range alive {
		if registered(img, m) && !slices.ContainsFunc(members, func(s MemberStatus) bool { return s.Node == m.Node }) {
			return true, c.AddNonvoter(ctx, m)
		}
	}
	return c.reconcileVoters(ctx, img, members, alive)
}

func registered(img *meta.Image, m Member) bool {
	b := img.Brokers[m.Node]
	return b != nil && m.OnDisk(b.Incarnation)
}

// replaced: the broker runs as another member of the same disk, for this one's log was damaged.
func replaced(m Member, alive []Member) bool {
	return slices.ContainsFunc(alive, func(a Member) bool { return a.Node == m.Node && a != m && a.OnDisk(m.Incarnation) })
}

func (c *Controller) reconcileVoters(ctx context.Context, img *meta.Image, members []MemberStatus, alive []Member) (bool, error) {
	var voters, candidates []Member
	living := 0 // voters that are not long gone
	for _, m := range members {
		switch {
		case m.Voter:
			voters = append(voters, m.Member)
			if c.absentFor(m.Member) < absentGrace {
				living++
			}
		case slices.Contains(alive, m.Member) && registered(img, m.Member):
			candidates = append(candidates, m.Member)
		}
	}
	if len(voters) > c.o.Voters {
		slices.SortStableFunc(voters, func(a, b Member) int { return int(c.absentFor(b) - c.absentFor(a)) })
		for _, m := range voters {
			if m != c.self {
				return true, c.Demote(ctx, m)
			}
		}
	}
	want := min(c.o.Voters, living+len(candidates))
	if want%2 == 0 {
		want--
	}
	if living >= want {
		return false, nil
	}
	caughtUp := c.caughtUp(ctx, candidates)
	if len(caughtUp) == 0 || len(voters) == 1 && living == 1 && len(caughtUp) < 2 {
		return false, nil
	}
	return true, c.AddVoter(ctx, pickRack(img, voters, caughtUp))
}

// pickRack prefers a broker in a rack without a voter.
func pickRack(img *meta.Image, voters, candidates []Member) Member {
	racks := map[string]bool{}
	for _, m := range voters {
		if b := img.Brokers[m.Node]; b != nil {
			racks[b.Rack] = true
		}
	}
	for _, m := range candidates {
		if !racks[img.Brokers[m.Node].Rack] {
			return m
		}
	}
	return candidates[0]
}

// caughtUp are those candidates that hold nearly all of the log, by id. They are asked together.
func (c *Controller) caughtUp(ctx context.Context, candidates []Member) []Member {
	slices.SortFunc(candidates, func(a, b Member) int { return int(a.Node) - int(b.Node) })
	candidates = candidates[:min(len(candidates), 2*c.o.Voters)]
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	last := c.store.lastIndex.Load()
	ok := make([]bool, len(candidates))
	answered := make(chan struct{}, len(candidates))
	for i, m := range candidates {
		go func() {
			defer func() { answered <- struct{}{} }()
			b, err := c.o.Mux.Call(ctx, m.Node, kindStatus, nil)
			ok[i] = err == nil && len(b) == 16 && binary.BigEndian.Uint64(b) == m.Incarnation &&
				binary.BigEndian.Uint64(b[8:])+maxVoterLag >= last
		}()
	}
	for range candidates {
		<-answered
	}
	var list []Member
	for i, m := range candidates {
		if ok[i] {
			list = append(list, m)
		}
	}
	return list
}

// handleStatus answers with this member's incarnation and the last index it has applied.
func (c *Controller) handleStatus(context.Context, int32, []byte) ([]byte, error) {
	b := binary.BigEndian.AppendUint64(nil, c.self.Incarnation)
	return binary.BigEndian.AppendUint64(b, c.raft.Load().AppliedIndex()), nil
}

// noteAbsent remembers since when members are away, as far as this leader saw it.
func (c *Controller) noteAbsent(members []MemberStatus, alive []Member) {
	seen := map[raft.ServerID]bool{}
	for _, m := range members {
		id := m.ServerID()
		if m.Member == c.self || slices.Contains(alive, m.Member) {
			continue
		}
		seen[id] = true
		if _, ok := c.absent[id]; !ok {
			c.absent[id] = time.Now()
		}
	}
	for id := range c.absent {
		if !seen[id] {
			delete(c.absent, id)
		}
	}
}

func (c *Controller) absentFor(m Member) time.Duration {
	if t, ok := c.absent[m.ServerID()]; ok {
		return time.Since(t)
	}
	return 0
}
