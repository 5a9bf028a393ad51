package config

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
)

func brokerRow(name string, t Type, m Mode, def, doc string) Setting {
	return Setting{Name: name, Type: t, Scope: ScopeBroker, Mode: m, Default: def, Doc: doc}
}

func nullRow(name string, t Type, m Mode, doc string) Setting {
	return Setting{Name: name, Type: t, Scope: ScopeBroker, Mode: m, Null: true, Doc: doc}
}

// differs notes Kafka's default and why Balsa's is another.
func (s Setting) differs(kafka, why string) Setting {
	s.Kafka, s.Why = kafka, why
	return s
}

func (s Setting) any() *Setting { return &s }

const maxInt = "2147483647"

// brokerSettings by theme. Those that give topics their defaults have the checks of the topic's setting (see init).
var brokerSettings = []*Setting{
	// Who the broker is and where it listens.
	brokerRow("node.id", Int, ReadOnly, "1", "The broker's id, unique in the cluster, for ever the same.").
		differs("-1", "A single broker starts without any setting.").with(between(0, 1<<31-1)),
	nullRow("broker.rack", String, ReadOnly, "The rack (or zone); replicas of a partition are spread over racks.").any(),
	brokerRow("log.dirs", String, ReadOnly, "./balsa-data", "The data directory; one.").
		differs("/tmp/kafka-logs", "Data belongs beside the program, not in /tmp; one directory.").any(),
	brokerRow("listeners", List, ReadOnly, "PLAINTEXT://127.0.0.1:9092", "Kafka listeners, `NAME://host:port`.").
		differs("PLAINTEXT://:9092", "Listens on this machine only until told otherwise.").with(listener()),
	nullRow("advertised.listeners", List, ReadOnly, "Addresses that clients are told, one per listener by name; default: the listeners.").with(listener()),
	brokerRow("balsa.cluster.listen", String, ReadOnly, "127.0.0.1:9192", "Address for the traffic between brokers.").with(hostPort()),
	nullRow("balsa.cluster.advertise", String, ReadOnly, "The address of it that other brokers use.").with(hostPort()),
	brokerRow("balsa.gossip.listen", String, ReadOnly, "127.0.0.1:9193", "Address for membership gossip (TCP and UDP).").with(hostPort()),
	nullRow("balsa.gossip.advertise", String, ReadOnly, "The address of it that other brokers use.").with(hostPort()),
	brokerRow("balsa.http.listen", String, ReadOnly, "127.0.0.1:9644", "Address for health, metrics and status; empty: none.").any(),
	brokerRow("balsa.http.pprof.enable", Boolean, ReadOnly, "false", "Serve Go's profiles under /debug/pprof/ on the HTTP address.").any(),
	brokerRow("balsa.join", List, ReadOnly, "", "Gossip addresses of brokers to join; retried for ever.").with(hostPort()),
	nullRow("balsa.bootstrap.expect", Int, ReadOnly,
		"The number of brokers that found a new cluster together. Default: 1, and 0 when balsa.join is set: such a broker never founds a cluster.").with(between(0, 1000)),
	brokerRow("balsa.log.level", String, ReadOnly, "info", "The least level that is logged.").with(oneOf("debug", "info", "warn", "error")),
	brokerRow("balsa.log.format", String, ReadOnly, "text", "Format of the log on standard error.").with(oneOf("text", "json")),

	// Topics.
	brokerRow("auto.create.topics.enable", Boolean, ReadOnly, "true", "Create a topic when a client that allows it asks for its metadata.").any(),
	brokerRow("delete.topic.enable", Boolean, ReadOnly, "true", "Whether topics may be deleted.").any(),
	brokerRow("num.partitions", Int, ReadOnly, "1", "Partitions of a topic that is created without a number.").with(atLeast(1)),
	brokerRow("default.replication.factor", Int, ReadOnly, "-1",
		"Replicas of a topic that is created without a number, and of internal topics; -1: the smaller of 3 and balsa.bootstrap.expect.").
		differs("1", "A cluster replicates unless told otherwise.").with(func(v string) error {
		if n, err := strconv.Atoi(v); err != nil || n == 0 || n < -1 || n > 32767 {
			return kafkaWords("Value must be -1 or at least 1")
		}
		return nil
	}, "-1 or [1,...,32767]"),
	brokerRow("balsa.max.topics", Int, ClusterWide, "10000", "Topics in the cluster; CreateTopics refuses more.").with(between(1, 200_000)),
	brokerRow("balsa.max.partitions", Int, ClusterWide, "100000", "Partitions in the cluster; CreateTopics and CreatePartitions refuse more.").with(between(1, 1_000_000)),
	brokerRow("balsa.max.partitions.per.topic", Int, ClusterWide, "10000", "Partitions of one topic.").with(between(1, 100_000)),

	// Defaults of topics.
	brokerRow("compression.gzip.level", Int, ClusterWide, "-1", "Default of the topics' compression.gzip.level.").any(),
	brokerRow("compression.lz4.level", Int, ClusterWide, "9", "Default of the topics' compression.lz4.level.").any(),
	brokerRow("compression.type", String, ClusterWide, "producer", "Default of the topics' compression.type.").any(),
	brokerRow("compression.zstd.level", Int, ClusterWide, "3", "Default of the topics' compression.zstd.level.").any(),
	brokerRow("log.cleaner.delete.retention.ms", Long, ClusterWide, dayMs, "Default of the topics' delete.retention.ms.").any(),
	brokerRow("log.cleaner.max.compaction.lag.ms", Long, ClusterWide, maxLong, "Default of the topics' max.compaction.lag.ms.").any(),
	brokerRow("log.cleaner.min.cleanable.ratio", Double, ClusterWide, "0.5", "Default of the topics' min.cleanable.dirty.ratio.").any(),
	brokerRow("log.cleaner.min.compaction.lag.ms", Long, ClusterWide, "0", "Default of the topics' min.compaction.lag.ms.").any(),
	brokerRow("log.cleanup.policy", List, ClusterWide, "delete", "Default of the topics' cleanup.policy.").any(),
	brokerRow("log.flush.interval.messages", Long, ClusterWide, maxLong, "Default of the topics' flush.messages.").any(),
	nullRow("log.flush.interval.ms", Long, ClusterWide, "Default of the topics' flush.ms.").any(),
	brokerRow("balsa.flush.policy", String, ClusterWide, "fsync", "Default of the topics' flush.policy.").any(),
	brokerRow("log.index.interval.bytes", Int, ClusterWide, "4096", "Default of the topics' index.interval.bytes.").any(),
	brokerRow("log.index.size.max.bytes", Int, ClusterWide, "10485760", "Default of the topics' segment.index.bytes.").any(),
	brokerRow("log.local.retention.bytes", Long, ClusterWide, "-2", "Default of the topics' local.retention.bytes.").any(),
	brokerRow("log.local.retention.ms", Long, ClusterWide, "-2", "Default of the topics' local.retention.ms.").any(),
	brokerRow("log.message.timestamp.after.max.ms", Long, ClusterWide, "3600000", "Default of the topics' message.timestamp.after.max.ms.").any(),
	brokerRow("log.message.timestamp.before.max.ms", Long, ClusterWide, maxLong, "Default of the topics' message.timestamp.before.max.ms.").any(),
	brokerRow("log.message.timestamp.type", String, ClusterWide, "CreateTime", "Default of the topics' message.timestamp.type.").any(),
	brokerRow("log.preallocate", Boolean, ReadOnly, "false", "Default of the topics' preallocate.").only("Segments are preallocated in growing chunks, never whole."),
	brokerRow("log.retention.bytes", Long, ClusterWide, "-1", "Default of the topics' retention.bytes.").any(),
	brokerRow("log.retention.hours", Int, ReadOnly, "168", "Default of the topics' retention.ms, in hours; log.retention.minutes and .ms come first.").any(),
	nullRow("log.retention.minutes", Int, ReadOnly, "Default of the topics' retention.ms, in minutes; log.retention.ms comes first.").any(),
	nullRow("log.retention.ms", Long, ClusterWide, "Default of the topics' retention.ms.").any(),
	brokerRow("log.roll.hours", Int, ReadOnly, "168", "Default of the topics' segment.ms, in hours; log.roll.ms comes first.").any(),
	brokerRow("log.roll.jitter.hours", Int, ReadOnly, "0", "Default of the topics' segment.jitter.ms, in hours; log.roll.jitter.ms comes first.").any(),
	nullRow("log.roll.jitter.ms", Long, ClusterWide, "Default of the topics' segment.jitter.ms.").any(),
	nullRow("log.roll.ms", Long, ClusterWide, "Default of the topics' segment.ms.").any(),
	brokerRow("log.segment.bytes", Int, ClusterWide, "1073741824", "Default of the topics' segment.bytes.").any(),
	brokerRow("log.segment.delete.delay.ms", Long, ClusterWide, "60000", "Default of the topics' file.delete.delay.ms.").any(),
	brokerRow("message.max.bytes", Int, ClusterWide, "1048588", "Default of the topics' max.message.bytes.").any(),
	brokerRow("min.insync.replicas", Int, ClusterWide, "1", "Default of the topics' min.insync.replicas.").any(),
	brokerRow("unclean.leader.election.enable", Boolean, ReadOnly, "false", "Whether a replica outside the in-sync set may lead.").
		only("A leader always has every acknowledged record."),

	// Connections and requests.
	brokerRow("connections.max.idle.ms", Long, ReadOnly, "600000", "Idle connections are closed after this time; -1: never.").with(atLeast(-1)),
	brokerRow("max.connections", Int, ClusterWide, "10000", "Client connections of a broker.").
		differs(maxInt, "A limit on everything.").with(atLeast(0)),
	brokerRow("max.connections.per.ip", Int, ClusterWide, maxInt, "Client connections of a broker from one address.").with(atLeast(0)),
	brokerRow("queued.max.requests", Int, ReadOnly, "500", "Requests that wait for a thread, in Kafka.").
		kept("Kept and described; requests are bounded by their bytes (queued.max.request.bytes) and per connection.").with(atLeast(1)),
	brokerRow("queued.max.request.bytes", Long, ReadOnly, "268435456", "Bytes of requests that are read from all connections and not yet answered; more wait unread.").
		differs("-1", "A limit on everything.").with(atLeast(1)),
	brokerRow("balsa.connection.max.inflight.requests", Int, ReadOnly, "100", "Requests of one connection that are read and not yet answered.").with(between(1, 10000)),
	brokerRow("socket.request.max.bytes", Int, ReadOnly, "104857600", "The largest request.").with(atLeast(1)),
	brokerRow("fetch.max.bytes", Int, ReadOnly, "57671680", "The most that a fetch answers, whatever the client asks for (but for one larger batch).").with(atLeast(1024)),
	brokerRow("max.incremental.fetch.session.cache.slots", Int, ReadOnly, "1000", "Incremental fetch sessions that a broker keeps.").with(atLeast(0)),
	brokerRow("max.request.partition.size.limit", Int, ReadOnly, "2000", "Partitions in one answer of DescribeTopicPartitions.").with(atLeast(1)),

	// Logs and replicas.
	brokerRow("log.retention.check.interval.ms", Long, ReadOnly, "300000", "Time between two looks for segments to delete.").with(atLeast(1)),
	brokerRow("replica.lag.time.max.ms", Long, ReadOnly, "30000", "A follower that has not reached the end of the leader's log for this long is not in sync.").with(atLeast(1)),
	brokerRow("producer.id.expiration.ms", Int, ClusterWide, dayMs, "An idle idempotent producer is forgotten after this time.").with(atLeast(1)),
	brokerRow("auto.leader.rebalance.enable", Boolean, ReadOnly, "true", "Hand leadership back to the preferred (first) replica when it is in sync.").any(),
	brokerRow("leader.imbalance.check.interval.seconds", Long, ReadOnly, "300", "Time between two looks for partitions that their preferred replica does not lead.").with(atLeast(1)),
	brokerRow("leader.replication.throttled.rate", Long, PerBroker, maxLong, "Bytes per second of throttled copying that this broker sends.").
		kept("Kept and described; acts once reassignment is there.").with(atLeast(0)),
	brokerRow("follower.replication.throttled.rate", Long, PerBroker, maxLong, "Bytes per second of throttled copying that this broker receives.").
		kept("Kept and described; acts once reassignment is there.").with(atLeast(0)),
	brokerRow("balsa.scrub.bytes.per.second", Long, PerBroker, "10485760",
		"How much the background check of logs reads, at most; 0: it rests.").with(atLeast(0)),
	brokerRow("balsa.scrub.interval.ms", Long, PerBroker, "604800000",
		"Time from the beginning of one pass of the background check over all logs to the beginning of the next.").with(atLeast(1000)),
	brokerRow("balsa.clock.max.offset.ms", Long, ClusterWide, "300000",
		"Retention by time is suspended on a broker whose wall clock is further than this from those of a majority of the living brokers; 0: never.").with(atLeast(0)),
	brokerRow("balsa.disk.min.free.bytes", Long, PerBroker, "-1",
		"Produce is refused while the data disk has less room than this; -1: the smaller of 1 GiB and a twentieth of the disk; 0: never.").with(atLeast(-1)),

	// Raft, per partition; docs/design/timing.md adds them up.
	brokerRow("balsa.raft.heartbeat.timeout.ms", Long, ReadOnly, "10000", "Silence after which a follower looks for another leader (dead brokers are noticed much sooner, by gossip and connections).").with(between(100, 600_000)),
	brokerRow("balsa.raft.election.timeout.ms", Long, ReadOnly, "10000", "How long a candidate waits for votes.").with(between(100, 600_000)),
	brokerRow("balsa.raft.leader.lease.ms", Long, ReadOnly, "5000", "A leader that has not heard from a majority for this long steps down; at most half of the heartbeat timeout.").with(between(50, 300_000)),
	brokerRow("balsa.raft.commit.timeout.ms", Long, ReadOnly, "2000", "Idle time after which a leader tells its followers the commit index.").with(between(10, 600_000)),
}

func throttled() (func(string) error, string) {
	re := regexp.MustCompile(`^(\*|[0-9]+:[0-9]+)$`)
	return func(v string) error {
		if !re.MatchString(v) {
			return errors.New("must be the literal '*' or a list of partitionId:brokerId")
		}
		return nil
	}, "[partitionId:brokerId],... or *"
}

func listener() (func(string) error, string) {
	re := regexp.MustCompile(`^[A-Za-z0-9_]+://(.*)$`)
	return func(v string) error {
		m := re.FindStringSubmatch(v)
		if m == nil {
			return errors.New("must be NAME://host:port")
		}
		return checkHostPort(m[1])
	}, "NAME://host:port,..."
}

func hostPort() (func(string) error, string) { return checkHostPort, "host:port" }

func checkHostPort(v string) error {
	_, p, err := net.SplitHostPort(v)
	if err != nil {
		return errors.New("must be host:port")
	}
	if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q is not a port", p)
	}
	return nil
}

func gzipLevel(v string) error {
	check, _ := between(1, 9)
	return check(v)
}
