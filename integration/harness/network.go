package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Network is a bridge in this host with one network namespace per broker, so that links between brokers can be cut.
// It needs root, ip (iproute2) and iptables. Clients run in the host's own namespace, on the bridge's address.
type Network struct {
	id    int
	mu    sync.Mutex
	hosts map[int]string // present addresses
	moves map[int]int    // how often a broker's address changed
}

// NetworkUnavailable says why namespaces can't be used here, or nil.
func NetworkUnavailable() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("network namespaces need %s (Debian: apt-get install iproute2 iptables)", tool)
		}
	}
	return nil
}

// NewNetwork makes a bridge that nobody else uses.
func NewNetwork() (*Network, error) {
	n := &Network{hosts: map[int]string{}, moves: map[int]int{}}
	var err error
	for range 20 { // a concurrent run may have the same
		n.id = rand.IntN(256)
		if err = run(fmt.Sprintf("ip link add %s type bridge", n.bridge())); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	for _, c := range []string{
		fmt.Sprintf("ip addr add 10.199.%d.1/24 dev %s", n.id, n.bridge()),
		fmt.Sprintf("ip link set %s up", n.bridge()),
		// Where a packet filter drops forwarded traffic by default (Docker does), let the bridge through.
		fmt.Sprintf("iptables -w -I FORWARD -i %s -o %s -j ACCEPT", n.bridge(), n.bridge()),
	} {
		if err := run(c); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

func (n *Network) bridge() string       { return fmt.Sprintf("blsbr%d", n.id) }
func (n *Network) ns(node int) string   { return fmt.Sprintf("bls%d-%d", n.id, node) }
func (n *Network) veth(node int) string { return fmt.Sprintf("blsv%d-%d", n.id, node) }
func (n *Network) ip(node int) string {
	return fmt.Sprintf("10.199.%d.%d", n.id, 10+node+10*(n.moves[node]%24))
}

// Host makes the broker's namespace, once, and returns its address.
func (n *Network) Host(node int) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h, ok := n.hosts[node]; ok {
		return h, nil
	}
	ns, v := n.ns(node), n.veth(node)
	for _, c := range []string{
		"ip netns add " + ns,
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %s", v, ns),
		fmt.Sprintf("ip link set %s master %s", v, n.bridge()),
		fmt.Sprintf("ip link set %s up", v),
		fmt.Sprintf("ip -n %s addr add %s/24 dev eth0", ns, n.ip(node)),
		fmt.Sprintf("ip -n %s link set eth0 up", ns),
		fmt.Sprintf("ip -n %s link set lo up", ns),
	} {
		if err := run(c); err != nil {
			return "", err
		}
	}
	n.hosts[node] = n.ip(node)
	return n.ip(node), nil
}

// Move gives a broker's namespace another address.
func (n *Network) Move(node int) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.ip(node)
	n.moves[node]++
	for _, c := range []string{
		fmt.Sprintf("ip -n %s addr del %s/24 dev eth0", n.ns(node), old),
		fmt.Sprintf("ip -n %s addr add %s/24 dev eth0", n.ns(node), n.ip(node)),
	} {
		if err := run(c); err != nil {
			return "", err
		}
	}
	n.hosts[node] = n.ip(node)
	return n.ip(node), nil
}

// Command puts a command line into the broker's namespace.
func (n *Network) Command(node int, args []string) []string {
	return append([]string{"ip", "netns", "exec", n.ns(node)}, args...)
}

// Rule is what a packet filter in a broker's namespace drops.
type Rule struct {
	node int
	spec string
}

// OneWayRules drop, silently, what a sends to b.
func (n *Network) OneWayRules(a, b int) []Rule {
	return []Rule{{a, fmt.Sprintf("OUTPUT -d %s -j DROP", n.ip(b))}}
}

// LinkRules drop what goes between a and b, both ways.
func (n *Network) LinkRules(a, b int) []Rule {
	return append(n.OneWayRules(a, b), n.OneWayRules(b, a)...)
}

// MuteRules drop what a broker sends to anybody; it still hears.
func (n *Network) MuteRules(a int) []Rule { return []Rule{{a, "OUTPUT ! -o lo -j DROP"}} }

// IsolateRules drop everything that goes from and to a broker, clients included.
func (n *Network) IsolateRules(a int) []Rule {
	return append(n.MuteRules(a), Rule{a, "INPUT ! -i lo -j DROP"})
}

// LossRules drop a share of the packets that a broker sends.
func (n *Network) LossRules(a int, share float64) []Rule {
	return []Rule{{a, fmt.Sprintf("OUTPUT ! -o lo -m statistic --mode random --probability %.4f -j DROP", share)}}
}

// Apply puts rules in force; undo takes the same ones back and leaves others as they are.
func (n *Network) Apply(rules []Rule) (undo func() error, err error) {
	do := func(what string, rules []Rule) error {
		var errs []error
		for _, r := range rules {
			errs = append(errs, run(fmt.Sprintf("ip netns exec %s iptables -w %s %s", n.ns(r.node), what, r.spec)))
		}
		return errors.Join(errs...)
	}
	return func() error { return do("-D", rules) }, do("-A", rules)
}

// Delay holds back what a broker sends by delay, give or take a half, with netem; where the kernel has no netem (tbf
// then) by a queue of at most 256 kbit/s and that long, so that packets wait under load. kind says which. Only one per
// broker at a time.
func (n *Network) Delay(a int, delay time.Duration) (kind string, undo func() error, err error) {
	undo = func() error { return run(fmt.Sprintf("ip netns exec %s tc qdisc del dev eth0 root", n.ns(a))) }
	ms := delay.Milliseconds()
	add := fmt.Sprintf("ip netns exec %s tc qdisc add dev eth0 root ", n.ns(a))
	if err = run(add + fmt.Sprintf("netem delay %dms %dms", ms, ms/2)); err == nil {
		return "netem", undo, nil
	}
	return "tbf", undo, run(add + fmt.Sprintf("tbf rate 256kbit burst 4kb latency %dms", max(ms, 1)))
}

// CutOneWay, Cut, Isolate and Mute put rules in force until Heal.
func (n *Network) CutOneWay(a, b int) error { return n.keep(n.OneWayRules(a, b)) }
func (n *Network) Cut(a, b int) error       { return n.keep(n.LinkRules(a, b)) }
func (n *Network) Isolate(a int) error      { return n.keep(n.IsolateRules(a)) }
func (n *Network) Mute(a int) error         { return n.keep(n.MuteRules(a)) }

func (n *Network) keep(rules []Rule) error {
	_, err := n.Apply(rules)
	return err
}

// Heal ends every cut.
func (n *Network) Heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for node := range n.hosts {
		errs = append(errs, run(fmt.Sprintf("ip netns exec %s iptables -w -F", n.ns(node))))
	}
	return errors.Join(errs...)
}

// Close removes the namespaces and the bridge.
func (n *Network) Close() {
	for node := range n.hosts {
		_ = run("ip netns del " + n.ns(node))
		_ = run("ip link del " + n.veth(node))
	}
	_ = run(fmt.Sprintf("iptables -w -D FORWARD -i %s -o %s -j ACCEPT", n.bridge(), n.bridge()))
	_ = run("ip link del " + n.bridge())
}

func run(line string) error {
	f := strings.Fields(line)
	if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return nil
}
