//go:build linux

package simulation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/integration/history"
	"github.com/balsa-broker/balsa/partition"
)

// Whole says what keeps a topic from having all its replicas on all disks: nil when every broker runs, every replica
// is open, votes and is in sync, and none waits to be removed.
func (c *Cluster) Whole(id meta.TopicID) error {
	for _, b := range c.Brokers {
		n, _ := b.Node()
		if n == nil {
			return fmt.Errorf("broker %d is down", b.ID)
		}
		if err := n.Ready(); err != nil {
			return fmt.Errorf("broker %d: %w", b.ID, err)
		}
		if s := n.Status(); len(s.Failed) > 0 {
			return fmt.Errorf("broker %d: %s-%d: %s", b.ID, s.Failed[0].Topic, s.Failed[0].Partition, s.Failed[0].Reason)
		}
	}
	n := c.any()
	t := n.Image().TopicsByID[id]
	if t == nil {
		return fmt.Errorf("topic %v is unknown", id)
	}
	for i := range t.Partitions {
		mp := &t.Partitions[i]
		if len(mp.Removing) > 0 {
			return fmt.Errorf("partition %d: replicas %v are to be removed", mp.ID, mp.Removing)
		}
		for _, r := range mp.Replicas {
			n, _ := c.Brokers[r.Node-1].Node()
			if n == nil {
				return fmt.Errorf("broker %d is down", r.Node)
			}
			p, ok := n.Partition(id, mp.ID)
			if !ok {
				return fmt.Errorf("partition %d: replica %v is not open", mp.ID, r)
			}
			if s := p.Status(); s.State == "damaged" || s.State == "closed" {
				return fmt.Errorf("partition %d: replica %v is %s: %s", mp.ID, r, s.State, s.Err)
			}
		}
		_, p, err := c.leading(id, mp.ID)
		if err != nil {
			return err
		}
		s := p.Status()
		for _, r := range mp.Replicas {
			x := partition.Replica{Node: r.Node, ID: r.ID}
			if !slices.Contains(s.Voters, x) {
				return fmt.Errorf("partition %d: replica %v is no voter of %v", mp.ID, r, s.Voters)
			}
			if !slices.Contains(s.InSync, x) {
				return fmt.Errorf("partition %d: replica %v is not in sync", mp.ID, r)
			}
		}
		if len(s.Voters) != len(mp.Replicas) {
			return fmt.Errorf("partition %d: voters %v, replicas %v", mp.ID, s.Voters, mp.Replicas)
		}
	}
	return nil
}

// leading finds the serving leader of a partition.
func (c *Cluster) leading(id meta.TopicID, part int32) (*Broker, *partition.Partition, error) {
	b, n, _, _ := c.leader(id, part)
	if b == nil {
		return nil, nil, fmt.Errorf("partition %d: no leader is known", part)
	}
	p, ok := n.Partition(id, part)
	if !ok {
		return nil, nil, fmt.Errorf("partition %d: the leader's replica on broker %d is not open", part, b.ID)
	}
	if _, ok := p.Leading(); !ok {
		return nil, nil, fmt.Errorf("partition %d: broker %d does not lead it", part, b.ID)
	}
	return b, p, nil
}

// damageHides is how long a broker trusts what it wrote or checked itself (segment: twice checkedFor): a bit that flipped
// in it is met by the leader only then. The checksum tells readers at once.
const damageHides = time.Minute

// Verify is called when the load has finished and all faults are over. Every replica must become whole within limit;
// each is then made the leader in turn and read from start to end: all must hold the same, and it must fit the
// history. It returns what does not.
func (l *Load) Verify(limit time.Duration) []string {
	c := l.c
	if err := c.wait(limit, func() error { return c.Whole(l.Topic.ID) }); err != nil {
		return append(l.Violations(), fmt.Sprintf("stuck: not whole %v after all faults ended: %v", limit, err))
	}
	final := map[int32][]history.Final{}
	var bad []string
	for part := range int32(len(l.Topic.Partitions)) {
		_, mp, _ := c.any().Image().Lookup(l.Topic.ID, part)
		for _, r := range mp.Replicas {
			got, err := l.readFrom(part, r.Node, limit+damageHides)
			if err != nil {
				bad = append(bad, fmt.Sprintf("stuck: partition %d, replica on broker %d: %v", part, r.Node, err))
				continue
			}
			if final[part] == nil {
				final[part] = got
				continue
			}
			if !slices.EqualFunc(final[part], got, func(a, b history.Final) bool {
				return a.Offset == b.Offset && string(a.Value) == string(b.Value)
			}) {
				bad = append(bad, fmt.Sprintf("partition %d: the replica on broker %d holds other records (%d) than the first one read (%d)", part, r.Node, len(got), len(final[part])))
			}
		}
	}
	l.mu.Lock()
	bad = append(bad, l.bad...)
	l.mu.Unlock()
	for _, v := range l.History.Check(final) {
		bad = append(bad, v.String())
	}
	return bad
}

// readFrom makes a broker's replica lead and reads all that it has. The replica may meet damage only now, and be
// replaced first.
func (l *Load) readFrom(part, node int32, limit time.Duration) (out []history.Final, err error) {
	c := l.c
	err = c.wait(limit, func() error {
		_, mp, ok := c.any().Image().Lookup(l.Topic.ID, part)
		if !ok {
			return fmt.Errorf("partition %d is unknown", part)
		}
		r, ok := mp.OnNode(node)
		if !ok {
			return fmt.Errorf("partition %d has no replica on broker %d", part, node)
		}
		b, p, err := c.leading(l.Topic.ID, part)
		if err != nil {
			return err
		}
		if b.ID != r.Node {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			if err := p.TransferLeadership(ctx, partition.Replica{Node: r.Node, ID: r.ID}); err != nil {
				return err
			}
			return fmt.Errorf("leadership is on its way to broker %d", r.Node)
		}
		out = out[:0]
		for next := p.LogStart(); next < p.HighWatermark(); {
			records, err := readAt(p, next, -1)
			if err != nil {
				return err
			}
			if len(records) == 0 {
				return fmt.Errorf("nothing at offset %d below the high watermark %d", next, p.HighWatermark())
			}
			out = append(out, records...)
			next = out[len(out)-1].Offset + 1
		}
		return nil
	})
	return out, err
}

// Heal starts what is down and lets every broker that has a stopped replica start again, once.
func (c *Cluster) Heal() error {
	for _, b := range c.Brokers {
		b.failSync.Store(0)
		b.skew.Store(0)
		n, _ := b.Node()
		if n == nil {
			if err := b.Start(); err != nil {
				return err
			}
		}
	}
	return nil
}
