package meta

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
)

// Error is a request refused by the metadata: what a Kafka client gets as code and message.
type Error struct {
	Code    int16
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is makes errors.Is compare by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

func refuse(code *kerr.Error, format string, args ...any) *Error {
	return &Error{Code: code.Code, Message: fmt.Sprintf(format, args...)}
}

// Sentinels to compare with errors.Is; the errors themselves say more.
var (
	ErrTopicExists       = &Error{Code: kerr.TopicAlreadyExists.Code, Message: "topic exists"}
	ErrUnknownTopic      = &Error{Code: kerr.UnknownTopicOrPartition.Code, Message: "unknown topic or partition"}
	ErrUnknownTopicID    = &Error{Code: kerr.UnknownTopicID.Code, Message: "unknown topic ID"}
	ErrInvalidTopic      = &Error{Code: kerr.InvalidTopicException.Code, Message: "invalid topic name"}
	ErrInvalidPartitions = &Error{Code: kerr.InvalidPartitions.Code, Message: "invalid partitions"}
	ErrInvalidFactor     = &Error{Code: kerr.InvalidReplicationFactor.Code, Message: "invalid replication factor"}
	ErrInvalidAssignment = &Error{Code: kerr.InvalidReplicaAssignment.Code, Message: "invalid replica assignment"}
	ErrDuplicateBroker   = &Error{Code: kerr.DuplicateBrokerRegistration.Code, Message: "broker id is taken"}
	ErrUnknownBroker     = &Error{Code: kerr.BrokerIDNotRegistered.Code, Message: "broker is not registered"}
	ErrStaleBroker       = &Error{Code: kerr.StaleBrokerEpoch.Code, Message: "broker has another incarnation"}
	ErrLimit             = &Error{Code: kerr.PolicyViolation.Code, Message: "limit reached"}
	ErrWrongCluster      = &Error{Code: kerr.InconsistentClusterID.Code, Message: "another cluster ID"}
	ErrInvalid           = &Error{Code: kerr.InvalidRequest.Code, Message: "invalid request"}
)
