package controller

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/cluster/meta"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxImage bounds a snapshot that is read back.
const maxImage = 1 << 30

// encodeEntry is a command as an entry of the controller's log holds it:
//
//	+---------------------------+----------------------+
//	| CRC-32C, 4 bytes, of this | the command (meta)   |
//	+---------------------------+----------------------+
func encodeEntry(c meta.Command) []byte {
	cmd := meta.EncodeCommand(c)
	b := make([]byte, 4, 4+len(cmd))
	binary.BigEndian.PutUint32(b, crc32.Checksum(cmd, castagnoli))
	return append(b, cmd...)
}

func decodeEntry(b []byte) (meta.Command, error) {
	if len(b) < 4 || crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b) {
		return nil, fmt.Errorf("%w: an entry has a bad CRC", meta.ErrCorrupt)
	}
	return meta.DecodeCommand(b[4:])
}

// applied is what the FSM answers to each command.
type applied struct {
	result any
	err    error
}

// fsm feeds the image. raft calls it from one goroutine.
type fsm struct{ c *Controller }

func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch makes one image of all commands. An entry that cannot be read stops the member: skipping it would make its
// image differ from the others' for ever.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	indexes := make([]uint64, 0, len(logs))
	commands := make([]meta.Command, 0, len(logs))
	at := make([]int, 0, len(logs))
	for i, l := range logs {
		if l.Type != raft.LogCommand {
			continue
		}
		c, err := decodeEntry(l.Data)
		if err != nil {
			f.c.fail(fmt.Errorf("entry %d of the controller's log: %w", l.Index, err))
		}
		if f.c.failed() != nil {
			answers[i] = applied{err: f.c.failed()}
			continue
		}
		indexes, commands, at = append(indexes, l.Index), append(commands, c), append(at, i)
	}
	if len(commands) == 0 {
		return answers
	}
	img := meta.Batch(f.c.Image(), indexes, commands, func(i int, result any, err error) {
		answers[at[i]] = applied{result: result, err: err}
	})
	f.c.publish(img)
	return answers
}

// Snapshot needs no copy: images never change.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.c.failed(); err != nil {
		return nil, err
	}
	return snapshot{f.c.Image()}, nil
}

func (f fsm) Restore(r io.ReadCloser) error {
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(io.LimitReader(r, maxImage+1))
	if err != nil {
		return fmt.Errorf("read a metadata snapshot: %w", err)
	}
	if len(b) > maxImage {
		return fmt.Errorf("a metadata snapshot of more than %d bytes", maxImage)
	}
	img, err := meta.DecodeImage(b)
	if err != nil {
		return err
	}
	f.c.publish(img)
	return nil
}

type snapshot struct{ img *meta.Image }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(meta.EncodeImage(s.img)); err != nil {
		_ = sink.Cancel()
		return err
	}
	return sink.Close()
}

func (s snapshot) Release() {}
