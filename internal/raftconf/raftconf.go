// Package raftconf reads a Raft group's configuration that came from a disk or a wire. Raft itself panics on bytes that
// are none, and the whole broker would go down for one group (safety rule 7).
package raftconf

import (
	"fmt"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

// Decode is raft.DecodeConfiguration with an error for bytes that are no configuration. It decodes by itself first, from
// the bytes and not from a stream, as raft does: a length that is claimed must be there before memory is taken for it.
func Decode(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("a configuration of %d bytes that cannot be read: %v", len(b), r)
		}
	}()
	if err := codec.NewDecoderBytes(b, &codec.MsgpackHandle{}).Decode(&c); err != nil {
		return c, fmt.Errorf("a configuration of %d bytes that cannot be read: %w", len(b), err)
	}
	return raft.DecodeConfiguration(b), nil
}
