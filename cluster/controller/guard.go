package controller

import (
	"errors"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/transport"
)

// guarded is the transport of a member that may have to hold back: while it lacks what it once held it does not stand
// for election (that it does not vote is the transport's own check, of Group.HasConfiguration).
type guarded struct {
	*transport.Endpoint
	mayVote func() bool
}

var _ raft.WithPreVote = (*guarded)(nil) // without it raft drops pre-vote silently

var errMayNotVote = errors.New("controller: this member lost entries and may not stand for election yet")

func (g *guarded) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if !g.mayVote() {
		return errMayNotVote
	}
	return g.Endpoint.RequestVote(id, target, args, resp)
}

func (g *guarded) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !g.mayVote() {
		return errMayNotVote
	}
	return g.Endpoint.RequestPreVote(id, target, args, resp)
}
