package broker

import (
	"fmt"

	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/protocol"
)

// maxFetchParts bounds the partitions of one request.
const maxFetchParts = 50_000

// fetchRequest decoded; nothing of it aliases the frame.
type fetchRequest struct {
	maxWaitMillis, minBytes, maxBytes int32
	readCommitted                     bool
	sessionID, sessionEpoch           int32
	parts                             []fetchPart
	forgotten                         []fetchKey
}

// fetchKey names a partition as the request did: by topic id from v13 on, by name before.
type fetchKey struct {
	id        meta.TopicID
	name      string
	partition int32
}

// fetchPart is what a client asks of one partition.
type fetchPart struct {
	fetchKey
	currentEpoch     int32
	offset           int64
	lastFetchedEpoch int32
	maxBytes         int32
}

// decodeFetch decodes versions 4 to 18 (fields as they stand in v18, with the version that brought or dropped them):
//
//	replica id int32 (-v14) · max wait ms, min bytes, max bytes int32 · isolation int8 · session id, epoch int32 (v7)
//	topics: name (-v12) or id (v13) · partitions: index int32, current leader epoch int32 (v9), fetch offset int64,
//	  last fetched epoch int32 (v12), log start offset int64 (v5), partition max bytes int32
//	forgotten topics (v7): name or id · partitions int32 · rack (v11)
func decodeFetch(body []byte, version int16) (*fetchRequest, error) {
	flex := flexibleRequest(protocol.Fetch, version)
	b := protocol.Reader{B: body}
	f := &fetchRequest{sessionEpoch: -1}
	if version <= 14 {
		b.Int32()
	}
	f.maxWaitMillis, f.minBytes, f.maxBytes = b.Int32(), b.Int32(), b.Int32()
	f.readCommitted = b.Int8() == 1
	if version >= 7 {
		f.sessionID, f.sessionEpoch = b.Int32(), b.Int32()
	}
	topic := func() (k fetchKey) {
		if version >= 13 {
			k.id = b.UUID()
		} else {
			k.name = string(b.String(flex))
		}
		return k
	}
	for range b.Array(flex, 5) {
		k := topic()
		n := b.Array(flex, 16)
		if len(f.parts)+n > maxFetchParts {
			return nil, fmt.Errorf("%w: a fetch of more than %d partitions", protocol.ErrMalformed, maxFetchParts)
		}
		if f.parts == nil {
			f.parts = make([]fetchPart, 0, n)
		}
		for range n {
			p := fetchPart{fetchKey: k, currentEpoch: -1, lastFetchedEpoch: -1}
			p.partition = b.Int32()
			if version >= 9 {
				p.currentEpoch = b.Int32()
			}
			p.offset = b.Int64()
			if version >= 12 {
				p.lastFetchedEpoch = b.Int32()
			}
			if version >= 5 {
				b.Int64()
			}
			p.maxBytes = b.Int32()
			if flex {
				b.Tags()
			}
			f.parts = append(f.parts, p)
		}
		if flex {
			b.Tags()
		}
		if b.Bad {
			break
		}
	}
	if version >= 7 {
		for range b.Array(flex, 5) {
			k := topic()
			n := b.Array(flex, 4)
			if len(f.forgotten)+n > maxFetchParts {
				return nil, fmt.Errorf("%w: a fetch that forgets more than %d partitions", protocol.ErrMalformed, maxFetchParts)
			}
			for range n {
				k.partition = b.Int32()
				f.forgotten = append(f.forgotten, k)
			}
			if flex {
				b.Tags()
			}
			if b.Bad {
				break
			}
		}
	}
	if version >= 11 {
		b.String(flex)
	}
	if flex {
		b.Tags()
	}
	if b.Bad {
		return nil, fmt.Errorf("%w: fetch", protocol.ErrMalformed)
	}
	return f, nil
}
