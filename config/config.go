// Package config is the table of settings: names, types, defaults and limits as Kafka 4.x has them, with Balsa's own.
package config

import "time"

// Topic is a topic's configuration with every default resolved. Immutable.
type Topic struct {
	SegmentBytes       int64
	SegmentAge         time.Duration
	IndexIntervalBytes int
	RetentionTime      time.Duration // < 0: for ever
	RetentionBytes     int64         // < 0: no limit
	MaxMessageBytes    int
	MinInsyncReplicas  int
	CompressionType    string // producer, uncompressed, gzip, snappy, lz4, zstd
	CompressionLevel   int    // of that type; 0: the codec's default
	LogAppendTime      bool
	TimestampBeforeMax time.Duration
	TimestampAfterMax  time.Duration
	CleanupDelete      bool
	CleanupCompact     bool
	FileDeleteDelay    time.Duration
	Fsync              bool // flush.policy: fsync (default) or replicated
}
