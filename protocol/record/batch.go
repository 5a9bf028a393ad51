// Package record is the view of a Kafka record batch, format v2 (KIP-98), as it lies in a request, in a
// segment file and in a fetch response.
//
//	offset size field                    covered by the CRC
//	     0    8 base offset              no: stamped when the entry is stored
//	     8    4 length of all that follows
//	    12    4 partition leader epoch   no: stamped (= Raft term)
//	    16    1 magic = 2                no
//	    17    4 CRC-32C of all that follows
//	    21    2 attributes               yes, from here on
//	    23    4 last offset delta
//	    27    8 base timestamp (ms)
//	    35    8 max timestamp (ms)
//	    43    8 producer id
//	    51    2 producer epoch
//	    53    4 base sequence
//	    57    4 record count
//	    61      records, compressed as the attributes say
package record

import (
	"encoding/binary"
	"hash/crc32"
)

// HeaderSize is the number of bytes before the records of a batch.
const HeaderSize = 61

// Overhead is the number of bytes before the part that Length counts.
const Overhead = 12

// Batch is one encoded record batch. Accessors do not check bounds beyond HeaderSize: call Check first.
type Batch []byte

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (b Batch) BaseOffset() int64      { return int64(binary.BigEndian.Uint64(b[0:])) }
func (b Batch) SetBaseOffset(o int64)  { binary.BigEndian.PutUint64(b[0:], uint64(o)) }
func (b Batch) Length() int32          { return int32(binary.BigEndian.Uint32(b[8:])) }
func (b Batch) Size() int              { return Overhead + int(b.Length()) }
func (b Batch) LeaderEpoch() int32     { return int32(binary.BigEndian.Uint32(b[12:])) }
func (b Batch) SetLeaderEpoch(e int32) { binary.BigEndian.PutUint32(b[12:], uint32(e)) }
func (b Batch) Magic() int8            { return int8(b[16]) }
func (b Batch) CRC() uint32            { return binary.BigEndian.Uint32(b[17:]) }
func (b Batch) Attributes() int16      { return int16(binary.BigEndian.Uint16(b[21:])) }
func (b Batch) Codec() int8            { return int8(b.Attributes() & 7) }
func (b Batch) LogAppendTime() bool    { return b.Attributes()&8 != 0 }
func (b Batch) Transactional() bool    { return b.Attributes()&16 != 0 }
func (b Batch) Control() bool          { return b.Attributes()&32 != 0 }
func (b Batch) LastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[23:])) }
func (b Batch) LastOffset() int64      { return b.BaseOffset() + int64(b.LastOffsetDelta()) }
func (b Batch) BaseTimestamp() int64   { return int64(binary.BigEndian.Uint64(b[27:])) }
func (b Batch) MaxTimestamp() int64    { return int64(binary.BigEndian.Uint64(b[35:])) }
func (b Batch) ProducerID() int64      { return int64(binary.BigEndian.Uint64(b[43:])) }
func (b Batch) ProducerEpoch() int16   { return int16(binary.BigEndian.Uint16(b[51:])) }
func (b Batch) BaseSequence() int32    { return int32(binary.BigEndian.Uint32(b[53:])) }
func (b Batch) Count() int32           { return int32(binary.BigEndian.Uint32(b[57:])) }
func (b Batch) Records() []byte        { return b[HeaderSize:] }
func (b Batch) CRCValid() bool         { return crc32.Checksum(b[21:], castagnoli) == b.CRC() }
func (b Batch) StampCRC()              { binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli)) }
