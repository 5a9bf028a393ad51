package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/balsa-broker/balsa/internal/raftlog"
)

// gossip is this broker's Serf membership: it finds the other brokers, notices when they fall silent, and keeps
// brokers of other clusters and second holders of a node id out.
//
// A member's name is "<node>.<incarnation>.<run>", so each start of a process is a member of its own: a broker
// restarted on another address never fights its former self for a name, and the former self fails by probes alone.
type gossip struct {
	opt  gossipOptions
	log  *slog.Logger
	serf *serf.Serf
	name string
	addr string // advertised, as others should join it

	mu      sync.Mutex
	tags    map[string]string
	members map[string]member
	hints   map[int32]peerHint // last known addresses, also of brokers that are gone
	refused refusal
	warned  map[string]time.Time

	events chan serf.Event
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

type gossipOptions struct {
	self      member // what the tags say of this broker
	listen    string
	advertise string // host:port; empty: the listener's
	join      []string
	hints     map[int32]peerHint
	timing    Timing
	transport memberlist.Transport // nil: TCP and UDP on listen
	broadcast time.Duration        // how long to wait until changed tags are sent; 0: a second
	// onChange is called after a member appeared, changed or went; it must not block.
	onChange func(node int32)
	// onHints gets the known addresses when they changed.
	onHints func(map[int32]peerHint)
	logger  *slog.Logger
}

// member is one run of one broker as gossip sees it.
type member struct {
	Node        int32
	Incarnation uint64
	Run         uint64 // start time in ms and a random part: the larger, the later
	ClusterAddr string
	GossipAddr  string
	Rack        string
	Version     string
	ClusterID   string
	Expect      int   // --bootstrap-expect
	HasState    bool  // has controller state, so will never bootstrap
	Generation  uint8 // of its member of the controller group
	Alive       bool
}

// peerHint says where a broker was last seen. It is only ever used to try to reach it.
type peerHint struct {
	Gossip  string `json:"gossip"`
	Cluster string `json:"cluster"`
}

type refusal struct {
	err error
	at  time.Time
}

// Tags, short: Serf has 512 bytes for all of them.
const (
	tagNode        = "id"
	tagIncarnation = "inc"
	tagRun         = "run"
	tagCluster     = "addr"
	tagGossip      = "gsp"
	tagRack        = "rack"
	tagVersion     = "ver"
	tagClusterID   = "cid"
	tagExpect      = "exp"
	tagState       = "st"
	tagGeneration  = "gen"
)

func (m member) name() string { return fmt.Sprintf("%d.%x.%x", m.Node, m.Incarnation, m.Run) }

func (m member) encodeTags() map[string]string {
	t := map[string]string{
		tagNode:        strconv.Itoa(int(m.Node)),
		tagIncarnation: strconv.FormatUint(m.Incarnation, 16),
		tagRun:         strconv.FormatUint(m.Run, 16),
		tagCluster:     m.ClusterAddr,
		tagGossip:      m.GossipAddr,
		tagVersion:     m.Version,
	}
	if m.Rack != "" {
		t[tagRack] = m.Rack
	}
	if m.ClusterID != "" {
		t[tagClusterID] = m.ClusterID
	}
	if m.Expect > 0 {
		t[tagExpect] = strconv.Itoa(m.Expect)
	}
	if m.HasState {
		t[tagState] = "1"
	}
	if m.Generation > 0 {
		t[tagGeneration] = strconv.Itoa(int(m.Generation))
	}
	return t
}

func decodeMember(t map[string]string) (member, error) {
	id, err := strconv.ParseInt(t[tagNode], 10, 32)
	if err != nil {
		return member{}, errors.New("not a Balsa broker")
	}
	inc, err1 := strconv.ParseUint(t[tagIncarnation], 16, 64)
	run, err2 := strconv.ParseUint(t[tagRun], 16, 64)
	if err1 != nil || err2 != nil {
		return member{}, errors.New("not a Balsa broker")
	}
	expect, _ := strconv.Atoi(t[tagExpect])
	generation, _ := strconv.ParseUint(t[tagGeneration], 10, 8)
	return member{
		Node: int32(id), Incarnation: inc, Generation: uint8(generation), Run: run, ClusterAddr: t[tagCluster], GossipAddr: t[tagGossip], Rack: t[tagRack],
		Version: t[tagVersion], ClusterID: t[tagClusterID], Expect: expect, HasState: t[tagState] != "",
	}, nil
}

func startGossip(ctx context.Context, opt gossipOptions) (*gossip, error) {
	host, port, err := splitHostPort(opt.listen)
	if err != nil {
		return nil, fmt.Errorf("cluster: gossip listener: %w", err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	g := &gossip{
		opt: opt, log: opt.logger, name: opt.self.name(), members: make(map[string]member), hints: make(map[int32]peerHint),
		warned: make(map[string]time.Time), events: make(chan serf.Event, 4096), stop: stop,
	}
	maps.Copy(g.hints, opt.hints)

	ml := memberlist.DefaultLANConfig()
	ml.BindAddr, ml.BindPort = host, port
	ml.AdvertisePort = port
	if opt.advertise != "" {
		ahost, aport, err := splitHostPort(opt.advertise)
		if err != nil {
			stop()
			return nil, fmt.Errorf("cluster: advertised gossip address: %w", err)
		}
		if aport != 0 {
			ml.AdvertisePort = aport
		}
		if ml.AdvertiseAddr, err = resolveIP(ctx, ahost); err != nil {
			stop()
			return nil, fmt.Errorf("cluster: advertised gossip address: %w", err)
		}
	}
	ml.Transport = opt.transport
	t := opt.timing
	ml.ProbeInterval, ml.ProbeTimeout = t.GossipProbeInterval, t.GossipProbeTimeout
	ml.SuspicionMult, ml.SuspicionMaxTimeoutMult = t.GossipSuspicionMult, t.GossipSuspicionMaxMult
	ml.AwarenessMaxMultiplier = 4
	ml.GossipInterval = 100 * time.Millisecond
	ml.PushPullInterval = 10 * time.Second
	ml.TCPTimeout = 2 * time.Second
	ml.EnableCompression = false // a probe is fifty bytes: packing it costs more than all else that gossip does
	ml.Merge, ml.Alive = g, g

	cfg := serf.DefaultConfig()
	cfg.Init()
	cfg.NodeName = g.name
	cfg.MemberlistConfig = ml
	cfg.EventCh = g.events
	cfg.EnableNameConflictResolution = false
	cfg.DisableCoordinates = true
	cfg.BroadcastTimeout = cmp.Or(opt.broadcast, time.Second)
	cfg.LeavePropagateDelay = 300 * time.Millisecond
	cfg.ReconnectInterval = 5 * time.Second
	cfg.ReconnectTimeout = time.Minute // beyond it we look for the broker ourselves (joinLoop)
	cfg.TombstoneTimeout = time.Minute
	cfg.LogOutput = nil
	cfg.Logger = raftlog.New(opt.logger).StandardLogger(nil)
	ml.LogOutput, ml.Logger = nil, cfg.Logger

	self := opt.self
	if self.GossipAddr == "" {
		self.GossipAddr = opt.advertise
	}
	if port == 0 || self.GossipAddr == "" || strings.HasSuffix(self.GossipAddr, ":0") {
		self.GossipAddr = "" // known once the port is bound
	}
	g.tags = self.encodeTags()
	cfg.Tags = g.tags
	if n := tagsSize(g.tags); n > memberlist.MetaMaxSize-40 {
		stop()
		return nil, fmt.Errorf("cluster: rack, version and addresses take %d bytes of gossip's %d", n, memberlist.MetaMaxSize-40)
	}
	g.wg.Add(1)
	go g.eventLoop(ctx)
	s, err := serf.Create(cfg)
	if err != nil {
		stop()
		g.wg.Wait()
		return nil, fmt.Errorf("cluster: gossip on %s: %w", opt.listen, err)
	}
	g.serf = s
	local := s.LocalMember()
	g.addr = self.GossipAddr
	if g.addr == "" {
		ahost := local.Addr.String()
		if opt.advertise != "" {
			ahost, _, _ = splitHostPort(opt.advertise)
		}
		g.addr = net.JoinHostPort(ahost, strconv.Itoa(int(local.Port)))
		if err := g.setTags(map[string]string{tagGossip: g.addr}); err != nil {
			g.kill()
			return nil, err
		}
	}
	g.wg.Add(1)
	go g.joinLoop(ctx)
	return g, nil
}

// setTags changes some of this broker's tags; an empty value removes one.
func (g *gossip) setTags(change map[string]string) error {
	g.mu.Lock()
	next := make(map[string]string, len(g.tags)+len(change))
	maps.Copy(next, g.tags)
	same := true
	for k, v := range change {
		if next[k] == v {
			continue
		}
		same = false
		if v == "" {
			delete(next, k)
		} else {
			next[k] = v
		}
	}
	g.tags = next
	g.mu.Unlock()
	if same {
		return nil
	}
	if err := g.serf.SetTags(next); err != nil {
		// They hold once they are this member's. That the others did not hear of them in time is no reason to fail:
		// those that are alive do, with one of the next messages.
		if maps.Equal(g.serf.LocalMember().Tags, next) {
			g.log.Debug("Gossip of changed tags is slow", "err", err)
			return nil
		}
		return fmt.Errorf("cluster: gossip tags: %w", err)
	}
	return nil
}

// NotifyMerge vets the members of a peer that is being joined, or joins.
func (g *gossip) NotifyMerge(peers []*memberlist.Node) error {
	for _, p := range peers {
		if p.State == memberlist.StateDead || p.State == memberlist.StateLeft {
			continue
		}
		if err := g.admit(p); err != nil {
			return err
		}
	}
	return nil
}

// NotifyAlive vets one member that gossip tells of. Called with memberlist's lock held.
func (g *gossip) NotifyAlive(peer *memberlist.Node) error { return g.admit(peer) }

// admit refuses a member of another cluster, and a second holder of a node id.
func (g *gossip) admit(n *memberlist.Node) error {
	if n.Name == g.name {
		return nil
	}
	at := net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
	m, err := decodeMember(decodeMeta(n.Meta))
	if err != nil {
		return fmt.Errorf("member %q at %s refused: %w", n.Name, at, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	own := g.opt.self
	if cid := g.tags[tagClusterID]; cid != "" && m.ClusterID != "" && cid != m.ClusterID {
		err = fmt.Errorf("%w: broker %d at %s belongs to cluster %s, this broker (%d at %s) to cluster %s",
			ErrWrongCluster, m.Node, at, m.ClusterID, own.Node, g.addr, cid)
	} else if m.Node == own.Node && m.Incarnation != own.Incarnation {
		err = fmt.Errorf("node id %d is used twice: by the broker at %s (disk %x) and by this one at %s (disk %x)",
			m.Node, at, m.Incarnation, g.addr, own.Incarnation)
	} else {
		for _, o := range g.members {
			if o.Alive && o.Node == m.Node && o.Incarnation != m.Incarnation && m.Node != own.Node {
				err = fmt.Errorf("node id %d is used twice: by the broker at %s (disk %x) and by the one at %s (disk %x)",
					m.Node, o.GossipAddr, o.Incarnation, at, m.Incarnation)
				break
			}
		}
	}
	if err != nil {
		g.refused = refusal{err: err, at: time.Now()}
		if time.Since(g.warned[err.Error()]) > time.Minute && len(g.warned) < 100 {
			g.warned[err.Error()] = time.Now()
			g.log.Error("Broker refused", "err", err)
		}
	}
	return err
}

// refusedLately returns why a peer was refused in the last seconds, or nil.
func (g *gossip) refusedLately() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.refused.at) < 10*time.Second {
		return g.refused.err
	}
	return nil
}

// known returns the newest run of each broker, the living before the dead, without this broker.
func (g *gossip) known() map[int32]member {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[int32]member)
	for name, m := range g.members {
		if name == g.name || m.Node == g.opt.self.Node {
			continue
		}
		if o, ok := out[m.Node]; !ok || newer(m, o) {
			out[m.Node] = m
		}
	}
	return out
}

func newer(a, b member) bool {
	if a.Alive != b.Alive {
		return a.Alive
	}
	return a.Run > b.Run
}

func (g *gossip) member(node int32) (member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var best member
	found := false
	for _, m := range g.members {
		if m.Node == node && (!found || newer(m, best)) {
			best, found = m, true
		}
	}
	return best, found
}

func (g *gossip) hint(node int32) (peerHint, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.hints[node]
	return h, ok
}

func (g *gossip) eventLoop(ctx context.Context) {
	defer g.wg.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-g.events:
			me, ok := e.(serf.MemberEvent)
			if !ok {
				continue
			}
			for _, sm := range me.Members {
				g.apply(me.Type, sm)
			}
		}
	}
}

func (g *gossip) apply(t serf.EventType, sm serf.Member) {
	m, err := decodeMember(sm.Tags)
	if err != nil {
		return
	}
	m.Alive = t == serf.EventMemberJoin || t == serf.EventMemberUpdate && sm.Status == serf.StatusAlive
	var hints map[int32]peerHint
	g.mu.Lock()
	if t == serf.EventMemberReap {
		delete(g.members, sm.Name)
	} else {
		g.members[sm.Name] = m
	}
	if m.Alive && m.Node != g.opt.self.Node && m.GossipAddr != "" {
		h := peerHint{Gossip: m.GossipAddr, Cluster: m.ClusterAddr}
		if g.hints[m.Node] != h {
			g.hints[m.Node] = h
			hints = make(map[int32]peerHint, len(g.hints))
			maps.Copy(hints, g.hints)
		}
	}
	g.mu.Unlock()
	if hints != nil && g.opt.onHints != nil {
		g.opt.onHints(hints)
	}
	if m.Node != g.opt.self.Node {
		switch t {
		case serf.EventMemberJoin:
			g.log.Info("Broker found", "node", m.Node, "address", m.ClusterAddr, "disk", strconv.FormatUint(m.Incarnation, 16))
		case serf.EventMemberFailed:
			g.log.Warn("Broker is silent", "node", m.Node, "address", m.ClusterAddr)
		case serf.EventMemberLeave:
			g.log.Info("Broker left", "node", m.Node)
		}
	}
	if g.opt.onChange != nil {
		g.opt.onChange(m.Node)
	}
}

// joinLoop looks for brokers that are not here, for ever: those of --join, and those seen before.
func (g *gossip) joinLoop(ctx context.Context) {
	defer g.wg.Done()
	wait := 100 * time.Millisecond
	last := ""
	for {
		if targets := g.targets(); len(targets) > 0 {
			_, err := g.serf.Join(targets, true)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				last = ""
			case err.Error() != last:
				last = err.Error()
				g.log.Info("Looking for brokers", "addresses", targets, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if wait *= 2; wait > 5*time.Second {
			wait = 5 * time.Second
		}
	}
}

// targets are the addresses of --join and of former peers at which no living member is known.
func (g *gossip) targets() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	alive := make(map[int32]bool)
	addrs := map[string]bool{g.addr: true}
	for _, m := range g.members {
		if m.Alive {
			alive[m.Node] = true
			addrs[m.GossipAddr] = true
		}
	}
	var out []string
	for _, a := range g.opt.join {
		if !addrs[a] {
			addrs[a] = true
			out = append(out, a)
		}
	}
	for id, h := range g.hints {
		if !alive[id] && h.Gossip != "" && !addrs[h.Gossip] {
			addrs[h.Gossip] = true
			out = append(out, h.Gossip)
		}
	}
	slices.Sort(out)
	return out
}

// leave says goodbye and stops.
func (g *gossip) leave() {
	if err := g.serf.Leave(); err != nil {
		g.log.Debug("Leaving gossip", "err", err)
	}
	g.kill()
}

// kill stops without a word.
func (g *gossip) kill() {
	g.stop()
	if g.serf != nil {
		_ = g.serf.Shutdown()
	}
	g.wg.Wait()
}

// decodeMeta reads Serf's tags from a memberlist node: a magic byte and a msgpack map.
func decodeMeta(meta []byte) map[string]string {
	tags := make(map[string]string)
	if len(meta) > 1 && meta[0] == 255 {
		_ = codec.NewDecoderBytes(meta[1:], &codec.MsgpackHandle{}).Decode(&tags)
	}
	return tags
}

func tagsSize(tags map[string]string) int {
	n := 4
	for k, v := range tags {
		n += len(k) + len(v) + 4
	}
	return n
}

func splitHostPort(a string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(a)
	if err != nil {
		return "", 0, err
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("%q: the port is not a number from 0 to 65535", a)
	}
	return host, port, nil
}

// resolveIP waits a little for a name that is not there yet, as in a container network that is being made.
func resolveIP(ctx context.Context, host string) (string, error) {
	if ip := net.ParseIP(host); ip != nil {
		return host, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
		if err == nil && len(ips) > 0 {
			for _, ip := range ips {
				if v4 := ip.To4(); v4 != nil {
					return v4.String(), nil
				}
			}
			return ips[0].String(), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s: %w", host, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}
