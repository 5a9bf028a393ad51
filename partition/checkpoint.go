package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/balsa-broker/balsa/internal/raftconf"
	"github.com/balsa-broker/balsa/vfs"
)

// A checkpoint is the state as of exactly one index: what applying the log up to there built. The file and the body of a
// Raft snapshot are the same bytes.
type checkpoint struct {
	index, term uint64
	next        int64 // offset after the last record at or below index
	logStart    int64
	confIndex   uint64
	conf        []byte // raft.EncodeConfiguration's, at or below index
	producers   map[int64]*producer
	machine     []byte // StateMachine.Snapshot's
}

const (
	checkpointSuffix = ".checkpoint"
	installSuffix    = ".install" // a checkpoint from the leader whose log reset may not be finished
	maxCheckpoint    = 512 << 20
)

// errFirstCheckpoint: nobody could catch up from here any more.
var errFirstCheckpoint = fmt.Errorf("%w: the checkpoint below the log's first entry is damaged", ErrCorrupt)

var errBadCheckpoint = errors.New("checkpoint does not check")

// encode lays a checkpoint out as
//
//	offset size field
//	     0    8 magic "BALSACKP"
//	     8    4 version = 1
//	    12    8 index
//	    20    8 term
//	    28    8 next offset
//	    36    8 log start
//	    44    8 configuration index
//	    52    4 length, and that many bytes of configuration
//	          4 number of producers, each:
//	              8 id, 2 epoch, 1 number of batches, each: 4 first and 4 last sequence, 8 base offset, 8 append time
//	          4 length, and that many bytes of state machine
//	          4 CRC-32C of the above
//
// Producers stand in order of id, so that equal states give equal bytes.
func (c *checkpoint) encode() []byte {
	b := make([]byte, 0, 128+len(c.conf)+len(c.machine)+len(c.producers)*64)
	b = append(b, "BALSACKP"...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint64(b, c.index)
	b = binary.BigEndian.AppendUint64(b, c.term)
	b = binary.BigEndian.AppendUint64(b, uint64(c.next))
	b = binary.BigEndian.AppendUint64(b, uint64(c.logStart))
	b = binary.BigEndian.AppendUint64(b, c.confIndex)
	b = appendBytes(b, c.conf)
	count := len(b)
	b = binary.BigEndian.AppendUint32(b, 0)
	n := 0
	for _, id := range slices.Sorted(maps.Keys(c.producers)) {
		p := c.producers[id]
		if p.n == 0 {
			continue // only in flight: not of the log yet
		}
		n++
		b = binary.BigEndian.AppendUint64(b, uint64(id))
		b = binary.BigEndian.AppendUint16(b, uint16(p.epoch))
		b = append(b, p.n)
		for _, s := range p.batches[:p.n] {
			b = binary.BigEndian.AppendUint32(b, uint32(s.first))
			b = binary.BigEndian.AppendUint32(b, uint32(s.last))
			b = binary.BigEndian.AppendUint64(b, uint64(s.offset))
			b = binary.BigEndian.AppendUint64(b, uint64(s.appendTime))
		}
	}
	binary.BigEndian.PutUint32(b[count:], uint32(n))
	b = appendBytes(b, c.machine)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func appendBytes(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
}

// decodeCheckpoint is encode's inverse. The result does not alias b.
func decodeCheckpoint(b []byte) (*checkpoint, error) {
	if len(b) < 12+4 || string(b[:8]) != "BALSACKP" {
		return nil, fmt.Errorf("%w: no header", errBadCheckpoint)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != 1 {
		return nil, fmt.Errorf("%w: version %d", errBadCheckpoint, v)
	}
	if crc32.Checksum(b[:len(b)-4], castagnoli) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: CRC", errBadCheckpoint)
	}
	d := decoder{b: b[12 : len(b)-4]}
	c := &checkpoint{
		index: d.u64(), term: d.u64(), next: int64(d.u64()), logStart: int64(d.u64()), confIndex: d.u64(),
		conf: slices.Clone(d.bytes()), producers: map[int64]*producer{},
	}
	for range d.u32() {
		id := int64(d.u64())
		p := &producer{epoch: int16(d.u16()), n: d.u8()}
		if d.failed || p.n == 0 || p.n > rememberedBatches {
			return nil, fmt.Errorf("%w: producer %d", errBadCheckpoint, id)
		}
		for i := range p.n {
			p.batches[i] = seqBatch{
				first: int32(d.u32()), last: int32(d.u32()), offset: int64(d.u64()), appendTime: int64(d.u64()),
			}
		}
		c.producers[id] = p
	}
	c.machine = slices.Clone(d.bytes())
	if d.failed || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: length", errBadCheckpoint)
	}
	if len(c.conf) > 0 {
		if _, err := raftconf.Decode(c.conf); err != nil {
			return nil, fmt.Errorf("%w: %w", errBadCheckpoint, err)
		}
	}
	return c, nil
}

// decoder reads big-endian fields; a short buffer sets failed and gives zeros.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.failed = true
		d.b = nil
		return make([]byte, 8)[:min(max(n, 0), 8)]
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}
func (d *decoder) u8() uint8   { return d.take(1)[0] }
func (d *decoder) u16() uint16 { return binary.BigEndian.Uint16(d.take(2)) }
func (d *decoder) u32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) bytes() []byte {
	n := int(d.u32())
	if d.failed || n > len(d.b) {
		d.failed = true
		return nil
	}
	return d.take(n)
}

// meta is what Raft wants to know of a snapshot.
func (c *checkpoint) meta(id string, size int64) *raft.SnapshotMeta {
	m := &raft.SnapshotMeta{
		Version: 1, ID: id, Index: c.index, Term: c.term, ConfigurationIndex: c.confIndex, Size: size,
	}
	if len(c.conf) > 0 {
		m.Configuration = raft.DecodeConfiguration(c.conf)
	}
	return m
}

func checkpointPath(dir string, index uint64, suffix string) string {
	s := strconv.FormatUint(index, 10)
	return filepath.Join(dir, strings.Repeat("0", 20-len(s))+s+suffix)
}

// listCheckpoints returns the indexes of the files with the suffix, ascending.
func listCheckpoints(fsys vfs.FS, dir, suffix string) ([]uint64, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	var out []uint64
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		if i, err := strconv.ParseUint(name, 10, 64); err == nil {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out, nil
}

// readCheckpoint reads the file of one index, and its bytes.
func readCheckpoint(fsys vfs.FS, dir string, index uint64, suffix string) (*checkpoint, []byte, error) {
	b, err := vfs.ReadFile(fsys, checkpointPath(dir, index, suffix), maxCheckpoint)
	if err != nil {
		return nil, nil, fmt.Errorf("read checkpoint %d: %w", index, err)
	}
	c, err := decodeCheckpoint(b)
	if err != nil {
		return nil, nil, fmt.Errorf("read checkpoint %d: %w", index, err)
	}
	if c.index != index {
		return nil, nil, fmt.Errorf("read checkpoint %d: %w: it is of index %d", index, errBadCheckpoint, c.index)
	}
	return c, b, nil
}

// writeCheckpoint is durable on return.
func writeCheckpoint(fsys vfs.FS, dir string, index uint64, suffix string, b []byte) error {
	if err := vfs.WriteFile(fsys, dir, checkpointPath(dir, index, suffix), b); err != nil {
		return fmt.Errorf("write checkpoint %d: %w", index, err)
	}
	return nil
}

// removeFile removes a file that may be gone already.
func removeFile(fsys vfs.FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
