package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Replica is what a broker says of one of its replicas.
type Replica struct {
	Topic         string `json:"topic"`
	Partition     int32  `json:"partition"`
	State         string `json:"state"`
	LogStart      int64  `json:"log_start"`
	HighWatermark int64  `json:"high_watermark"`
	LastIndex     uint64 `json:"last_index"`
	Error         string `json:"error"`
}

// Replicas asks the broker's HTTP port for its replicas.
func (n *Node) Replicas(ctx context.Context) ([]Replica, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTPAddr+"/v1/cluster", nil)
	if err != nil {
		return nil, err
	}
	resp, err := n.c.httpClient().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var s struct {
		Local []Replica `json:"local_replicas"`
	}
	return s.Local, json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&s)
}

// WaitReplicated waits until every broker holds each partition of a topic up to the same high watermark. In-sync
// sets don't say that: a replica may lag for replica.lag.time.max.ms.
func (c *Cluster) WaitReplicated(ctx context.Context, topic string, partitions int32) error {
	for {
		state := ""
		marks := map[int32]map[int64]int{}
		for _, n := range c.Nodes {
			rs, err := n.Replicas(ctx)
			if err != nil {
				state = err.Error()
			}
			for _, r := range rs {
				if r.Topic == topic {
					if marks[r.Partition] == nil {
						marks[r.Partition] = map[int64]int{}
					}
					marks[r.Partition][r.HighWatermark]++
				}
			}
		}
		equal := state == "" && len(marks) == int(partitions)
		for _, m := range marks {
			for _, count := range m {
				equal = equal && count == len(c.Nodes)
			}
		}
		if equal {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("replicas of %s differ: %v %s: %w", topic, marks, state, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
