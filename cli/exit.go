package cli

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Exit codes. They are part of the command line's contract: scripts branch on them.
const (
	exitOK          = 0
	exitFailed      = 1   // the command failed
	exitUsage       = 2   // wrong flags or arguments, or a configuration that does not check
	exitNotFound    = 3   // a topic or partition that is not there
	exitExists      = 4   // a topic that is already there
	exitUnreachable = 5   // no broker answered in time
	exitUnhealthy   = 6   // a check said no: health, cluster status --check, segment dump
	exitInterrupted = 130 // stopped by a signal
)

const exitCodeHelp = `   0 done · 1 failed · 2 wrong usage or configuration · 3 not found · 4 already there
   5 no broker answered in time · 6 a check said no · 130 interrupted
`

// usageError is a mistake in the command line or in the configuration.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

// codedError gives an error its exit code.
type codedError struct {
	code int
	err  error
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

func withCode(code int, err error) error { return codedError{code, err} }

func exitCode(err error) int {
	var usage usageError
	var coded codedError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return exitNotFound
	case errors.Is(err, kerr.TopicAlreadyExists):
		return exitExists
	case unreachable(err):
		return exitUnreachable
	}
	return exitFailed
}

// unreachable says whether an error means that no broker answered, as opposed to one that answered with an error.
func unreachable(err error) bool {
	var dial *net.OpError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &dial) ||
		errors.Is(err, kgo.ErrRecordTimeout) || errors.Is(err, kerr.RequestTimedOut)
}
