package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/integration/history"
)

// Client returns a kgo client that notices changes of leadership as fast as a client can.
func (c *Cluster) Client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.Bootstrap()...),
		kgo.MetadataMinAge(20 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }),
		kgo.Dialer(c.dial),
		// A broker that dies between accept and answer looks to the client like one that wants a login.
		kgo.AlwaysRetryEOF(),
	}, opts...)...)
}

// CreateTopic creates a topic and returns when every partition has a leader.
func (c *Cluster) CreateTopic(ctx context.Context, name string, partitions int32, replicas int16, configs map[string]*string) error {
	cl, err := c.Client()
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopic(ctx, partitions, replicas, configs, name)
	return err
}

// Leader returns the broker that leads a partition, or an error when ctx ends before there is one.
func (c *Cluster) Leader(ctx context.Context, topic string, partition int32) (int32, error) {
	cl, err := c.Client()
	if err != nil {
		return -1, err
	}
	defer cl.Close()
	for {
		m, err := metadata(ctx, cl, topic)
		if err == nil {
			if p, ok := m.Topics[topic].Partitions[partition]; ok && p.Leader >= 0 && p.Err == nil {
				return p.Leader, nil
			}
		}
		select {
		case <-ctx.Done():
			return -1, fmt.Errorf("no leader of %s/%d: %w", topic, partition, errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Controller returns the broker that metadata names as the controller.
func (c *Cluster) Controller(ctx context.Context) (int32, error) {
	cl, err := c.Client()
	if err != nil {
		return -1, err
	}
	defer cl.Close()
	for {
		m, err := metadata(ctx, cl)
		if err == nil && m.Controller >= 0 {
			return m.Controller, nil
		}
		select {
		case <-ctx.Done():
			return -1, fmt.Errorf("no controller: %w", errors.Join(ctx.Err(), err))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Load is idempotent producers with acks=all and readers from the start, on one topic.
type Load struct {
	Topic      string
	Partitions int32
	History    *history.History
	// LastAck per partition, unix nanoseconds; LongestGap per partition since ResetGaps, nanoseconds.
	lastAck, gap []atomic.Int64
	read         []atomic.Int64 // offset up to which the first reader has read
	// begun holds a token for each producer that got its first acknowledgement.
	begun     chan struct{}
	producers int

	c       *Cluster
	stop    chan struct{}
	cancel  context.CancelFunc
	readers context.CancelFunc
	wg      sync.WaitGroup
	clients []*kgo.Client
	errs    atomic.Pointer[string]
}

// LoadOptions shape a Load. Zero values: 2 producers, 64 records in flight each, 100 B.
type LoadOptions struct {
	Producers, InFlight, RecordSize int
	// Readers follow the log from the start.
	Readers int
	// Pace is the pause of a producer between two records; 0: full speed within InFlight.
	Pace time.Duration
	// Delete is how often the first half of what the first reader has read of some partition is deleted; 0: never.
	Delete time.Duration
}

// StartLoad starts producers and readers; Stop ends them.
func (c *Cluster) StartLoad(topic string, partitions int32, o LoadOptions) (*Load, error) {
	if o.Producers == 0 {
		o.Producers = 2
	}
	if o.InFlight == 0 {
		o.InFlight = 64
	}
	if o.RecordSize == 0 {
		o.RecordSize = 100
	}
	ctx, cancel := context.WithCancel(context.Background())
	rctx, rcancel := context.WithCancel(context.Background())
	fail := func(err error) (*Load, error) {
		cancel()
		rcancel()
		return nil, err
	}
	l := &Load{
		Topic: topic, Partitions: partitions, History: history.New(), c: c, stop: make(chan struct{}),
		lastAck: make([]atomic.Int64, partitions), gap: make([]atomic.Int64, partitions), read: make([]atomic.Int64, partitions), cancel: cancel, readers: rcancel,
		begun: make(chan struct{}, o.Producers), producers: o.Producers,
	}
	for i := range o.Producers {
		cl, err := c.Client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ProducerLinger(0),
			// Told of a gap in its sequence, the client begins a new epoch and sends again: its records stand twice.
			kgo.ProducerOnDataLossDetected(func(_ string, partition int32) {
				s := fmt.Sprintf("producer %d was told of lost records in partition %d", i, partition)
				l.errs.CompareAndSwap(nil, &s)
			}),
			// A frozen broker answers nothing: the client must give up on it before it asks who leads now.
			kgo.RequestTimeoutOverhead(500*time.Millisecond), kgo.ProduceRequestTimeout(time.Second),
			// A broker that says it has not seen what it acknowledged: the client would begin a new epoch and send again.
			kgo.ProducerOnDataLossDetected(func(topic string, p int32) {
				l.fault(fmt.Sprintf("producer %d was told that records of %s/%d are lost or out of order", i, topic, p))
			}))
		if err != nil {
			return fail(err)
		}
		l.clients = append(l.clients, cl)
		// The producer's id first: a client whose first request on a connection meets a kill takes that for a missing
		// login and gives up.
		idCtx, idCancel := context.WithTimeout(ctx, 20*time.Second)
		_, _, err = cl.ProducerID(idCtx)
		idCancel()
		if err != nil {
			return fail(err)
		}
		l.wg.Add(1)
		go l.produce(ctx, cl, i, o)
	}
	for i := range o.Readers {
		parts := map[int32]kgo.Offset{}
		for p := range partitions {
			parts[p] = kgo.NewOffset().At(0)
		}
		cl, err := c.Client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: parts}), kgo.FetchMaxWait(500*time.Millisecond))
		if err != nil {
			return fail(err)
		}
		l.clients = append(l.clients, cl)
		l.wg.Add(1)
		go l.consume(rctx, cl, i)
	}
	if o.Delete > 0 {
		cl, err := c.Client()
		if err != nil {
			return fail(err)
		}
		l.clients = append(l.clients, cl)
		l.wg.Add(1)
		go l.deleteRecords(rctx, kadm.NewClient(cl), o.Delete)
	}
	return l, nil
}

func (l *Load) produce(ctx context.Context, cl *kgo.Client, producer int, o LoadOptions) {
	defer l.wg.Done()
	slots := make(chan struct{}, o.InFlight)
	for seq := 0; ; seq++ {
		select {
		case <-l.stop:
			// Wait for what is in flight: its fate belongs to the history.
			for range o.InFlight {
				slots <- struct{}{}
			}
			return
		case slots <- struct{}{}:
		}
		r := &kgo.Record{Partition: int32(seq) % l.Partitions, Value: history.Value(producer, seq, o.RecordSize)}
		sent := l.History.Send(producer, seq, r.Partition)
		cl.Produce(ctx, r, func(r *kgo.Record, err error) {
			defer func() { <-slots }()
			if err != nil {
				if definite(err) {
					sent.Failed()
				} else {
					sent.Unknown()
				}
				l.fault(fmt.Sprintf("producer %d record %d: %v", producer, seq, err))
				return
			}
			sent.OK(r.Offset)
			if seq == 0 {
				l.begun <- struct{}{}
			}
			now := time.Now().UnixNano()
			if last := l.lastAck[r.Partition].Swap(now); last > 0 {
				for g := now - last; ; {
					old := l.gap[r.Partition].Load()
					if g <= old || l.gap[r.Partition].CompareAndSwap(old, g) {
						break
					}
				}
			}
		})
		if o.Pace > 0 {
			time.Sleep(o.Pace)
		}
	}
}

// fault keeps the first thing that a client should not have seen.
func (l *Load) fault(s string) { l.errs.CompareAndSwap(nil, &s) }

// definite says whether an error is the broker's word that it did not and will not store the record.
func definite(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.InvalidRecord) || errors.Is(err, kerr.CorruptMessage)
}

// deleteRecords deletes, every now and then, the first half of what was read of a partition.
func (l *Load) deleteRecords(ctx context.Context, admin *kadm.Client, every time.Duration) {
	defer l.wg.Done()
	for p := int32(0); ; p = (p + 1) % l.Partitions {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		below := l.read[p].Load() / 2
		if below == 0 {
			continue
		}
		deletion := l.History.Delete("admin", p, below)
		resp, err := admin.DeleteRecords(ctx, kadm.Offsets{l.Topic: {p: {Topic: l.Topic, Partition: p, At: below}}})
		if err == nil {
			err = resp.Error()
		}
		if err == nil {
			deletion.OK(-1)
		} else {
			deletion.Unknown()
		}
	}
}

func (l *Load) consume(ctx context.Context, cl *kgo.Client, reader int) {
	defer l.wg.Done()
	c := l.History.Consumer(fmt.Sprintf("reader %d", reader))
	for p := range l.Partitions {
		c.Assign(p, 0)
	}
	for ctx.Err() == nil {
		c.BeginPoll()
		fs := cl.PollFetches(ctx)
		fs.EachRecord(func(r *kgo.Record) {
			c.Read(r.Partition, r.Offset, r.Value)
			if reader == 0 {
				l.read[r.Partition].Store(r.Offset + 1)
			}
		})
		c.EndPoll()
	}
}

// ResetGaps starts a new measurement of the gaps between acknowledgements.
func (l *Load) ResetGaps() {
	now := time.Now().UnixNano()
	for i := range l.gap {
		l.gap[i].Store(0)
		l.lastAck[i].Store(now)
	}
}

// Gap returns the longest time without an acknowledgement on a partition since ResetGaps.
func (l *Load) Gap(partition int32) time.Duration {
	g := l.gap[partition].Load()
	if since := time.Now().UnixNano() - l.lastAck[partition].Load(); since > g {
		g = since
	}
	return time.Duration(g)
}

// WaitAcks waits until every partition has acknowledged something sent after now.
func (l *Load) WaitAcks(ctx context.Context) error {
	// A client that has no producer id yet may give up when a broker dies under it.
	for ; l.producers > 0; l.producers-- {
		select {
		case <-l.begun:
		case <-ctx.Done():
			return fmt.Errorf("a producer has no acknowledgement yet: %w", ctx.Err())
		}
	}
	start := time.Now().UnixNano()
	for p := range l.lastAck {
		for l.lastAck[p].Load() < start {
			select {
			case <-ctx.Done():
				return fmt.Errorf("partition %d acknowledges nothing: %w", p, ctx.Err())
			case <-time.After(time.Millisecond):
			}
		}
	}
	return nil
}

// Stop ends producers (after what they have in flight is decided, or after timeout) and readers. It returns the first
// thing that a client should not have seen.
func (l *Load) Stop(timeout time.Duration) error {
	close(l.stop)
	l.readers()
	done := make(chan struct{})
	go func() { l.wg.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-time.After(timeout):
		err = fmt.Errorf("records still undecided after %v", timeout)
		l.cancel()
		<-done
	}
	l.cancel()
	for _, cl := range l.clients {
		cl.Close()
	}
	if s := l.errs.Load(); s != nil {
		err = errors.Join(err, errors.New(*s))
	}
	return err
}

// ReadAll reads every partition from its start to its high watermark.
func (c *Cluster) ReadAll(ctx context.Context, topic string, partitions int32) (map[int32][]history.Final, error) {
	cl, err := c.Client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var ends kadm.ListedOffsets
	for {
		if ends, err = kadm.NewClient(cl).ListEndOffsets(ctx, topic); err == nil {
			err = ends.Error()
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, err
		}
		time.Sleep(20 * time.Millisecond)
	}
	out := map[int32][]history.Final{}
	from := map[int32]kgo.Offset{}
	var left int
	for p := range partitions {
		if end, _ := ends.Lookup(topic, p); end.Offset > 0 {
			from[p] = kgo.NewOffset().AtStart()
			left++
		}
	}
	if left == 0 {
		return out, nil
	}
	r, err := c.Client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for left > 0 {
		fs := r.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read all of %s: %w", topic, err)
		}
		fs.EachRecord(func(rec *kgo.Record) {
			end, _ := ends.Lookup(topic, rec.Partition)
			if rec.Offset < end.Offset {
				out[rec.Partition] = append(out[rec.Partition], history.Final{Offset: rec.Offset, Value: rec.Value})
			}
			if rec.Offset == end.Offset-1 {
				left--
			}
		})
	}
	return out, nil
}

// WaitInSync waits until every replica of a partition is in sync.
func (c *Cluster) WaitInSync(ctx context.Context, topic string, partition int32) error {
	cl, err := c.Client()
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		m, err := metadata(ctx, cl, topic)
		var got string
		if err == nil {
			p := m.Topics[topic].Partitions[partition]
			if p.Leader >= 0 && len(p.Replicas) > 0 && len(p.ISR) == len(p.Replicas) && len(p.OfflineReplicas) == 0 {
				return nil
			}
			got = fmt.Sprintf("leader %d, replicas %v, in sync %v, offline %v", p.Leader, p.Replicas, p.ISR, p.OfflineReplicas)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s/%d is not in sync: %s: %w", topic, partition, got, errors.Join(ctx.Err(), err))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// LeaderSeenBy asks the brokers other than except who leads a partition; -1 when they know nobody.
func (c *Cluster) LeaderSeenBy(ctx context.Context, except *Node, topic string, partition int32) (int32, error) {
	var seeds []string
	for _, n := range c.Nodes {
		if n != except {
			seeds = append(seeds, n.KafkaAddr)
		}
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.DialTimeout(time.Second))
	if err != nil {
		return -1, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m, err := metadata(ctx, cl, topic)
	if err != nil {
		return -1, err
	}
	p, ok := m.Topics[topic].Partitions[partition]
	if !ok {
		return -1, nil
	}
	return p.Leader, nil
}

// ReplicasOn counts a topic's replicas per broker.
func (c *Cluster) ReplicasOn(ctx context.Context, topic string) map[int32]int {
	out := map[int32]int{}
	cl, err := c.Client()
	if err != nil {
		return out
	}
	defer cl.Close()
	m, err := metadata(ctx, cl, topic)
	if err != nil {
		return out
	}
	for _, p := range m.Topics[topic].Partitions {
		for _, r := range p.Replicas {
			out[r]++
		}
	}
	return out
}

// Brokers lists the brokers that metadata names.
func (c *Cluster) Brokers(ctx context.Context) ([]int32, error) {
	cl, err := c.Client()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	m, err := metadata(ctx, cl)
	if err != nil {
		return nil, err
	}
	return m.Brokers.NodeIDs(), nil
}

// LeaderEpoch returns who leads a partition, and in which epoch.
func (c *Cluster) LeaderEpoch(ctx context.Context, topic string, partition int32) (node, epoch int32, err error) {
	cl, err := c.Client()
	if err != nil {
		return -1, -1, err
	}
	defer cl.Close()
	m, err := metadata(ctx, cl, topic)
	if err != nil {
		return -1, -1, err
	}
	p, ok := m.Topics[topic].Partitions[partition]
	if !ok || p.Err != nil {
		return -1, -1, fmt.Errorf("%s/%d: %w", topic, partition, p.Err)
	}
	return p.Leader, p.LeaderEpoch, nil
}

// metadata asks a broker anew: kadm's own call may answer from the client's cache.
func metadata(ctx context.Context, cl *kgo.Client, topics ...string) (kadm.Metadata, error) {
	m := kadm.Metadata{Controller: -1, Topics: kadm.TopicDetails{}}
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &t
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return m, err
	}
	m.Controller = resp.ControllerID
	for _, b := range resp.Brokers {
		m.Brokers = append(m.Brokers, kadm.BrokerDetail{NodeID: b.NodeID, Host: b.Host, Port: b.Port, Rack: b.Rack})
	}
	for _, t := range resp.Topics {
		d := kadm.TopicDetail{Topic: *t.Topic, Partitions: kadm.PartitionDetails{}, Err: kerr.ErrorForCode(t.ErrorCode)}
		for _, p := range t.Partitions {
			d.Partitions[p.Partition] = kadm.PartitionDetail{
				Topic: *t.Topic, Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas,
				ISR: p.ISR, OfflineReplicas: p.OfflineReplicas, Err: kerr.ErrorForCode(p.ErrorCode),
			}
		}
		m.Topics[*t.Topic] = d
	}
	return m, nil
}
