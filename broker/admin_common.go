package broker

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/config"
	"github.com/balsa-broker/balsa/protocol"
)

// What the administrative APIs share. A request's strings may alias its frame: whatever goes to the node, which keeps
// it, is cloned first.

const (
	// defaultAdminTimeout stands for a timeout_ms of zero or less: "at once" is no answer when a topic is usable only
	// once its partitions have leaders (and clients that send 0 mean "whatever").
	defaultAdminTimeout = 30 * time.Second
	// maxAdminTimeout bounds how long a request may hold its connection.
	maxAdminTimeout = 5 * time.Minute
)

func (r *requestContext) adminTimeout(timeoutMillis int32) (context.Context, context.CancelFunc) {
	d := time.Duration(timeoutMillis) * time.Millisecond
	if d <= 0 {
		d = defaultAdminTimeout
	}
	return context.WithTimeout(r.ctx, min(d, maxAdminTimeout))
}

// refusal is an answer that this broker gives by itself.
func refusal(code int16, msg string) error { return &meta.Error{Code: code, Message: msg} }

// adminError is the code and message for an administrative error; nil gives 0 and nil.
func adminError(err error) (int16, *string) {
	if err == nil {
		return 0, nil
	}
	msg := err.Error()
	var refused *meta.Error
	var invalid *config.Error
	switch {
	case errors.As(err, &refused):
		return refused.Code, &refused.Message
	case errors.As(err, &invalid):
		if invalid.ReadOnly {
			return protocol.InvalidRequest, &msg
		}
		return protocol.InvalidConfig, &msg
	case errors.Is(err, context.DeadlineExceeded):
		msg = "The request timed out; it may still be carried out."
	}
	return codeOf(err), &msg
}

// keep clones a string that may alias the request's frame.
func keep(s string) string { return strings.Clone(s) }

// duplicates gives the keys that occur more than once.
func duplicates[T any, K comparable](items []T, key func(T) K) map[K]bool {
	seen, twice := make(map[K]bool, len(items)), map[K]bool{}
	for _, it := range items {
		k := key(it)
		if seen[k] {
			twice[k] = true
		}
		seen[k] = true
	}
	return twice
}
