package harness

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Batches reads the record batches of one replica from the segment files of a stopped broker: an own walk over the
// frames, so that the product's reader is not its own witness. It returns base offset -> digest of the batch.
func (n *Node) Batches(topic string, partition int32) (map[int64][32]byte, int64, error) {
	dirs, err := filepath.Glob(filepath.Join(n.Dir, "topics", fmt.Sprintf("%s-%d-*", topic, partition)))
	if err != nil {
		return nil, 0, err
	}
	var live []string
	for _, d := range dirs {
		if !strings.Contains(d, ".deleted") {
			live = append(live, d)
		}
	}
	if len(live) != 1 {
		return nil, 0, fmt.Errorf("broker %d: %d folders of %s/%d: %v", n.ID, len(live), topic, partition, live)
	}
	files, err := filepath.Glob(filepath.Join(live[0], "*.log"))
	if err != nil {
		return nil, 0, err
	}
	sort.Strings(files)
	out := map[int64][32]byte{}
	var next int64
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, 0, err
		}
		for len(b) >= 17 {
			size := 12 + int(int32(binary.BigEndian.Uint32(b[8:])))
			if size <= 12 || size > len(b) {
				break // preallocated zeros
			}
			if b[16] == 2 {
				base := int64(binary.BigEndian.Uint64(b))
				out[base] = sha256.Sum256(b[:size])
				next = base + int64(int32(binary.BigEndian.Uint32(b[23:]))) + 1
			}
			b = b[size:]
		}
	}
	return out, next, nil
}

// CompareReplicas compares a partition's replicas on stopped brokers, batch by batch, up to limit (a high watermark).
func (c *Cluster) CompareReplicas(topic string, partition int32, limit int64) error {
	var want map[int64][32]byte
	var wantNode int
	for _, n := range c.Nodes {
		got, next, err := n.Batches(topic, partition)
		if err != nil {
			return err
		}
		if next < limit {
			return fmt.Errorf("broker %d holds %s/%d up to %d, not up to %d", n.ID, topic, partition, next, limit)
		}
		for base := range got {
			if base >= limit {
				delete(got, base)
			}
		}
		if want == nil {
			want, wantNode = got, n.ID
			continue
		}
		if len(got) != len(want) {
			return fmt.Errorf("%s/%d: broker %d has %d batches below %d, broker %d has %d", topic, partition, n.ID, len(got), limit, wantNode, len(want))
		}
		for base, sum := range want {
			if g, ok := got[base]; !ok || !bytes.Equal(g[:], sum[:]) {
				return fmt.Errorf("%s/%d: batch at %d differs between brokers %d and %d", topic, partition, base, wantNode, n.ID)
			}
		}
	}
	return nil
}
