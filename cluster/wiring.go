package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/transport"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/vfs"
)

// What the parts of a node need of one another.

func (n *Node) call(ctx context.Context, node int32, k kind, payload []byte) ([]byte, error) {
	return n.mux.Call(ctx, node, k, payload)
}

func (n *Node) timeoutNow(id uint64) error         { return n.mux.TimeoutNow(id) }
func (n *Node) gone(node int32) bool               { return !n.alive.isAlive(node) }
func (n *Node) replica(id uint64) (*replica, bool) { return n.replicas.get(id) }
func (n *Node) openReplicas() []*replica           { return n.replicas.open() }
func (n *Node) restart(r *replica)                 { n.replicas.restart(r) }
func (n *Node) resigned(l *leadership) {
	if r, ok := n.replicas.find(l.key); ok {
		n.failover.resigned(r, l.node)
	}
}
func (n *Node) deleteVotes(id uint64) error { return n.votes.Delete(id) }
func (n *Node) replicaOpened(r *replica)    { n.failover.opened(r) }
func (n *Node) replicaGone(*replica)        {}
func (n *Node) replicaDamaged()             { n.repair.damaged.Add(1) }

func (n *Node) alivePeers() []int32 {
	return slices.DeleteFunc(n.alive.list(), func(id int32) bool { return id == n.self })
}

func (n *Node) knownMembers() map[int32]member {
	select {
	case <-n.started:
		return n.gossip.known()
	default:
		return nil
	}
}

// resolve finds a broker's address: gossip's is the newest, then that of its registration, then where it was last
// seen before a restart.
func (n *Node) resolve(node int32) (string, bool) {
	select {
	case <-n.started:
	default:
		return "", false
	}
	if m, ok := n.gossip.member(node); ok && m.ClusterAddr != "" {
		return m.ClusterAddr, true
	}
	if b := n.Image().Brokers[node]; b != nil && b.ClusterAddr != "" {
		return b.ClusterAddr, true
	}
	if h, ok := n.gossip.hint(node); ok && h.Cluster != "" {
		return h.Cluster, true
	}
	return "", false
}

// onPeer hears of connections. It must not block.
func (n *Node) onPeer(e transport.PeerEvent) {
	select {
	case <-n.started:
	default:
		return
	}
	switch {
	case e.Up:
		n.alive.setRefused(e.Node, false)
		n.failover.nodeUp(e.Node)
		n.announce.pull(e.Node)
	case e.Refused:
		n.alive.setRefused(e.Node, true)
	}
}

// onAlive hears of brokers that went or came, from whatever sign.
func (n *Node) onAlive(node int32, alive bool) {
	if alive {
		n.log.Info("Broker is reachable", "node", node)
		n.announce.pull(node)
		return
	}
	n.log.Warn("Broker is gone", "node", node)
	n.failover.nodeDown()
	if n.ctx.Err() == nil {
		go n.replaceController(node)
	}
}

// pingLoop tells every known broker that this one lives.
func (n *Node) pingLoop(ctx context.Context) {
	for sleep(ctx, n.timing.Ping) {
		for _, id := range n.knownBrokers() {
			n.mux.Notify(id, kindPing, nil)
		}
		n.alive.update()
	}
}

func (n *Node) knownBrokers() []int32 {
	ids := make(map[int32]bool)
	for id, m := range n.gossip.known() {
		if m.Alive {
			ids[id] = true
		}
	}
	for id := range n.Image().Brokers {
		ids[id] = true
	}
	delete(ids, n.self)
	return slices.Collect(maps.Keys(ids))
}

// imageLoop follows the metadata: the cluster id, the dynamic configuration, the replicas.
func (n *Node) imageLoop(ctx context.Context) {
	var seen *meta.Image
	retry := time.NewTicker(replicaRetry)
	defer retry.Stop()
	for {
		changed := n.ctl.Changed()
		img := n.Image()
		if img != seen && n.adopt(img) {
			d := meta.Diff(seen, img)
			if d.ClusterConfig || len(d.BrokerConfigs) > 0 {
				c, err := n.opt.Config.With(img.ClusterConfig, img.BrokerConfig[n.self])
				if err != nil {
					n.log.Warn("Some dynamic settings are not usable", "err", err)
				}
				n.config.Store(c)
			}
			n.replicas.configsChanged(img, &d)
			if len(d.Removed) > 0 {
				n.leaders.prune(func(k partitionKey) bool { return img.TopicsByID[k.topic] != nil })
			}
			seen = img
		}
		if seen != nil {
			n.replicas.reconcile(seen)
			n.followed.Store(true)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-n.again:
			// A thousand replicas that are opened each ask for another pass, which looks at all of them.
			sleep(ctx, reconcilePause)
		case <-retry.C:
		}
	}
}

func (n *Node) reconcileSoon() {
	select {
	case n.again <- struct{}{}:
	default:
	}
}

// adopt takes the cluster id of the metadata over, once and durably; metadata of another cluster is not followed.
func (n *Node) adopt(img *meta.Image) bool {
	if img.ClusterID == "" {
		return false
	}
	switch id := n.clusterID(); id {
	case img.ClusterID:
		return true
	case "":
	default:
		err := wrongCluster(n.opt.DataDir, id, img.ClusterID)
		n.mu.Lock()
		n.imageErr = err
		n.mu.Unlock()
		n.log.Error("Metadata of another cluster", "err", err)
		return false
	}
	next := n.identity
	next.ClusterID = img.ClusterID
	if err := next.save(n.opt.FS, n.opt.DataDir); err != nil {
		n.log.Error("Keeping the cluster id", "err", err)
		return false
	}
	n.cluster.Store(&next.ClusterID)
	if err := n.gossip.setTags(map[string]string{tagClusterID: img.ClusterID, tagState: "1"}); err != nil {
		n.log.Warn("Telling the cluster id", "err", err)
	}
	n.log.Info("Member of the cluster", "cluster", img.ClusterID, "node", n.self)
	return true
}

// topicConfig resolves a topic's configuration.
func (n *Node) topicConfig(t *meta.Topic) config.Topic {
	c, err := config.ResolveTopic(t.Configs, n.Config())
	if err != nil {
		n.log.Warn("Some settings of a topic are not usable", "topic", t.Name, "err", err)
	}
	return c
}

// onLeader is called by a partition whose replica began or ceased to lead.
func (n *Node) onLeader(r *replica, leading bool, epoch int32) {
	l := &leadership{key: r.key, node: n.self, epoch: epoch, resigned: !leading}
	if leading {
		r.hadLeader.Store(true)
		l.seq = 1
		if o := r.order.Load(); o != nil {
			for _, x := range *o {
				if n.alive.isAlive(x.Node) {
					l.inSync = append(l.inSync, x.Node)
				}
			}
		}
	}
	n.announce.announce(l)
	n.failover.kick()
}

// leadersLoop announces changed in-sync sets, and compares tables from time to time.
func (n *Node) leadersLoop(ctx context.Context) {
	last := time.Now()
	for sleep(ctx, n.timing.ISRAnnounce) {
		for _, r := range n.replicas.open() {
			p := r.partition()
			if p == nil {
				continue
			}
			epoch, leading := p.Leading()
			if !leading {
				continue
			}
			nodes := inSyncNodes(r, p.InSync())
			l, ok := n.leaders.get(r.key)
			if ok && l.node == n.self && l.epoch == epoch && sameNodes(l.inSync, nodes) && !l.resigned {
				continue
			}
			seq := uint32(1)
			if ok && l.epoch == epoch {
				seq = l.seq + 1
			}
			n.announce.announce(&leadership{key: r.key, node: n.self, epoch: epoch, seq: seq, inSync: nodes})
		}
		if time.Since(last) >= n.timing.AntiEntropy {
			last = time.Now()
			n.announce.compare()
		}
	}
}

// inSyncNodes are the brokers of the in-sync replicas in the order of the metadata.
func inSyncNodes(r *replica, inSync []partition.Replica) []int32 {
	out := make([]int32, 0, len(inSync))
	for _, x := range orderVoters(inSync, r.order.Load()) {
		out = append(out, x.Node)
	}
	return out
}

// retentionLoop lets the leaders here delete what is too old or too much.
func (n *Node) retentionLoop(ctx context.Context) {
	for sleep(ctx, n.timing.Retention) {
		for _, r := range n.replicas.open() {
			if p := r.partition(); p != nil {
				if err := p.Retain(ctx); err != nil && !errors.Is(err, partition.ErrNotLeader) && ctx.Err() == nil {
					n.log.Warn("Retention", "topic", r.topic, "partition", r.key.part, "err", err)
				}
			}
		}
	}
}

func loadHints(fsys vfs.FS, dir string) map[int32]peerHint {
	hints := make(map[int32]peerHint)
	if b, err := vfs.ReadFile(fsys, filepath.Join(dir, peersFile), maxMetaSize); err == nil {
		_ = json.Unmarshal(b, &hints) // a hint: a damaged file is as good as none
	}
	return hints
}

func saveHints(fsys vfs.FS, dir string, hints map[int32]peerHint) error {
	b, err := json.Marshal(hints)
	if err != nil {
		return err
	}
	return vfs.WriteFile(fsys, dir, filepath.Join(dir, peersFile), b)
}
