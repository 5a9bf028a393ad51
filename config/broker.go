package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Broker is a broker's configuration with every default resolved. Immutable; With makes another.
type Broker struct {
	static, cluster, own map[string]string // as given: file and flags, dynamic for all, dynamic for this broker
	v                    values
	source               map[string]Source

	messageMaxBytes, socketRequestMaxBytes int // parsed: read per request
	fetchMaxBytes                          int
}

// NewBroker resolves the static configuration (what Load returned).
func NewBroker(static map[string]string) (*Broker, error) {
	for _, name := range slices.Sorted(maps.Keys(static)) {
		s := brokerByName[name]
		if s == nil {
			return nil, unknown(ScopeBroker, name)
		}
		if err := s.Check(static[name]); err != nil {
			return nil, err
		}
	}
	b := resolveBroker(static, nil, nil)
	if b.RaftLeaderLease() > b.RaftHeartbeat()/2 {
		return nil, &Error{
			Name: "balsa.raft.leader.lease.ms",
			Msg:  "balsa.raft.leader.lease.ms must be at most half of balsa.raft.heartbeat.timeout.ms",
		}
	}
	if b.MessageMaxBytes() > b.SocketRequestMaxBytes() {
		return nil, &Error{Name: "message.max.bytes", Msg: "message.max.bytes must not be larger than socket.request.max.bytes"}
	}
	return b, nil
}

// Default is a broker's configuration without any setting.
func Default() *Broker { return resolveBroker(nil, nil, nil) }

// With gives the configuration with the dynamic settings of the metadata over the static ones: cluster for all
// brokers, own for this one (it wins). The result is usable even when an error is returned: settings that are unknown
// or wrong (another version wrote them) are left out, and named in the error.
func (b *Broker) With(cluster, own map[string]string) (*Broker, error) {
	var errs []error
	clean := func(m map[string]string, perBroker bool) map[string]string {
		out := map[string]string{}
		for name, v := range m {
			if err := ValidateBroker(name, v, perBroker); err != nil {
				errs = append(errs, err)
				continue
			}
			out[name] = v
		}
		return out
	}
	return resolveBroker(b.static, clean(cluster, false), clean(own, true)), errors.Join(errs...)
}

func resolveBroker(static, cluster, own map[string]string) *Broker {
	b := &Broker{static: maps.Clone(static), cluster: cluster, own: own, v: values{}, source: map[string]Source{}}
	for _, s := range brokerSettings {
		switch o, c, f := own[s.Name], cluster[s.Name], static[s.Name]; {
		case has(own, s.Name):
			b.v[s.Name], b.source[s.Name] = s.canonical(o), SourceBroker
		case has(cluster, s.Name):
			b.v[s.Name], b.source[s.Name] = s.canonical(c), SourceClusterDefault
		case has(static, s.Name):
			b.v[s.Name], b.source[s.Name] = s.canonical(f), SourceStatic
		case !s.Null:
			b.v[s.Name], b.source[s.Name] = s.Default, SourceDefault
		}
	}
	b.messageMaxBytes = int(b.v.long("message.max.bytes"))
	b.socketRequestMaxBytes = int(b.v.long("socket.request.max.bytes"))
	b.fetchMaxBytes = int(b.v.long("fetch.max.bytes"))
	return b
}

func has(m map[string]string, k string) bool { _, ok := m[k]; return ok }

// ValidateBroker says whether a broker setting may be changed to value while brokers run: for one broker, or for all.
func ValidateBroker(name, value string, perBroker bool) error {
	s := brokerByName[name]
	switch {
	case s == nil:
		return unknown(ScopeBroker, name)
	case s.Mode == ReadOnly:
		return &Error{Name: name, ReadOnly: true, Msg: fmt.Sprintf("Cannot update these configs dynamically: Set(%s)", name)}
	case s.Mode == ClusterWide && perBroker:
		return &Error{Name: name, ReadOnly: true, Msg: fmt.Sprintf("Cannot update these configs at broker level: Set(%s)", name)}
	}
	return s.Check(value)
}

// Get is any setting's resolved value; ok false: null or unknown.
func (b *Broker) Get(name string) (string, bool) { v, ok := b.v[name]; return v, ok }

func (b *Broker) ms(name string) time.Duration { return millis(b.v.long(name)) }

// Who and where. Lists are as given, split; empty means not set.

func (b *Broker) NodeID() int32                 { return int32(b.v.long("node.id")) }
func (b *Broker) Rack() string                  { return b.v["broker.rack"] }
func (b *Broker) DataDir() string               { return b.v["log.dirs"] }
func (b *Broker) Listeners() []string           { return SplitList(b.v["listeners"]) }
func (b *Broker) AdvertisedListeners() []string { return SplitList(b.v["advertised.listeners"]) }
func (b *Broker) ClusterListen() string         { return b.v["balsa.cluster.listen"] }
func (b *Broker) ClusterAdvertise() string      { return b.v["balsa.cluster.advertise"] }
func (b *Broker) GossipListen() string          { return b.v["balsa.gossip.listen"] }
func (b *Broker) GossipAdvertise() string       { return b.v["balsa.gossip.advertise"] }
func (b *Broker) HTTPListen() string            { return b.v["balsa.http.listen"] }
func (b *Broker) Pprof() bool                   { return b.v.bool("balsa.http.pprof.enable") }
func (b *Broker) Join() []string                { return SplitList(b.v["balsa.join"]) }
func (b *Broker) LogLevel() string              { return b.v["balsa.log.level"] }
func (b *Broker) LogFormat() string             { return b.v["balsa.log.format"] }

// BootstrapExpect is 1 without a setting, or 0 with balsa.join (safety rule 3).
func (b *Broker) BootstrapExpect() int {
	if has(b.v, "balsa.bootstrap.expect") {
		return int(b.v.long("balsa.bootstrap.expect"))
	}
	if len(b.Join()) > 0 {
		return 0
	}
	return 1
}

// Topics.

func (b *Broker) AutoCreateTopics() bool { return b.v.bool("auto.create.topics.enable") }
func (b *Broker) DeleteTopics() bool     { return b.v.bool("delete.topic.enable") }
func (b *Broker) NumPartitions() int32   { return int32(b.v.long("num.partitions")) }
func (b *Broker) MaxTopics() int         { return int(b.v.long("balsa.max.topics")) }
func (b *Broker) MaxPartitions() int     { return int(b.v.long("balsa.max.partitions")) }
func (b *Broker) MaxPartitionsPerTopic() int {
	return int(b.v.long("balsa.max.partitions.per.topic"))
}
func (b *Broker) MinInsyncReplicas() int { return int(b.v.long("min.insync.replicas")) }

// DefaultReplicationFactor is -1 when it is not set: the controller then takes min(3, bootstrap-expect) of the cluster.
func (b *Broker) DefaultReplicationFactor() int16 {
	return int16(b.v.long("default.replication.factor"))
}

// Requests and connections.

func (b *Broker) MessageMaxBytes() int       { return b.messageMaxBytes }
func (b *Broker) SocketRequestMaxBytes() int { return b.socketRequestMaxBytes }
func (b *Broker) FetchMaxBytes() int         { return b.fetchMaxBytes }
func (b *Broker) FetchSessionSlots() int {
	return int(b.v.long("max.incremental.fetch.session.cache.slots"))
}
func (b *Broker) MaxConnections() int      { return int(b.v.long("max.connections")) }
func (b *Broker) MaxConnectionsPerIP() int { return int(b.v.long("max.connections.per.ip")) }
func (b *Broker) QueuedMaxBytes() int64    { return b.v.long("queued.max.request.bytes") }
func (b *Broker) ConnectionInflightRequests() int {
	return int(b.v.long("balsa.connection.max.inflight.requests"))
}

func (b *Broker) RequestPartitionLimit() int {
	return int(b.v.long("max.request.partition.size.limit"))
}

// ConnectionsMaxIdle is negative for "never".
func (b *Broker) ConnectionsMaxIdle() time.Duration { return b.ms("connections.max.idle.ms") }

// Logs and replicas.

func (b *Broker) RetentionCheckInterval() time.Duration {
	return b.ms("log.retention.check.interval.ms")
}

// ScrubBytesPerSecond of the background check of logs; 0: none.
func (b *Broker) ScrubBytesPerSecond() int64          { return b.v.long("balsa.scrub.bytes.per.second") }
func (b *Broker) ScrubInterval() time.Duration        { return b.ms("balsa.scrub.interval.ms") }
func (b *Broker) ReplicaLagTimeMax() time.Duration    { return b.ms("replica.lag.time.max.ms") }
func (b *Broker) ProducerIDExpiration() time.Duration { return b.ms("producer.id.expiration.ms") }
func (b *Broker) AutoLeaderRebalance() bool           { return b.v.bool("auto.leader.rebalance.enable") }

func (b *Broker) LeaderImbalanceCheckInterval() time.Duration {
	return 1000 * b.ms("leader.imbalance.check.interval.seconds")
}

// ClockMaxOffset is how far a clock may be from the others' before nothing is deleted by age (safety rule 19); 0: no limit.
func (b *Broker) ClockMaxOffset() time.Duration { return b.ms("balsa.clock.max.offset.ms") }

// DiskMinFree is the room below which produce is refused on a disk of that size (safety rule 14).
func (b *Broker) DiskMinFree(diskBytes int64) int64 {
	if n := b.v.long("balsa.disk.min.free.bytes"); n >= 0 {
		return n
	}
	return min(1<<30, diskBytes/20)
}

// Raft of a partition.

func (b *Broker) RaftHeartbeat() time.Duration   { return b.ms("balsa.raft.heartbeat.timeout.ms") }
func (b *Broker) RaftElection() time.Duration    { return b.ms("balsa.raft.election.timeout.ms") }
func (b *Broker) RaftLeaderLease() time.Duration { return b.ms("balsa.raft.leader.lease.ms") }
func (b *Broker) RaftCommit() time.Duration      { return b.ms("balsa.raft.commit.timeout.ms") }
