package meta

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
)

const (
	imageMagic   = "BMI"
	imageVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// EncodeImage is the image as a snapshot of the controller's log holds it. Equal images have equal encodings.
//
//	+-------+---------+---------+------------+-----------------+------------------+
//	| "BMI" | version | Version | cluster ID | next replica ID | next producer ID |
//	+-------+---------+---------+------------+-----------------+------------------+
//	| brokers by id   | topics by name       | cluster config  | broker configs   |
//	+-----------------+----------------------+-----------------+------------------+
//	| CRC-32C, 4 bytes big endian, of everything before it                        |
//	+-----------------------------------------------------------------------------+
func EncodeImage(img *Image) []byte {
	w := &writer{b: make([]byte, 0, 256+64*img.PartitionCount+256*len(img.Topics))}
	w.b = append(w.b, imageMagic...)
	w.byte(imageVersion)
	w.uvarint(img.Version)
	w.string(img.ClusterID)
	w.uvarint(img.NextReplicaID)
	w.varint(img.NextProducerID)
	w.uvarint(uint64(len(img.Brokers)))
	for _, id := range slices.Sorted(maps.Keys(img.Brokers)) {
		w.broker(img.Brokers[id])
	}
	w.uvarint(uint64(len(img.Topics)))
	for _, name := range slices.Sorted(maps.Keys(img.Topics)) {
		w.topic(img.Topics[name])
	}
	w.strings(img.ClusterConfig)
	w.uvarint(uint64(len(img.BrokerConfig)))
	for _, id := range slices.Sorted(maps.Keys(img.BrokerConfig)) {
		w.varint(int64(id))
		w.strings(img.BrokerConfig[id])
	}
	return binary.BigEndian.AppendUint32(w.b, crc32.Checksum(w.b, castagnoli))
}

// DecodeImage is EncodeImage's inverse. The image does not alias b.
func DecodeImage(b []byte) (*Image, error) {
	if len(b) < len(imageMagic)+1+4 || string(b[:len(imageMagic)]) != imageMagic {
		return nil, fmt.Errorf("%w: not a metadata image", ErrCorrupt)
	}
	if v := b[len(imageMagic)]; v > imageVersion {
		return nil, fmt.Errorf("%w: metadata image version %d, this broker knows %d", ErrTooNew, v, imageVersion)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%w: metadata image has a bad CRC", ErrCorrupt)
	}
	r := &reader{b: body[len(imageMagic)+1:]}
	img := NewImage()
	img.Version = r.uvarint()
	img.ClusterID = r.string()
	img.NextReplicaID = r.uvarint()
	img.NextProducerID = r.varint()
	for n := r.count(8); n > 0 && r.err == nil; n-- {
		br := r.broker()
		img.Brokers[br.ID] = br
	}
	for n := r.count(18); n > 0 && r.err == nil; n-- {
		t := r.topic()
		img.Topics[t.Name] = t
		img.TopicsByID[t.ID] = t
		img.PartitionCount += len(t.Partitions)
	}
	img.ClusterConfig = r.strings()
	for n := r.count(2); n > 0 && r.err == nil; n-- {
		id := r.int32()
		img.BrokerConfig[id] = r.strings()
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return img, nil
}

// broker: id, incarnation (8 bytes), rack, version, cluster address, listeners (name, host, port), fenced.
func (w *writer) broker(b *Broker) {
	w.varint(int64(b.ID))
	w.fixed64(b.Incarnation)
	w.string(b.Rack)
	w.string(b.Version)
	w.string(b.ClusterAddr)
	w.uvarint(uint64(len(b.Listeners)))
	for _, l := range b.Listeners {
		w.string(l.Name)
		w.string(l.Host)
		w.varint(int64(l.Port))
	}
	w.bool(b.Fenced)
}

func (r *reader) broker() *Broker {
	b := &Broker{ID: r.int32(), Incarnation: r.fixed64(), Rack: r.string(), Version: r.string(), ClusterAddr: r.string()}
	b.Listeners = make([]Listener, r.count(3))
	for i := range b.Listeners {
		b.Listeners[i] = Listener{Name: r.string(), Host: r.string(), Port: r.int32()}
	}
	b.Fenced = r.bool()
	return b
}

// topic: id (16 bytes), name, internal, configs, partitions.
func (w *writer) topic(t *Topic) {
	w.b = append(w.b, t.ID[:]...)
	w.string(t.Name)
	w.bool(t.Internal)
	w.strings(t.Configs)
	w.uvarint(uint64(len(t.Partitions)))
	for i := range t.Partitions {
		w.partition(&t.Partitions[i])
	}
}

func (r *reader) topic() *Topic {
	t := &Topic{ID: r.topicID(), Name: r.string(), Internal: r.bool(), Configs: r.strings()}
	t.Partitions = make([]Partition, r.count(4))
	for i := range t.Partitions {
		t.Partitions[i] = r.partition(int32(i))
	}
	return t
}

// What follows in a partition's encoding.
const (
	partCreated  = 1
	partRecovery = 2
	partLosses   = 4
)

// partition: epoch, flags, initial replicas, and unless created: replicas and those being removed; then the recovery
// under way and the losses. The id is the place in the list.
func (w *writer) partition(p *Partition) {
	w.varint(int64(p.Epoch))
	flags := byte(0)
	for i, set := range []bool{p.Created, p.Recovery != nil, p.Loss != nil} {
		if set {
			flags |= 1 << i
		}
	}
	w.byte(flags)
	w.replicas(p.Initial)
	if !p.Created {
		w.replicas(p.Replicas)
		w.replicas(p.Removing)
	}
	if c := p.Recovery; c != nil {
		w.uvarint(c.Replica)
		w.uvarint(c.Term)
		w.logEnd(c.Last)
		w.loss(&c.Loss)
	}
	if p.Loss != nil {
		w.varint(int64(p.Losses))
		w.loss(p.Loss)
	}
}

func (r *reader) partition(id int32) Partition {
	p := Partition{ID: id, Epoch: r.int32()}
	flags := r.byte()
	if flags > partCreated|partRecovery|partLosses {
		r.fail("partition flags")
	}
	p.Created = flags&partCreated != 0
	p.Initial = r.replicas()
	if p.Created {
		p.Replicas = p.Initial
	} else {
		p.Replicas = r.replicas()
		p.Removing = r.replicas()
	}
	if flags&partRecovery != 0 {
		p.Recovery = &Recovery{Replica: r.uvarint(), Term: r.uvarint(), Last: r.logEnd(), Loss: r.loss()}
	}
	if flags&partLosses != 0 {
		p.Losses = r.int32()
		l := r.loss()
		p.Loss = &l
	}
	return p
}

func (w *writer) logEnd(l LogEnd) {
	w.uvarint(l.Term)
	w.uvarint(l.Index)
}

func (r *reader) logEnd() LogEnd { return LogEnd{Term: r.uvarint(), Index: r.uvarint()} }

// loss: node, replica, time, log end, known, since, unheard.
func (w *writer) loss(l *Loss) {
	w.varint(int64(l.Node))
	w.uvarint(l.Replica)
	w.varint(l.At)
	w.varint(l.LogEnd)
	w.varint(l.Known)
	w.varint(l.Since)
	w.varint(int64(l.Unheard))
}

func (r *reader) loss() Loss {
	return Loss{
		Node: r.int32(), Replica: r.uvarint(), At: r.varint(), LogEnd: r.varint(), Known: r.varint(), Since: r.varint(),
		Unheard: r.int32(),
	}
}

// replicas: node, id, incarnation (8 bytes) each.
func (w *writer) replicas(rs []Replica) {
	w.uvarint(uint64(len(rs)))
	for _, x := range rs {
		w.varint(int64(x.Node))
		w.uvarint(x.ID)
		w.fixed64(x.Incarnation)
	}
}

func (r *reader) replicas() []Replica {
	n := r.count(10)
	if n == 0 {
		return nil
	}
	rs := make([]Replica, n)
	for i := range rs {
		rs[i] = Replica{Node: r.int32(), ID: r.uvarint(), Incarnation: r.fixed64()}
	}
	return rs
}
