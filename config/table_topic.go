package config

const (
	maxLong = "9223372036854775807"
	dayMs   = "86400000"
)

// with attaches a check and its words to a row.
func (s Setting) with(check func(string) error, words string) *Setting {
	s.check, s.valid = check, words
	return &s
}

func topicRow(name string, t Type, def, doc string, syn ...synonym) Setting {
	return Setting{Name: name, Type: t, Scope: ScopeTopic, Mode: Dynamic, Default: def, Doc: doc, synonyms: syn}
}

// kept marks a setting that is accepted and described (as read-only), and on which Balsa does not act.
func (s Setting) kept(why string) Setting {
	s.inert, s.Why = true, why
	return s
}

// only marks a setting of which the default alone is accepted.
func (s Setting) only(why string) *Setting {
	s.Why, s.fixed, s.valid = why, true, "["+s.Default+"]"
	return &s
}

func from(name string) synonym           { return synonym{name: name} }
func times(name string, n int64) synonym { return synonym{name: name, mul: n} }

const notCompacted = "Kept and described; acts once compaction of the log is there."

// topicSettings are Kafka's topic configurations, in Kafka's order (by name), and flush.policy.
var topicSettings = []*Setting{
	topicRow("cleanup.policy", List, "delete",
		"What happens to old segments: `delete` drops them by age and size, `compact` keeps the newest record of each key; both may be given.",
		from("log.cleanup.policy")).with(oneOf("compact", "delete")),
	topicRow("compression.gzip.level", Int, "-1", "Level when this topic's compression.type is gzip; -1 is the codec's default.",
		from("compression.gzip.level")).with(func(v string) error {
		if v == "-1" {
			return nil
		}
		return gzipLevel(v)
	}, "[1,...,9] or -1"),
	topicRow("compression.lz4.level", Int, "9", "Level when this topic's compression.type is lz4.",
		from("compression.lz4.level")).with(between(1, 17)),
	topicRow("compression.type", String, "producer",
		"The codec of stored batches. `producer` keeps what the producer chose; with any other value batches that differ are rewritten by the leader.",
		from("compression.type")).with(oneOf("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")),
	topicRow("compression.zstd.level", Int, "3", "Level when this topic's compression.type is zstd.",
		from("compression.zstd.level")).with(between(-131072, 22)),
	topicRow("delete.retention.ms", Long, dayMs, "How long tombstones of a compacted topic are kept.",
		from("log.cleaner.delete.retention.ms")).kept(notCompacted).with(atLeast(0)),
	topicRow("file.delete.delay.ms", Long, "60000", "How long the file of a deleted segment stays on disk, for reads that are under way.",
		from("log.segment.delete.delay.ms")).with(atLeast(0)),
	topicRow("flush.messages", Long, maxLong, "Records between two forced syncs.",
		from("log.flush.interval.messages")).kept("Kept and described; flush.policy decides when bytes are made durable.").with(atLeast(1)),
	topicRow("flush.ms", Long, maxLong, "Milliseconds between two forced syncs.",
		from("log.flush.interval.ms")).kept("Kept and described; flush.policy decides when bytes are made durable.").with(atLeast(0)),
	topicRow("flush.policy", String, "fsync",
		"When an append counts: `fsync`, on disk at a majority of the replicas; `replicated`, in the page cache of a majority and flushed in the background (losable when a majority loses power at once).",
		from("balsa.flush.policy")).with(oneOf("fsync", "replicated")),
	topicRow("follower.replication.throttled.replicas", List, "", "Replicas (`partition:broker`, or `*`) whose copying is throttled on the follower's side.").
		kept("Kept and described; acts once reassignment is there.").with(throttled()),
	topicRow("index.interval.bytes", Int, "4096", "Bytes of log between two entries of the sparse index.",
		from("log.index.interval.bytes")).with(atLeast(0)),
	topicRow("leader.replication.throttled.replicas", List, "", "Replicas (`partition:broker`, or `*`) whose copying is throttled on the leader's side.").
		kept("Kept and described; acts once reassignment is there.").with(throttled()),
	topicRow("local.retention.bytes", Long, "-2", "Size of the local part of a tiered log; -2 means retention.bytes.",
		from("log.local.retention.bytes")).kept("Kept and described; there is no tiered storage.").with(atLeast(-2)),
	topicRow("local.retention.ms", Long, "-2", "Age of the local part of a tiered log; -2 means retention.ms.",
		from("log.local.retention.ms")).kept("Kept and described; there is no tiered storage.").with(atLeast(-2)),
	topicRow("max.compaction.lag.ms", Long, maxLong, "The longest that a record of a compacted topic stays uncompacted.",
		from("log.cleaner.max.compaction.lag.ms")).kept(notCompacted).with(atLeast(1)),
	topicRow("max.message.bytes", Int, "1048588", "The largest record batch, after compression.",
		from("message.max.bytes")).with(atLeast(0)),
	topicRow("message.timestamp.after.max.ms", Long, "3600000", "How far a record's timestamp may lie ahead of the broker's clock (CreateTime only).",
		from("log.message.timestamp.after.max.ms")).with(atLeast(0)),
	topicRow("message.timestamp.before.max.ms", Long, maxLong, "How far a record's timestamp may lie behind the broker's clock (CreateTime only).",
		from("log.message.timestamp.before.max.ms")).with(atLeast(0)),
	topicRow("message.timestamp.type", String, "CreateTime", "Whose clock stamps records: the producer's (CreateTime) or the leader's (LogAppendTime).",
		from("log.message.timestamp.type")).with(oneOf("CreateTime", "LogAppendTime")),
	topicRow("min.cleanable.dirty.ratio", Double, "0.5", "The part of a compacted log that is uncompacted before it is compacted again.",
		from("log.cleaner.min.cleanable.ratio")).kept(notCompacted).with(ratio()),
	topicRow("min.compaction.lag.ms", Long, "0", "The shortest that a record of a compacted topic stays uncompacted.",
		from("log.cleaner.min.compaction.lag.ms")).kept(notCompacted).with(atLeast(0)),
	topicRow("min.insync.replicas", Int, "1",
		"In-sync replicas that acks=all needs. An append always waits for a majority; a larger number here waits for that many.",
		from("min.insync.replicas")).with(atLeast(1)),
	topicRow("preallocate", Boolean, "false", "Reserve a whole segment's space when it is made.",
		from("log.preallocate")).only("Segments are preallocated in growing chunks, never whole."),
	topicRow("remote.storage.enable", Boolean, "false", "Tiered storage for this topic.").only("There is no tiered storage."),
	topicRow("retention.bytes", Long, "-1", "Size of a partition's log above which the oldest segments are deleted; -1 is no limit.",
		from("log.retention.bytes")).with(atLeast(-1)),
	topicRow("retention.ms", Long, "604800000", "Age at which segments are deleted; -1 keeps them for ever.",
		from("log.retention.ms"), times("log.retention.minutes", 60_000), times("log.retention.hours", 3_600_000)).with(atLeast(-1)),
	topicRow("segment.bytes", Int, "1073741824", "Size at which a new segment is begun.",
		from("log.segment.bytes")).with(atLeast(1 << 20)),
	topicRow("segment.index.bytes", Int, "10485760", "Size of a segment's index.",
		from("log.index.size.max.bytes")).kept("Kept and described; the sparse index grows with its segment.").with(atLeast(4)),
	topicRow("segment.jitter.ms", Long, "0", "Random time taken off segment.ms so that segments do not all roll at once.",
		from("log.roll.jitter.ms"), times("log.roll.jitter.hours", 3_600_000)).with(atLeast(0)),
	topicRow("segment.ms", Long, "604800000", "Age at which a new segment is begun.",
		from("log.roll.ms"), times("log.roll.hours", 3_600_000)).with(atLeast(1)),
	topicRow("unclean.leader.election.enable", Boolean, "false", "Whether a replica outside the in-sync set may lead.",
		from("unclean.leader.election.enable")).only("A leader always has every acknowledged record."),
}
