//go:build linux

package simulation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/protocol/record"
)

const churnPrefix = "churn-"

// churn creates a topic every few minutes, stores a batch in it and deletes it, whatever the faults make of that, until
// stop is closed.
func (c *Cluster) churn(stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(c.between(0, 6*time.Minute)):
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		t, err := c.CreateTopic(ctx, fmt.Sprintf("%s%d", churnPrefix, i), 2)
		cancel()
		if err == nil {
			if _, p, err := c.leading(t.ID, 0); err == nil {
				var w record.Builder
				w.Add(time.Now().UnixMilli(), nil, []byte("churn"))
				p.Append(w.Build(), -1, appendLimit).Result()
			}
		}
		_ = c.deleteChurn()
	}
}

// deleteChurn asks for the deletion of what churn has created.
func (c *Cluster) deleteChurn() error {
	n := c.any()
	if n == nil {
		return errors.New("no broker runs")
	}
	var ids []meta.TopicID
	for name, t := range n.Image().Topics {
		if strings.HasPrefix(name, churnPrefix) {
			ids = append(ids, t.ID)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(n.DeleteTopics(ctx, ids)...)
}

// WaitDeleted deletes what churn has left and waits until no broker knows or holds anything of it.
func (c *Cluster) WaitDeleted(keep meta.TopicID, limit time.Duration) error {
	return c.wait(limit, func() error {
		if err := c.deleteChurn(); err != nil {
			return err
		}
		for _, b := range c.Brokers {
			n, _ := b.Node()
			if n == nil {
				return fmt.Errorf("broker %d is down", b.ID)
			}
			img := n.Image()
			if len(img.Topics) != 1 || img.TopicsByID[keep] == nil {
				return fmt.Errorf("broker %d knows %d topics", b.ID, len(img.Topics))
			}
			want := 0
			for _, p := range img.TopicsByID[keep].Partitions {
				if _, ok := p.OnNode(b.ID); ok {
					want++
				}
			}
			if s := n.Status(); s.Replicas != want {
				return fmt.Errorf("broker %d holds %d replicas of %d", b.ID, s.Replicas, want)
			}
			entries, err := b.disk.FS().ReadDir(b.disk.Dir() + "/topics")
			if err != nil {
				return err
			}
			if len(entries) != want {
				return fmt.Errorf("broker %d has %d replica folders of %d", b.ID, len(entries), want)
			}
		}
		return nil
	})
}
