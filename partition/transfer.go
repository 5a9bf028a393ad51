package partition

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// TransferLeadership hands over to r, or to the best follower when r is zero. Appends wait meanwhile, and what is in
// flight is committed first: a transfer that fails would drop some of it and take the rest (safety rule 15). When it
// fails, appends go on in a new epoch of tickets. Never to a replica without a vote, which would depose the leader for
// nothing.
func (p *Partition) TransferLeadership(ctx context.Context, r Replica) error {
	p.mu.Lock()
	err := p.servingLocked()
	if err == nil && p.paused {
		err = errors.New("partition: leadership is being handed over already")
	}
	if err != nil {
		p.mu.Unlock()
		return err
	}
	term := p.term
	p.paused = true
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, transferLimit) // appends wait meanwhile
	defer cancel()
	err = p.transfer(ctx, r, term)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.term != term {
		return err
	}
	if err == nil {
		err = errors.New("partition: leadership did not move")
	}
	// Raft may still refuse applies for a moment: go on when one came through.
	if len(p.inflight) == 0 {
		p.newEpoch()
	}
	p.refence = true
	p.fenceSent = p.fenceSent.Add(-fenceEvery)
	p.kick()
	return err
}

// transferLimit bounds a hand-over, whatever the caller's context says.
const transferLimit = 30 * time.Second

func (p *Partition) transfer(ctx context.Context, r Replica, term uint64) error {
	for {
		p.mu.Lock()
		n := len(p.inflight)
		gone := p.term != term
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room := p.room
		p.mu.Unlock()
		if gone {
			return nil
		}
		if n == 0 {
			break
		}
		select {
		case <-room:
		case <-ctx.Done():
			return fmt.Errorf("hand over leadership: %d appends in flight: %w", n, ctx.Err())
		case <-p.closing:
			return ErrClosed
		}
	}
	g := p.group.Load()
	target, err := p.transferTarget(r)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		done <- g.raft.LeadershipTransferToServer(target.ServerID(), raft.ServerAddress(target.String())).Error()
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		return fmt.Errorf("hand over leadership to %s: %w", target, ctx.Err())
	case <-g.ended:
		return nil
	case <-p.closing:
		return ErrClosed
	}
	p.kick()
	if err != nil {
		return fmt.Errorf("hand over leadership to %s: %w", target, err)
	}
	// Raft said so; the loop takes notice.
	for {
		p.mu.Lock()
		gone := p.term != term
		if p.room == nil {
			p.room = make(chan struct{})
		}
		room := p.room
		p.mu.Unlock()
		if gone {
			return nil
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.closing:
			return ErrClosed
		}
	}
}

// transferTarget checks r, or chooses the follower that has most of the log.
func (p *Partition) transferTarget(r Replica) (Replica, error) {
	voters, _ := p.members()
	var best Replica
	var most uint64
	for _, v := range voters {
		if v == p.o.Self {
			continue
		}
		if r != (Replica{}) {
			if v == r {
				return v, nil
			}
			continue
		}
		match := uint64(0)
		if p.o.ReplicaLag != nil {
			_, match, _ = p.o.ReplicaLag(v)
		}
		if best == (Replica{}) || match > most {
			best, most = v, match
		}
	}
	if best == (Replica{}) {
		if r != (Replica{}) {
			return Replica{}, fmt.Errorf("partition: %s is no voter to hand leadership to", r)
		}
		return Replica{}, errors.New("partition: there is no other voter")
	}
	return best, nil
}
