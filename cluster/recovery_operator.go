package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
)

// RecoveryPlan says how the replicas of a partition stand, and what going on from one of them would lose.
type RecoveryPlan struct {
	Topic     string            `json:"topic"`
	Partition int32             `json:"partition"`
	Replicas  []RecoveryReplica `json:"replicas"`
	Choice    int32             `json:"choice"`            // the broker from whose log the partition would go on, or goes on; -1: none
	Loss      *RecoveryLoss     `json:"loss,omitempty"`    // what that loses
	Refused   string            `json:"refused,omitempty"` // why it cannot be, or need not be
	Chosen    bool              `json:"chosen"`            // the metadata has the choice
}

// RecoveryReplica is one replica of the partition.
type RecoveryReplica struct {
	Node      int32  `json:"broker"`
	ID        uint64 `json:"replica"`
	State     string `json:"state"` // not heard; unclean; clean; clean, leader
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	LogEnd    int64  `json:"log_end"`
}

// RecoveryLoss is what a choice loses, as far as that is known.
type RecoveryLoss struct {
	FromOffset int64  `json:"from_offset"`
	KnownLost  int64  `json:"known_lost"` // acknowledged records that are known to be lost
	AtMost     string `json:"at_most"`
	Unheard    int32  `json:"replicas_not_heard"`
}

// DescribeLoss says what a data-loss event means.
func DescribeLoss(l *meta.Loss) RecoveryLoss {
	out := RecoveryLoss{FromOffset: l.LogEnd, KnownLost: max(0, l.Known-l.LogEnd), AtMost: "unknown", Unheard: l.Unheard}
	if l.Since > 0 {
		out.AtMost = "what was acknowledged after " + time.UnixMilli(l.Since).UTC().Format(time.RFC3339Nano)
	}
	return out
}

// RecoverPartition is an operator's word on a partition whose voters can elect nobody (safety rule 13). It asks all its
// replicas how they stand and plans to go on from the best log of those that were heard, or from that of node (-1: the best).
// With accept the plan is carried out, whatever the other replicas may have had: they start empty. It is refused while
// the partition has, or can elect, a leader.
func (n *Node) RecoverPartition(ctx context.Context, topic string, part, node int32, accept bool) (*RecoveryPlan, error) {
	img := n.Image()
	t := img.Topics[topic]
	if t == nil || part < 0 || int(part) >= len(t.Partitions) {
		return nil, meta.ErrUnknownTopic
	}
	p := &t.Partitions[part]
	q := newInquiry(img, nil, t, p)
	n.ask(ctx, []*inquiry{q})
	plan := &RecoveryPlan{Topic: topic, Partition: part, Choice: -1}
	for _, r := range q.present {
		s := q.heard[r.ID]
		plan.Replicas = append(plan.Replicas, RecoveryReplica{
			Node: r.Node, ID: r.ID, State: s.state.String(), LastTerm: s.LastTerm, LastIndex: s.LastIndex, LogEnd: s.LogEnd,
		})
	}
	j := judge(q.present, q.heard)
	if j.do == recoveryReplace || j.do == recoveryElect {
		plan.Refused = "a majority of the replicas is whole: nothing needs to be given up"
		return plan, nil
	}
	if node >= 0 && node != j.best.Node {
		i := slices.IndexFunc(q.present, func(r meta.Replica) bool { return r.Node == node && q.heard[r.ID].LastIndex > 0 })
		if i < 0 {
			plan.Refused = fmt.Sprintf("no log of the partition was heard of on broker %d", node)
			return plan, nil
		}
		j.best = q.present[i]
		s := q.heard[j.best.ID]
		j.last = s.end()
		j.loss.Node, j.loss.Replica, j.loss.LogEnd, j.loss.Since = node, j.best.ID, s.LogEnd, 0
	}
	if j.best.ID == 0 {
		plan.Refused = "no log of the partition was heard of"
		return plan, nil
	}
	loss := DescribeLoss(&j.loss)
	plan.Choice, plan.Loss = j.best.Node, &loss
	if !accept {
		return plan, nil
	}
	if _, err := n.ctl.Propose(ctx, n.choice(q, j)); err != nil {
		return plan, err
	}
	plan.Chosen = true
	n.log.Warn("An operator chose the log from which a partition goes on", "topic", topic, "partition", part, "node", plan.Choice)
	return plan, nil
}
