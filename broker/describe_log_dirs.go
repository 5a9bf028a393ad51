package broker

// DescribeLogDirs (key 35, versions 1 to 5)
//
// One directory, with every replica that is open on this broker, or those of the partitions asked for. OffsetLag is how
// far the log's end is below the high watermark: 0 in a sound replica.

import (
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/vfs"
)

func handleDescribeLogDirs(s *Server, _ *requestContext, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = s.config().DataDir()
	if abs, err := filepath.Abs(dir.Dir); err == nil {
		dir.Dir = abs
	}
	if free, total, err := vfs.OS().Free(dir.Dir); err != nil {
		s.log.Warn("cannot tell how full the disk is", "dir", dir.Dir, "error", err)
		dir.ErrorCode = protocol.KafkaStorageError
	} else {
		dir.TotalBytes, dir.UsableBytes = int64(total), int64(free)
	}
	img := s.node.Image()
	if req.Topics == nil {
		for _, t := range img.Topics {
			dir.Topics = s.addReplicas(dir.Topics, t, nil)
		}
	} else {
		seen := map[string]bool{}
		for _, a := range req.Topics {
			if t := img.Topics[a.Topic]; t != nil && !seen[t.Name] {
				seen[t.Name] = true
				wanted := make(map[int32]bool, len(a.Partitions))
				for _, p := range a.Partitions {
					wanted[p] = true
				}
				dir.Topics = s.addReplicas(dir.Topics, t, wanted)
			}
		}
	}
	resp.Dirs = append(resp.Dirs, dir)
	return resp, nil
}

// addReplicas appends the topic's replicas that are open here; wanted nil: all.
func (s *Server) addReplicas(to []kmsg.DescribeLogDirsResponseDirTopic, t *meta.Topic, wanted map[int32]bool) []kmsg.DescribeLogDirsResponseDirTopic {
	rt := kmsg.NewDescribeLogDirsResponseDirTopic()
	rt.Topic = t.Name
	for i := range t.Partitions {
		id := t.Partitions[i].ID
		if wanted != nil && !wanted[id] {
			continue
		}
		p, ok := s.node.Partition(t.ID, id)
		if !ok {
			continue
		}
		st := p.Status()
		rp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		rp.Partition, rp.Size, rp.OffsetLag = id, st.Size, max(0, st.HighWatermark-st.LogEnd)
		rt.Partitions = append(rt.Partitions, rp)
	}
	if len(rt.Partitions) == 0 {
		return to
	}
	return append(to, rt)
}
