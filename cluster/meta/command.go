package meta

import "fmt"

// Command is one change of the metadata, as the controller's log records it. The leader decides (placement, topic IDs,
// who is alive) and the command carries the decision; applying it is pure.
type Command interface {
	kind() kind
	encode(w *writer)
	// apply checks everything first and changes the edit only when it succeeds.
	apply(e *edit) (result any, err error)
}

type kind byte

// Kinds are part of the log's format: numbers are never reused.
const (
	kindSetClusterID     kind = 1
	kindRegisterBroker   kind = 2
	kindFenceBroker      kind = 3
	kindUnfenceBroker    kind = 4
	kindRemoveBroker     kind = 5
	kindCreateTopic      kind = 6
	kindDeleteTopic      kind = 7
	kindCreatePartitions kind = 8
	kindSetReplicas      kind = 9
	// 10 was ReplaceReplica without an epoch
	kindReplicasRemoved     kind = 11
	kindSetTopicConfigs     kind = 12
	kindSetBrokerConfigs    kind = 13
	kindAllocateProducerIDs kind = 14
	kindReplaceReplica      kind = 15
	kindChooseReplica       kind = 16
	kindFinishRecovery      kind = 17
)

const commandVersion = 1

// MaxCommand bounds an encoded command.
const MaxCommand = 8 << 20

// SetClusterID is the first command of a cluster's log.
type SetClusterID struct{ ClusterID string }

// RegisterBroker records a broker as alive. While the broker that holds the id is alive, another incarnation is
// refused. A new incarnation is a new disk: every replica of the old one gets a successor with a new id (safety
// rule 1).
type RegisterBroker struct{ Broker Broker }

// FenceBroker records that a broker was found dead.
type FenceBroker struct {
	ID          int32
	Incarnation uint64
}

// UnfenceBroker records that it lives.
type UnfenceBroker struct {
	ID          int32
	Incarnation uint64
}

// RemoveBroker forgets a broker that holds no replica.
type RemoveBroker struct{ ID int32 }

// CreateTopic makes a topic. Partitions lists the brokers of each, preferred leader first. Result: *Topic.
type CreateTopic struct {
	ID         TopicID
	Name       string
	Internal   bool
	Partitions [][]int32
	Configs    map[string]string
}

// DeleteTopic deletes by ID. Result: the *Topic that was.
type DeleteTopic struct{ ID TopicID }

// CreatePartitions appends partitions; From is how many there are, otherwise it is refused. Result: *Topic.
type CreatePartitions struct {
	Topic      TopicID
	From       int32
	Partitions [][]int32
}

// SetReplicas sets the target of a partition's replica set, preferred leader first. A broker that has a replica, or
// one on the way out, keeps it. Epoch: the one it was decided from, -1 for any.
type SetReplicas struct {
	Topic     TopicID
	Partition int32
	Epoch     int32
	Nodes     []int32
}

// ReplaceReplica gives a lost replica (log or votes gone, safety rule 1) a successor on the same broker. Result: the
// new Replica. Of a replica that already has gone: refused. Epoch: the one it was decided from, -1 for any: a replica
// that was dispensable then may be the only one now.
type ReplaceReplica struct {
	Topic     TopicID
	Partition int32
	Epoch     int32
	ID        uint64
}

// ChooseReplica decides from which replica's log a partition goes on whose voters can elect nobody any more (safety
// rule 13), decided from the partition's epoch: of two that decide, one is refused. Term is above all that were seen.
// Last is where its log ended: one that ends before has lost more since, and does not begin.
// Nothing of the others is touched before FinishRecovery; until then another choice may take this one's place.
type ChooseReplica struct {
	Topic     TopicID
	Partition int32
	Epoch     int32
	ID        uint64
	Term      uint64
	Last      LogEnd
	Loss      Loss
}

// FinishRecovery is the chosen replica's word that its log, durably, makes it the only voter. Every other replica gets a
// successor, which starts empty. ID and Term are those of the choice; of another choice: refused.
type FinishRecovery struct {
	Topic     TopicID
	Partition int32
	ID        uint64
	Term      uint64
}

// ReplicasRemoved is the leader's word that these replicas are no longer in the Raft configuration.
type ReplicasRemoved struct {
	Topic     TopicID
	Partition int32
	IDs       []uint64
}

// SetTopicConfigs changes a topic's overrides: nil removes. ReplaceAll: those not named go.
type SetTopicConfigs struct {
	Topic      TopicID
	Set        map[string]*string
	ReplaceAll bool
}

// SetBrokerConfigs changes the dynamic configuration of a broker, or of the cluster (Node -1).
type SetBrokerConfigs struct {
	Node       int32
	Set        map[string]*string
	ReplaceAll bool
}

// ProducerIDBlock is how many producer ids are given out at a time.
const ProducerIDBlock = 1000

// AllocateProducerIDs takes the next block. Result: ProducerIDs.
type AllocateProducerIDs struct{ Node int32 }

// ProducerIDs is a block of producer ids: [First, First+Count).
type ProducerIDs struct {
	First int64
	Count int32
}

func (SetClusterID) kind() kind        { return kindSetClusterID }
func (RegisterBroker) kind() kind      { return kindRegisterBroker }
func (FenceBroker) kind() kind         { return kindFenceBroker }
func (UnfenceBroker) kind() kind       { return kindUnfenceBroker }
func (RemoveBroker) kind() kind        { return kindRemoveBroker }
func (CreateTopic) kind() kind         { return kindCreateTopic }
func (DeleteTopic) kind() kind         { return kindDeleteTopic }
func (CreatePartitions) kind() kind    { return kindCreatePartitions }
func (SetReplicas) kind() kind         { return kindSetReplicas }
func (ReplaceReplica) kind() kind      { return kindReplaceReplica }
func (ChooseReplica) kind() kind       { return kindChooseReplica }
func (FinishRecovery) kind() kind      { return kindFinishRecovery }
func (ReplicasRemoved) kind() kind     { return kindReplicasRemoved }
func (SetTopicConfigs) kind() kind     { return kindSetTopicConfigs }
func (SetBrokerConfigs) kind() kind    { return kindSetBrokerConfigs }
func (AllocateProducerIDs) kind() kind { return kindAllocateProducerIDs }

// EncodeCommand is a command as the controller's log holds it:
//
//	+------+---------+--------------------------+
//	| kind | version | fields, in order         |
//	+------+---------+--------------------------+
//	   1        1
//
// A field is never added to a version: a reader refuses what it does not know, and bytes left over, instead of
// applying half of a command.
func EncodeCommand(c Command) []byte {
	w := &writer{b: make([]byte, 0, 64)}
	w.byte(byte(c.kind()))
	w.byte(commandVersion)
	c.encode(w)
	return w.b
}

func (c SetClusterID) encode(w *writer)   { w.string(c.ClusterID) }
func (c RegisterBroker) encode(w *writer) { w.broker(&c.Broker) }
func (c FenceBroker) encode(w *writer)    { w.varint(int64(c.ID)); w.fixed64(c.Incarnation) }
func (c UnfenceBroker) encode(w *writer)  { w.varint(int64(c.ID)); w.fixed64(c.Incarnation) }
func (c RemoveBroker) encode(w *writer)   { w.varint(int64(c.ID)) }
func (c DeleteTopic) encode(w *writer)    { w.b = append(w.b, c.ID[:]...) }

func (c CreateTopic) encode(w *writer) {
	w.b = append(w.b, c.ID[:]...)
	w.string(c.Name)
	w.bool(c.Internal)
	w.assignment(c.Partitions)
	w.strings(c.Configs)
}

func (c CreatePartitions) encode(w *writer) {
	w.b = append(w.b, c.Topic[:]...)
	w.varint(int64(c.From))
	w.assignment(c.Partitions)
}

func (c SetReplicas) encode(w *writer) {
	w.b = append(w.b, c.Topic[:]...)
	w.varint(int64(c.Partition))
	w.varint(int64(c.Epoch))
	w.nodes(c.Nodes)
}

func (c ReplaceReplica) encode(w *writer) {
	w.b = append(w.b, c.Topic[:]...)
	w.varint(int64(c.Partition))
	w.varint(int64(c.Epoch))
	w.uvarint(c.ID)
}

func (c ChooseReplica) encode(w *writer) {
	w.b = append(w.b, c.Topic[:]...)
	w.varint(int64(c.Partition))
	w.varint(int64(c.Epoch))
	w.uvarint(c.ID)
	w.uvarint(c.Term)
	w.logEnd(c.Last)
	w.loss(&c.Loss)
}

func (c FinishRecovery) encode(w *writer) {
	w.b = append(w.b, c.Topic[:]...)
	w.varint(int64(c.Partition))
	w.uvarint(c.ID)
	w.uvarint(c.Term)
}

func (c ReplicasRemoved) encode(w *writer) {
	w.b = append(w.b, c.Topic[:]...)
	w.varint(int64(c.Partition))
	w.uvarint(uint64(len(c.IDs)))
	for _, id := range c.IDs {
		w.uvarint(id)
	}
}

func (c SetTopicConfigs) encode(w *writer) {
	w.b = append(w.b, c.Topic[:]...)
	w.changes(c.Set)
	w.bool(c.ReplaceAll)
}

func (c SetBrokerConfigs) encode(w *writer) {
	w.varint(int64(c.Node))
	w.changes(c.Set)
	w.bool(c.ReplaceAll)
}

func (c AllocateProducerIDs) encode(w *writer) { w.varint(int64(c.Node)) }

// DecodeCommand is EncodeCommand's inverse; ErrTooNew for a kind or version that this broker does not know. The
// command does not alias b.
func DecodeCommand(b []byte) (Command, error) {
	if len(b) < 2 || len(b) > MaxCommand {
		return nil, fmt.Errorf("%w: a command of %d bytes", ErrCorrupt, len(b))
	}
	k, version := kind(b[0]), b[1]
	if version != commandVersion {
		return nil, fmt.Errorf("%w: command %d version %d, this broker knows %d", ErrTooNew, k, version, commandVersion)
	}
	r := &reader{b: b[2:]}
	var c Command
	switch k {
	case kindSetClusterID:
		c = SetClusterID{ClusterID: r.string()}
	case kindRegisterBroker:
		c = RegisterBroker{Broker: *r.broker()}
	case kindFenceBroker:
		c = FenceBroker{ID: r.int32(), Incarnation: r.fixed64()}
	case kindUnfenceBroker:
		c = UnfenceBroker{ID: r.int32(), Incarnation: r.fixed64()}
	case kindRemoveBroker:
		c = RemoveBroker{ID: r.int32()}
	case kindCreateTopic:
		c = CreateTopic{ID: r.topicID(), Name: r.string(), Internal: r.bool(), Partitions: r.assignment(), Configs: r.strings()}
	case kindDeleteTopic:
		c = DeleteTopic{ID: r.topicID()}
	case kindCreatePartitions:
		c = CreatePartitions{Topic: r.topicID(), From: r.int32(), Partitions: r.assignment()}
	case kindSetReplicas:
		c = SetReplicas{Topic: r.topicID(), Partition: r.int32(), Epoch: r.int32(), Nodes: r.nodes()}
	case kindReplaceReplica:
		c = ReplaceReplica{Topic: r.topicID(), Partition: r.int32(), Epoch: r.int32(), ID: r.uvarint()}
	case kindChooseReplica:
		c = ChooseReplica{
			Topic: r.topicID(), Partition: r.int32(), Epoch: r.int32(), ID: r.uvarint(), Term: r.uvarint(), Last: r.logEnd(),
			Loss: r.loss(),
		}
	case kindFinishRecovery:
		c = FinishRecovery{Topic: r.topicID(), Partition: r.int32(), ID: r.uvarint(), Term: r.uvarint()}
	case kindReplicasRemoved:
		x := ReplicasRemoved{Topic: r.topicID(), Partition: r.int32(), IDs: make([]uint64, r.count(1))}
		for i := range x.IDs {
			x.IDs[i] = r.uvarint()
		}
		c = x
	case kindSetTopicConfigs:
		c = SetTopicConfigs{Topic: r.topicID(), Set: r.changes(), ReplaceAll: r.bool()}
	case kindSetBrokerConfigs:
		c = SetBrokerConfigs{Node: r.int32(), Set: r.changes(), ReplaceAll: r.bool()}
	case kindAllocateProducerIDs:
		c = AllocateProducerIDs{Node: r.int32()}
	default:
		return nil, fmt.Errorf("%w: command %d", ErrTooNew, k)
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("command %d: %w", k, err)
	}
	return c, nil
}

// Results travel from the controller's leader to the broker that asked:
//
//	+------+-----------------------------------------------------+
//	| what | 0: nothing, 1: *Topic, 2: ProducerIDs, 3: Replica   |
//	+------+-----------------------------------------------------+
const (
	resultNone    = 0
	resultTopic   = 1
	resultIDs     = 2
	resultReplica = 3
)

// EncodeResult encodes what Apply returned.
func EncodeResult(result any) []byte {
	w := &writer{}
	switch x := result.(type) {
	case nil:
		w.byte(resultNone)
	case *Topic:
		w.byte(resultTopic)
		w.topic(x)
	case ProducerIDs:
		w.byte(resultIDs)
		w.varint(x.First)
		w.varint(int64(x.Count))
	case Replica:
		w.byte(resultReplica)
		w.replicas([]Replica{x})
	default:
		panic(fmt.Sprintf("meta: a result of type %T", result)) // a bug: Apply returns only these
	}
	return w.b
}

// DecodeResult is its inverse.
func DecodeResult(b []byte) (any, error) {
	r := &reader{b: b}
	var result any
	switch what := r.byte(); {
	case r.err != nil, what == resultNone:
	case what == resultTopic:
		result = r.topic()
	case what == resultIDs:
		result = ProducerIDs{First: r.varint(), Count: r.int32()}
	case what == resultReplica:
		if rs := r.replicas(); len(rs) == 1 {
			result = rs[0]
		} else {
			r.fail("replica")
		}
	default:
		return nil, fmt.Errorf("%w: result %d", ErrTooNew, what)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	return result, nil
}
