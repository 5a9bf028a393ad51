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

	Voters   []string `json:"voters"`
	Learners []string `json:"learners"`
}

// Status is what a broker says of itself.
type Status struct {
	MetadataVersion uint64    `json:"metadata_version"`
	Local           []Replica `json:"local_replicas"`
}

// Status asks the broker's HTTP port.
func (n *Node) Status(ctx context.Context) (Status, error) {
	var s Status
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTPAddr+"/v1/cluster", nil)
	if err != nil {
		return s, err
	}
	resp, err := n.c.httpClient().Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&s)
}

// Replicas asks the broker's HTTP port for its replicas.
func (n *Node) Replicas(ctx context.Context) ([]Replica, error) {
	s, err := n.Status(ctx)
	return s.Local, err
}

// WaitWhole waits until every broker is a voter of each partition of a topic and holds all that any of them had
// committed when the call began, metadata included. Unlike the in-sync set, it does not believe what was true before a
// broker fell.
func (c *Cluster) WaitWhole(ctx context.Context, topic string, partitions int32) error {
	marks := map[int32]int64{}
	var version uint64
	for _, n := range c.Nodes {
		s, err := n.Status(ctx)
		if err != nil {
			continue
		}
		version = max(version, s.MetadataVersion)
		for _, r := range s.Local {
			if r.Topic == topic {
				marks[r.Partition] = max(marks[r.Partition], r.HighWatermark)
			}
		}
	}
	for {
		state := ""
		for _, n := range c.Nodes {
			if !n.Running() {
				return fmt.Errorf("%s is not whole: broker %d ended: %s", topic, n.ID, n.Tail(1000))
			}
			s, err := n.Status(ctx)
			if err != nil {
				state = err.Error()
				break
			}
			if s.MetadataVersion < version {
				state = fmt.Sprintf("broker %d has metadata %d of %d", n.ID, s.MetadataVersion, version)
			}
			sound := 0
			for _, r := range s.Local {
				if r.Topic != topic {
					continue
				}
				if r.Error != "" || r.HighWatermark < marks[r.Partition] || len(r.Voters) != len(c.Nodes) || len(r.Learners) > 0 {
					state = fmt.Sprintf("broker %d, partition %d: %s, high watermark %d of %d, %d voters, %d learners, %s",
						n.ID, r.Partition, r.State, r.HighWatermark, marks[r.Partition], len(r.Voters), len(r.Learners), r.Error)
					continue
				}
				sound++
			}
			if sound != int(partitions) && state == "" {
				state = fmt.Sprintf("broker %d has %d of %d replicas", n.ID, sound, partitions)
			}
		}
		if state == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not whole: %s: %w", topic, state, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
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
