package partition

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// verifier lets the callers that come while a round is under way share the next one: a round that began before a call
// proves nothing to it.
type verifier struct {
	mu            sync.Mutex
	running, next *verifyRound
}

type verifyRound struct {
	done chan struct{}
	err  error
}

// VerifyLeader confirms leadership with a majority; calls under way share one round.
func (p *Partition) VerifyLeader(ctx context.Context) error {
	epoch, err := p.serving()
	if err != nil {
		return err
	}
	v := &p.verify
	v.mu.Lock()
	r := v.next
	if r == nil {
		r = &verifyRound{done: make(chan struct{})}
		if v.running == nil {
			v.running = r
			go p.verifyRounds(r)
		} else {
			v.next = r
		}
	}
	v.mu.Unlock()
	select {
	case <-r.done:
	case <-ctx.Done():
		return fmt.Errorf("%w: no majority confirmed the leader: %w", ErrTimedOut, ctx.Err())
	case <-p.closing:
		return ErrClosed
	}
	if r.err != nil {
		return fmt.Errorf("%w: %w", ErrNotLeader, r.err)
	}
	if e, ok := p.Leading(); !ok || e != epoch {
		return ErrNotLeader
	}
	return nil
}

// verifyRounds runs r, and then the rounds that were asked for meanwhile. Raft answers each, or hangs at its shutdown:
// callers wait for closing too, and failStop closes the group.
func (p *Partition) verifyRounds(r *verifyRound) {
	v := &p.verify
	for r != nil {
		answer := make(chan error, 1)
		g := p.group.Load()
		go func() { answer <- g.raft.VerifyLeader().Error() }()
		select {
		case r.err = <-answer:
		case <-g.ended:
			r.err = errors.New("the group ended")
		}
		close(r.done)
		v.mu.Lock()
		r, v.next = v.next, nil
		v.running = r
		v.mu.Unlock()
	}
}
