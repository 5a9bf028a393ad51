package protocol

// API keys.
const (
	Produce                 int16 = 0
	Fetch                   int16 = 1
	ListOffsets             int16 = 2
	Metadata                int16 = 3
	ApiVersions             int16 = 18
	CreateTopics            int16 = 19
	DeleteTopics            int16 = 20
	DeleteRecords           int16 = 21
	InitProducerID          int16 = 22
	OffsetForLeaderEpoch    int16 = 23
	DescribeConfigs         int16 = 32
	AlterConfigs            int16 = 33
	DescribeLogDirs         int16 = 35
	CreatePartitions        int16 = 37
	IncrementalAlterConfigs int16 = 44
	DescribeCluster         int16 = 60
	ListConfigResources     int16 = 74
	DescribeTopicPartitions int16 = 75
)

// Range of versions of an API.
type Range struct {
	Min, Max int16
	// Advertised is the lowest version that ApiVersions names; it differs from Min for Produce only: a librdkafka that
	// does not see version 0 there takes the broker for one that cannot compress.
	Advertised int16
}

// Versions that Balsa speaks, those of Kafka 4.x brokers. What a broker advertises is the part of it that has a handler.
var Versions = map[int16]Range{
	Produce:                 {Min: 3, Max: 13, Advertised: 0},
	Fetch:                   same(4, 18),
	ListOffsets:             same(1, 11),
	Metadata:                same(0, 13),
	ApiVersions:             same(0, 4),
	CreateTopics:            same(2, 7),
	DeleteTopics:            same(1, 6),
	DeleteRecords:           same(0, 2),
	InitProducerID:          same(0, 5),
	OffsetForLeaderEpoch:    same(2, 4),
	DescribeConfigs:         same(1, 4),
	AlterConfigs:            same(0, 2),
	DescribeLogDirs:         same(1, 5),
	CreatePartitions:        same(0, 3),
	IncrementalAlterConfigs: same(0, 1),
	DescribeCluster:         same(0, 2),
	ListConfigResources:     same(0, 1),
	DescribeTopicPartitions: same(0, 0),
}

func same(lo, hi int16) Range { return Range{Min: lo, Max: hi, Advertised: lo} }
