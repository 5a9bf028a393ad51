package harness

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
)

// Network is a bridge in this host with one network namespace per broker, so that links between brokers can be cut.
// It needs root, ip (iproute2) and iptables. Clients run in the host's own namespace, on the bridge's address.
type Network struct {
	id    int
	mu    sync.Mutex
	hosts map[int]string
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
	n := &Network{hosts: map[int]string{}}
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
func (n *Network) ip(node int) string   { return fmt.Sprintf("10.199.%d.%d", n.id, 10+node) }

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

// Command puts a command line into the broker's namespace.
func (n *Network) Command(node int, args []string) []string {
	return append([]string{"ip", "netns", "exec", n.ns(node)}, args...)
}

// CutOneWay drops, silently, what a sends to b.
func (n *Network) CutOneWay(a, b int) error {
	return run(fmt.Sprintf("ip netns exec %s iptables -w -A OUTPUT -d %s -j DROP", n.ns(a), n.ip(b)))
}

// Cut drops what goes between a and b, both ways.
func (n *Network) Cut(a, b int) error {
	return errors.Join(n.CutOneWay(a, b), n.CutOneWay(b, a))
}

// Isolate drops everything that goes from and to a broker, clients included.
func (n *Network) Isolate(a int) error {
	return errors.Join(
		run(fmt.Sprintf("ip netns exec %s iptables -w -A OUTPUT ! -o lo -j DROP", n.ns(a))),
		run(fmt.Sprintf("ip netns exec %s iptables -w -A INPUT ! -i lo -j DROP", n.ns(a))))
}

// Mute drops what a broker sends to anybody; it still hears.
func (n *Network) Mute(a int) error {
	return run(fmt.Sprintf("ip netns exec %s iptables -w -A OUTPUT ! -o lo -j DROP", n.ns(a)))
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
