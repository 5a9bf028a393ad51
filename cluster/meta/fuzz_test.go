package meta

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// FuzzDecodeImage: no bytes panic; what is accepted is written the same, and commands apply to it.
func FuzzDecodeImage(f *testing.F) {
	img := NewImage()
	for i := range int32(3) {
		img, _, _ = Apply(img, 1, RegisterBroker{Broker: Broker{ID: i, Incarnation: 1, Listeners: []Listener{{Name: "a", Host: "b", Port: 1}}}})
	}
	img, _, _ = Apply(img, 2, CreateTopic{ID: TopicID{1}, Name: "t", Partitions: [][]int32{{0, 1, 2}}, Configs: map[string]string{"a": "b"}})
	f.Add(EncodeImage(NewImage()))
	f.Add(EncodeImage(img))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 {
			body := b[:len(b)-4]
			b = binary.BigEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
		}
		img, err := DecodeImage(b)
		if err != nil {
			return
		}
		if again, err := DecodeImage(EncodeImage(img)); err != nil || !bytes.Equal(EncodeImage(again), EncodeImage(img)) {
			t.Fatalf("%x is read differently when written again: %v", b, err)
		}
		_, _, _ = Apply(img, img.Version+1, RemoveBroker{ID: 1})
	})
}

func FuzzDecodeResult(f *testing.F) {
	f.Add(EncodeResult(nil))
	f.Add(EncodeResult(ProducerIDs{First: 1, Count: 2}))
	f.Add(EncodeResult(Replica{Node: 1, ID: 2}))
	f.Add(EncodeResult(&Topic{Name: "t", Partitions: []Partition{{Epoch: 1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeResult(b)
		if err != nil || len(b) == 0 {
			return
		}
		if again := EncodeResult(r); !bytes.Equal(again, b) {
			t.Fatalf("%x has two encodings: %x", b, again)
		}
	})
}
