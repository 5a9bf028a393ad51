package meta

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
)

func (c ChooseReplica) apply(e *edit) (any, error) {
	t, p, ok := e.img.Lookup(c.Topic, c.Partition)
	if !ok {
		return nil, e.img.unknownPartition(c.Topic, c.Partition)
	}
	if r, _, ok := p.Find(c.ID); !ok || r.Incarnation == 0 {
		return nil, refuse(kerr.InvalidReplicaAssignment, "%s-%d has no replica %d", t.Name, p.ID, c.ID)
	}
	if r := p.Recovery; r != nil && r.Replica == c.ID && r.Term == c.Term && r.Last == c.Last && r.Loss == c.Loss {
		return nil, nil // the same request again, after an answer that was lost
	}
	if err := p.checkEpoch(t, max(c.Epoch, 0)); err != nil {
		return nil, err
	}
	next := *p
	next.Recovery = &Recovery{Replica: c.ID, Term: c.Term, Last: c.Last, Loss: c.Loss}
	next.Epoch++
	e.putPartition(t, next)
	return nil, nil
}

func (c FinishRecovery) apply(e *edit) (any, error) {
	t, p, ok := e.img.Lookup(c.Topic, c.Partition)
	if !ok {
		return nil, e.img.unknownPartition(c.Topic, c.Partition)
	}
	if p.Recovery == nil && p.Loss != nil && p.Loss.Replica == c.ID {
		return nil, nil // the same request again, after an answer that was lost
	}
	if p.Recovery == nil || p.Recovery.Replica != c.ID || p.Recovery.Term != c.Term {
		return nil, refuse(kerr.InvalidReplicaAssignment, "%s-%d does not go on from replica %d", t.Name, p.ID, c.ID)
	}
	next := *p
	loss := p.Recovery.Loss
	next.Recovery, next.Loss = nil, &loss
	next.Losses++
	next.Epoch++
	next.Removing = slices.Clone(p.Removing)
	for i := range next.Removing {
		if next.Removing[i].ID != c.ID {
			next.Removing[i].Incarnation = 0 // not in the group any more
		}
	}
	for _, r := range p.Replicas {
		if r.ID != c.ID {
			next = e.succeed(next, r)
		}
	}
	e.putPartition(t, next)
	return nil, nil
}
