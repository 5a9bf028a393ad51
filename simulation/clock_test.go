//go:build linux

package simulation

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/balsa-broker/balsa/cluster"
)

// Rule 19: the clock of one broker after the other jumps by ten hours, on a topic that keeps an hour: nothing is deleted,
// and the broker says why. Without the comparison of clocks all but the active segments go.
func TestRule19JumpedClockDeletesNothing(t *testing.T) {
	for _, limit := range []string{"300000", "0"} {
		dir := tempDir(t)
		synctest.Test(t, func(t *testing.T) {
			o := Options{Seed: 19, Brokers: 3, Dir: dir, Policy: "fsync"}
			o.Timing.Retention = 10 * time.Second
			c := startCluster(t, o)
			ctx, cancel := context.WithTimeout(t.Context(), heals)
			defer cancel()
			n := c.any()
			if err := n.AlterConfigs(ctx, cluster.ResourceBroker, "", map[string]*string{"balsa.clock.max.offset.ms": &limit}, false); err != nil {
				t.Fatal(err)
			}
			topics, errs := n.CreateTopics(ctx, []cluster.TopicSpec{{
				Name: "orders", Partitions: 3, ReplicationFactor: 3,
				Configs: map[string]string{"segment.ms": "10000", "retention.ms": "3600000"},
			}}, false)
			if errs[0] != nil {
				t.Fatal(errs[0])
			}
			topic := topics[0]
			load := c.StartLoad(topic, 1, time.Second)
			time.Sleep(2 * time.Minute)
			if err := load.Finish(heals); err != nil {
				t.Fatal(err)
			}
			deleted := func() (list []string) {
				for p := range topic.Partitions {
					if _, x, err := c.leading(topic.ID, int32(p)); err != nil || x.LogStart() > 0 {
						list = append(list, fmt.Sprintf("partition %d: %v", p, err))
					}
				}
				return list
			}
			for _, b := range c.Brokers {
				for _, jump := range []time.Duration{10 * time.Hour, -10 * time.Hour} {
					b.skew.Store(int64(jump))
					time.Sleep(time.Minute)
					n, _ := b.Node()
					s := n.Status()
					if (s.ClockErr != nil) != (limit != "0") {
						t.Errorf("broker %d is off by %v, limit %s ms, and says: %v", b.ID, -s.ClockOffset, limit, s.ClockErr)
					}
					b.skew.Store(0)
					time.Sleep(time.Minute)
					if err := n.Status().ClockErr; err != nil {
						t.Errorf("broker %d is right again, and says: %v", b.ID, err)
					}
				}
			}
			if d := deleted(); (len(d) > 0) != (limit == "0") {
				t.Errorf("limit %s ms, deleted: %v", limit, d)
			}
		})
	}
}
