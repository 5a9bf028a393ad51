package broker

import (
	"encoding/binary"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

// flexibleLayout is what stands in the flexible versions of a request that kmsg decodes. kmsg counts tagged fields down
// from whatever number is claimed, bytes or not: five bytes keep a core busy for half a minute. So the numbers are looked
// at first.
//
//	1 2 4 8 u   integer of so many bytes, UUID
//	s           compact string or bytes, nullable or not
//	[...]       compact array of structures, each with tagged fields at its end
//	(.)         compact array of one of the above
//	c           the cursor of DescribeTopicPartitions
//
// The request's own tagged fields follow.
func flexibleLayout(key, version int16) (string, bool) {
	later := func(from int16, old, new string) string {
		if version >= from {
			return new
		}
		return old
	}
	switch key {
	case protocol.ListOffsets:
		return later(10, "41[s[448]]", "41[s[448]]4"), true
	case protocol.Metadata:
		return later(10, "[s]111", later(11, "[us]111", "[us]11")), true
	case protocol.ApiVersions:
		return "ss", true
	case protocol.CreateTopics:
		return "[s42[4(4)][ss]]41", true
	case protocol.DeleteTopics:
		return later(6, "(s)4", "[su]4"), true
	case protocol.DeleteRecords:
		return "[s[48]]4", true
	case protocol.InitProducerID:
		return later(3, "s4", "s482"), true
	case protocol.OffsetForLeaderEpoch:
		return "4[s[444]]", true
	case protocol.DescribeConfigs:
		return "[1s(s)]11", true
	case protocol.AlterConfigs:
		return "[1s[ss]]1", true
	case protocol.DescribeLogDirs:
		return "[s(4)]", true
	case protocol.CreatePartitions:
		return "[s4[(4)]]41", true
	case protocol.IncrementalAlterConfigs:
		return "[1s[s1s]]1", true
	case protocol.DescribeCluster:
		return later(1, "1", later(2, "11", "111")), true
	case protocol.ListConfigResources:
		return later(1, "", "(1)"), true
	case protocol.DescribeTopicPartitions:
		return "[s]4c", true
	}
	return "", false
}

// checkTags refuses a body that claims more than it can hold. It is no less strict than kmsg: nothing that it has not seen
// is read there.
func checkTags(key, version int16, body []byte) error {
	if !flexibleRequest(key, version) {
		return nil
	}
	layout, ok := flexibleLayout(key, version)
	if !ok {
		return nil
	}
	w := tagWalker{b: body}
	w.fields(layout)
	w.tags()
	if w.done {
		return fmt.Errorf("%w: a %s request that claims more than its %d bytes", protocol.ErrMalformed, kmsg.NameForKey(key), len(body))
	}
	return nil
}

// tagWalker goes over a body. Behind its end, or at a number that can't be, done is set and nothing more is read.
type tagWalker struct {
	b    []byte
	done bool
}

func (w *tagWalker) skip(n uint64) {
	if w.done || n > uint64(len(w.b)) {
		w.done = true
		return
	}
	w.b = w.b[n:]
}

func (w *tagWalker) uvarint() uint64 {
	if w.done {
		return 0
	}
	v, n := binary.Uvarint(w.b)
	if n <= 0 || n > 5 || v > 1<<32-1 { // kmsg's have 32 bits
		w.done = true
		return 0
	}
	w.b = w.b[n:]
	return v
}

func (w *tagWalker) tags() {
	n := w.uvarint()
	if w.done {
		return
	}
	if n > uint64(len(w.b))/2 { // a key and a size each
		w.done = true
		return
	}
	for ; n > 0 && !w.done; n-- {
		w.uvarint()
		w.skip(w.uvarint())
	}
}

func (w *tagWalker) fields(layout string) {
	for i := 0; i < len(layout) && !w.done; i++ {
		switch c := layout[i]; c {
		case '1', '2', '4', '8':
			w.skip(uint64(c - '0'))
		case 'u':
			w.skip(16)
		case 's':
			if n := w.uvarint(); n > 1 {
				w.skip(n - 1)
			}
		case 'c':
			if len(w.b) > 0 && w.b[0] == 0xff {
				w.skip(1)
				continue
			}
			w.skip(1)
			w.fields("s4")
			w.tags()
		case '[', '(':
			end := closing(layout, i)
			n := w.uvarint()
			if n > uint64(len(w.b))+1 { // an element has a byte at least
				w.done = true
			}
			for ; n > 1 && !w.done; n-- {
				w.fields(layout[i+1 : end])
				if c == '[' {
					w.tags()
				}
			}
			i = end
		}
	}
}

// closing finds the bracket that closes the one at i.
func closing(layout string, i int) int {
	depth := 0
	for ; ; i++ {
		switch layout[i] {
		case '[', '(':
			depth++
		case ']', ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
}
