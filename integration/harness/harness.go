// Package harness runs clusters of real balsa processes for the integration tests and for verify: on loopback, or
// each in a network namespace of its own where links can be cut. It kills, stops, freezes and restarts them.
package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of a cluster. The zero value of everything but Nodes and Dir works.
type Options struct {
	Nodes int
	Dir   string // data folders and logs go below it
	// Net puts each broker into a network namespace of its own; nil: loopback ports.
	Net *Network
	// Set are broker settings (--set k=v) of every broker.
	Set []string
	// Env is added to every broker's environment.
	Env []string
	// Binary is the balsa binary; "": Build's.
	Binary string
}

// Cluster is a set of brokers that were started together.
type Cluster struct {
	Nodes []*Node
	o     Options

	mu     sync.Mutex
	moved  map[string]*Node // Kafka addresses that brokers had before
	dialer net.Dialer
}

// Node is one broker: its addresses and data folder stay, its process comes and goes.
type Node struct {
	ID                                           int
	Dir                                          string
	KafkaAddr, ClusterAddr, GossipAddr, HTTPAddr string
	Log                                          string // file with what all its processes printed
	// Wrap, when set, is a command line before the binary (strace ...).
	Wrap []string

	c    *Cluster
	args []string
	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

var (
	buildOnce sync.Once
	buildPath string
	errBuild  error
)

// Build returns the path of the binary under test: $BALSA_BIN, or one built once per process from this module.
func Build() (string, error) {
	if p := os.Getenv("BALSA_BIN"); p != "" {
		return p, nil
	}
	buildOnce.Do(func() {
		dir, err := os.MkdirTemp("", "balsa-bin-")
		if err != nil {
			errBuild = err
			return
		}
		buildPath = filepath.Join(dir, "balsa")
		cmd := exec.Command("go", "build", "-o", buildPath, "github.com/balsa-broker/balsa")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			errBuild = fmt.Errorf("build balsa: %w\n%s", err, out)
		}
	})
	return buildPath, errBuild
}

// RemoveBuild removes what Build made. Call it once, when no broker runs.
func RemoveBuild() {
	if buildPath != "" {
		_ = os.RemoveAll(filepath.Dir(buildPath))
	}
}

// New prepares a cluster without starting it.
func New(o Options) (*Cluster, error) {
	if o.Binary == "" {
		bin, err := Build()
		if err != nil {
			return nil, err
		}
		o.Binary = bin
	}
	c := &Cluster{o: o, moved: map[string]*Node{}, dialer: net.Dialer{Timeout: time.Second}}
	for i := range o.Nodes {
		if _, err := c.Add(i + 1); err != nil {
			return nil, err
		}
	}
	for _, n := range c.Nodes {
		if o.Nodes > 1 {
			n.args = append(n.args, "--bootstrap-expect", strconv.Itoa(o.Nodes), "--join", c.joinList(n))
		}
	}
	return c, nil
}

// Attach is a cluster of brokers that somebody else runs (containers), given their Kafka and HTTP addresses. Clients,
// loads and WaitReady of its nodes work; starting and stopping is the other's.
func Attach(kafka, http []string) *Cluster {
	c := &Cluster{o: Options{Nodes: len(kafka)}, dialer: net.Dialer{Timeout: time.Second}}
	for i := range kafka {
		c.Nodes = append(c.Nodes, &Node{ID: i + 1, KafkaAddr: kafka[i], HTTPAddr: http[i], c: c})
	}
	return c
}

// Add prepares one more broker. One added after New joins the others and never bootstraps.
func (c *Cluster) Add(id int) (*Node, error) {
	n := &Node{ID: id, c: c, Dir: filepath.Join(c.o.Dir, fmt.Sprintf("broker-%d", id))}
	n.Log = n.Dir + ".log"
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := n.NewAddresses(); err != nil {
		return nil, err
	}
	late := len(c.Nodes) >= c.o.Nodes
	c.Nodes = append(c.Nodes, n)
	if late {
		n.args = append(n.args, "--join", c.joinList(n))
	}
	return n, nil
}

func (c *Cluster) joinList(n *Node) string {
	var peers []string
	for _, p := range c.Nodes {
		if p != n {
			peers = append(peers, p.GossipAddr)
		}
	}
	return strings.Join(peers, ",")
}

// Rejoin makes every broker join the present addresses of the others from its next start on.
func (c *Cluster) Rejoin() {
	for _, n := range c.Nodes {
		for i, a := range n.args {
			if a == "--join" {
				n.args[i+1] = c.joinList(n)
			}
		}
	}
}

// NewAddresses gives a stopped broker new addresses. Clients find it under its old ones too, as if these were names.
func (n *Node) NewAddresses() error {
	if n.c.o.Net != nil {
		var host string
		var err error
		if n.KafkaAddr == "" {
			host, err = n.c.o.Net.Host(n.ID)
		} else {
			host, err = n.c.o.Net.Move(n.ID)
		}
		if err != nil {
			return err
		}
		n.setAddresses(host+":9092", host+":9192", host+":9193", host+":9644")
		return nil
	}
	p, err := FreePorts(4)
	if err != nil {
		return err
	}
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p[i])) }
	n.setAddresses(at(0), at(1), at(2), at(3))
	return nil
}

func (n *Node) setAddresses(kafka, cluster, gossip, http string) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.KafkaAddr != "" {
		n.c.moved[n.KafkaAddr] = n
	}
	n.KafkaAddr, n.ClusterAddr, n.GossipAddr, n.HTTPAddr = kafka, cluster, gossip, http
}

// dial connects a client. An address that a broker had before leads to the one it has.
func (c *Cluster) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c.mu.Lock()
	for _, n := range c.Nodes {
		if n.KafkaAddr == addr {
			c.mu.Unlock()
			return c.dialer.DialContext(ctx, network, addr)
		}
	}
	if n := c.moved[addr]; n != nil {
		addr = n.KafkaAddr
	}
	c.mu.Unlock()
	return c.dialer.DialContext(ctx, network, addr)
}

// FreePorts finds ports that are free for TCP and UDP, below the range from which the system takes the ports of outgoing
// connections: such a one could take a stopped broker's port.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for tries := 0; len(ports) < n; tries++ {
		if tries > 1000 {
			return nil, errors.New("no free ports between 10000 and 32000")
		}
		port := 10000 + rand.IntN(22000)
		if slices.Contains(ports, port) || !free(port) {
			continue
		}
		ports = append(ports, port)
	}
	return ports, nil
}

func free(port int) bool {
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	l, err := net.Listen("tcp", at)
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", at)
	if err != nil {
		return false
	}
	return u.Close() == nil
}

// Start starts every broker and waits until all are ready.
func (c *Cluster) Start(ctx context.Context) error {
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return err
		}
	}
	return c.WaitReady(ctx)
}

// WaitReady waits until every running broker is ready.
func (c *Cluster) WaitReady(ctx context.Context) error {
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Bootstrap lists the Kafka addresses of all brokers.
func (c *Cluster) Bootstrap() []string {
	var out []string
	for _, n := range c.Nodes {
		out = append(out, n.KafkaAddr)
	}
	return out
}

// Node returns the broker with an id.
func (c *Cluster) Node(id int32) *Node {
	for _, n := range c.Nodes {
		if n.ID == int(id) {
			return n
		}
	}
	return nil
}

// Close kills what still runs.
func (c *Cluster) Close() {
	for _, n := range c.Nodes {
		if n.Running() {
			_ = n.Resume()
			_ = n.Kill()
		}
	}
}

// Start starts the broker's process and returns at once.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		select {
		case <-n.done: // it ended by itself
		default:
			return fmt.Errorf("broker %d runs already", n.ID)
		}
	}
	args := []string{
		n.c.o.Binary, "serve", "--node-id", strconv.Itoa(n.ID), "--data-dir", n.Dir,
		"--kafka-listen", n.KafkaAddr, "--cluster-listen", n.ClusterAddr,
		"--gossip-listen", n.GossipAddr, "--http-listen", n.HTTPAddr,
	}
	args = append(args, n.args...)
	for _, s := range n.c.o.Set {
		args = append(args, "--set", s)
	}
	args = append(append([]string{}, n.Wrap...), args...)
	if n.c.o.Net != nil {
		args = n.c.o.Net.Command(n.ID, args)
	}
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(append(brokerEnv(), faultyEnv+"="+n.faultsFile()), n.c.o.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	n.cmd, n.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(n.done)
	return nil
}

// brokerEnv is this process's environment without BALSA_*, which a broker would take for settings.
func brokerEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "BALSA_") })
}

// Running says whether the broker's process is there (frozen counts).
func (n *Node) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Pid of the running process, or 0.
func (n *Node) Pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return 0
	}
	return n.cmd.Process.Pid
}

// WaitReady waits until /readyz answers 200, or the process ends, or ctx.
func (n *Node) WaitReady(ctx context.Context) error {
	client := n.c.httpClient()
	last := ""
	for {
		n.mu.Lock()
		done := n.done
		n.mu.Unlock()
		select {
		case <-done:
			return fmt.Errorf("broker %d ended before it was ready\n%s", n.ID, n.Tail(2000))
		case <-ctx.Done():
			return fmt.Errorf("broker %d not ready (%s): %w\n%s", n.ID, last, ctx.Err(), n.Tail(2000))
		case <-time.After(10 * time.Millisecond):
		}
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.HTTPAddr+"/readyz", nil)
		resp, err := client.Do(req)
		if err != nil {
			last = err.Error()
			continue
		}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		last = strings.TrimSpace(string(b))
	}
}

func (c *Cluster) httpClient() *http.Client {
	return &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
}

func (n *Node) signal(s os.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return errors.New("not running")
	}
	return n.cmd.Process.Signal(s)
}

func (n *Node) wait() {
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	<-done
	n.mu.Lock()
	n.cmd = nil
	n.mu.Unlock()
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (n *Node) Kill() error {
	if err := n.signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	n.wait()
	return nil
}

// Stop ends the process with SIGTERM and waits, 60 seconds at most.
func (n *Node) Stop() error {
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	n.mu.Lock()
	done := n.done
	n.mu.Unlock()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		_ = n.signal(syscall.SIGQUIT)
		_ = n.Kill()
		return fmt.Errorf("broker %d did not stop in 60 s\n%s", n.ID, n.Tail(6000))
	}
	n.wait()
	return nil
}

// Tail returns the end of the broker's log.
func (n *Node) Tail(max int) string {
	b, _ := os.ReadFile(n.Log)
	if len(b) > max {
		b = b[len(b)-max:]
	}
	return string(bytes.TrimSpace(b))
}

// StartJoining starts the broker with another cluster's gossip address to join.
func (n *Node) StartJoining(gossip string) error {
	n.args = append(n.args, "--join", gossip)
	return n.Start()
}

// Printed says whether the broker's log holds a text.
func (n *Node) Printed(text string) bool {
	b, _ := os.ReadFile(n.Log)
	return bytes.Contains(b, []byte(text))
}

// TrimLog empties the file with what the broker printed when it has grown beyond max bytes.
func (n *Node) TrimLog(max int64) error {
	fi, err := os.Stat(n.Log)
	if err != nil || fi.Size() <= max {
		return err
	}
	return os.Truncate(n.Log, 0)
}
