package broker

import (
	"context"
	"errors"

	"github.com/balsa-broker/balsa/partition"
	"github.com/balsa-broker/balsa/protocol"
	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/segment"
)

// errorCodes in the order in which they are tried.
var errorCodes = []struct {
	err  error
	code int16
}{
	{partition.ErrNotLeader, protocol.NotLeaderOrFollower},
	{partition.ErrLeaderNotReady, protocol.NotLeaderOrFollower},
	{partition.ErrClosed, protocol.NotLeaderOrFollower},
	{partition.ErrRestarting, protocol.NotLeaderOrFollower},
	{partition.ErrLost, protocol.NotLeaderOrFollower},
	{partition.ErrFencedEpoch, protocol.FencedLeaderEpoch},
	{partition.ErrUnknownEpoch, protocol.UnknownLeaderEpoch},
	{partition.ErrOffsetOutOfRange, protocol.OffsetOutOfRange},
	{partition.ErrNotEnoughReplicas, protocol.NotEnoughReplicas},
	{partition.ErrNotEnoughAfterAppend, protocol.NotEnoughReplicasAfterAppend},
	{partition.ErrTimedOut, protocol.RequestTimedOut},
	{partition.ErrOutOfOrderSequence, protocol.OutOfOrderSequenceNumber},
	{partition.ErrDuplicateSequence, protocol.DuplicateSequenceNumber},
	{partition.ErrProducerFenced, protocol.InvalidProducerEpoch},
	{partition.ErrUnknownProducer, protocol.UnknownProducerID},
	// Retriable, and clients back off: there is no code for "busy".
	{partition.ErrOverloaded, protocol.RequestTimedOut},
	{partition.ErrDiskFull, protocol.KafkaStorageError},
	{partition.ErrCorrupt, protocol.KafkaStorageError},
	{partition.ErrStorage, protocol.KafkaStorageError},
	{segment.ErrCorrupt, protocol.KafkaStorageError},
	{segment.ErrFailed, protocol.KafkaStorageError},
	{segment.ErrClosed, protocol.NotLeaderOrFollower},
	{segment.ErrNotFound, protocol.OffsetOutOfRange},
	{record.ErrCorrupt, protocol.CorruptMessage},
	{record.ErrTooLarge, protocol.MessageTooLarge},
	{record.ErrTimestamp, protocol.InvalidTimestamp},
	{record.ErrCodec, protocol.UnsupportedCompressionType},
	{errTransactional, protocol.InvalidTxnState},
	{record.ErrInvalid, protocol.InvalidRecord},
	{record.ErrShort, protocol.InvalidRecord},
	{context.DeadlineExceeded, protocol.RequestTimedOut},
	{context.Canceled, protocol.RequestTimedOut},
}

// codeOf maps an error of the lower floors to Kafka's code for it.
func codeOf(err error) int16 {
	if err == nil {
		return 0
	}
	for _, e := range errorCodes {
		if errors.Is(err, e.err) {
			return e.code
		}
	}
	return protocol.UnknownServerError
}
