//go:build integration

package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

// containers is the cluster of docker-compose.yml under names and on ports of its own, so that it doesn't meet what
// `make up` runs on the same host.
type containers struct {
	*harness.Cluster
	project string
	compose []string // the command
	env     []string
}

// composeCommand finds docker compose, or says why containers can't be used here.
func composeCommand(ctx context.Context) ([]string, error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return nil, fmt.Errorf("docker is not installed: %w", err)
	}
	if out, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("no docker engine answers: %w: %s", err, bytes.TrimSpace(out))
	}
	for _, c := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.CommandContext(ctx, c[0], append(c[1:len(c):len(c)], "version")...).Run() == nil {
			return c, nil
		}
	}
	return nil, errors.New("neither docker compose nor docker-compose is installed")
}

// command runs a program and gives up after two minutes. It doesn't end with the test: cleaning up uses it too.
func command(env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), err
}

func docker(args ...string) error {
	_, err := command(nil, append([]string{"docker"}, args...)...)
	return err
}

// startContainers builds the image from the binary under test and runs three containers for the length of the test.
func startContainers(t *testing.T) *containers {
	t.Helper()
	compose, err := composeCommand(deadline(t, 20*time.Second))
	if err != nil {
		t.Skipf("the container tests need a docker engine and docker compose: %v", err)
	}
	ports, err := harness.FreePorts(6)
	must(t, err)
	c := &containers{project: fmt.Sprintf("balsa-test-%d-%d", os.Getpid(), time.Now().UnixMilli()), compose: compose}
	image := c.project + ":latest"
	c.env = []string{"CLUSTER_NAME=" + c.project, "CLUSTER_IMAGE=" + image, "COMPOSE_PROJECT_NAME=" + c.project}
	var kafka, http []string
	for i := range 3 {
		c.env = append(c.env, fmt.Sprintf("CLUSTER_KAFKA_%d=%d", i+1, ports[i]), fmt.Sprintf("CLUSTER_HTTP_%d=%d", i+1, ports[3+i]))
		kafka = append(kafka, net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])))
		http = append(http, net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[3+i])))
	}
	c.Cluster = harness.Attach(kafka, http)

	remove := func() error {
		return errors.Join(c.run("down", "--volumes", "--remove-orphans", "--timeout", "1"), docker("image", "rm", "--force", image))
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range c.Nodes {
				out, _ := command(nil, "docker", "logs", "--tail", "60", c.container(n))
				t.Logf("--- broker %d\n%s", n.ID, out)
			}
		}
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	// An interrupted test runs no cleanup, and containers outlive it.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-interrupted:
			fmt.Fprintln(os.Stderr, "interrupted; removing the containers", remove())
			os.Exit(130)
		case <-t.Context().Done():
			signal.Stop(interrupted)
		}
	}()
	buildImage(t, image)
	must(t, c.run("up", "-d"))
	must(t, c.ready(t))
	return c
}

// buildImage does what `make image` does, with the binary under test.
func buildImage(t *testing.T, image string) {
	t.Helper()
	binary, err := harness.Build()
	must(t, err)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "data"), 0o755))
	from, err := os.Open(binary)
	must(t, err)
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(dir, "balsa"), os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(to, from)
	must(t, err)
	must(t, to.Close())
	must(t, docker("build", "--quiet", "--tag", image, "--file", filepath.Join("..", "Dockerfile"), dir))
}

func (c *containers) run(args ...string) error {
	_, err := command(c.env, append(append(slices.Clip(c.compose), "--file", filepath.Join("..", "docker-compose.yml")), args...)...)
	return err
}

func (c *containers) container(n *harness.Node) string { return fmt.Sprintf("%s-%d", c.project, n.ID) }
func (c *containers) network() string                  { return c.project + "_balsa" }

func (c *containers) ready(t *testing.T) error {
	t.Helper()
	ctx := deadline(t, 60*time.Second)
	for _, n := range c.Nodes {
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// waitTakenOver waits until the other brokers name another leader.
func (c *containers) waitTakenOver(t *testing.T, n *harness.Node, topic string, partition int32) {
	t.Helper()
	ctx := deadline(t, 30*time.Second)
	for {
		id, err := c.LeaderSeenBy(ctx, n, topic, partition)
		if err == nil && id >= 0 && int(id) != n.ID {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("nobody took over %s/%d from broker %d: %v", topic, partition, n.ID, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestContainers kills, freezes and disconnects the containers of leaders under load. At the end every acknowledged
// record is there once, in order, and the replicas are equal.
func TestContainers(t *testing.T) {
	const topic, partitions = "faults", 3
	c := startContainers(t)
	for _, n := range c.Nodes {
		out, err := command(nil, "docker", "inspect", "--format", "{{.Config.User}}", c.container(n))
		must(t, err)
		if user := strings.TrimSpace(out); user == "" || user == "0" || strings.HasPrefix(user, "0:") || strings.HasPrefix(user, "root") {
			t.Errorf("broker %d runs as %q", n.ID, user)
		}
	}
	must(t, c.CreateTopic(deadline(t, 30*time.Second), topic, partitions, 3, nil))
	load, err := c.StartLoad(topic, partitions, harness.LoadOptions{Readers: 1, Pace: time.Millisecond})
	must(t, err)
	must(t, load.WaitAcks(deadline(t, 30*time.Second)))

	faults := []struct {
		name         string
		inject, heal func(n *harness.Node) error
	}{
		{
			"kill", func(n *harness.Node) error { return docker("kill", "--signal", "KILL", c.container(n)) },
			func(n *harness.Node) error { return docker("start", c.container(n)) },
		},
		{
			"pause", func(n *harness.Node) error { return docker("pause", c.container(n)) },
			func(n *harness.Node) error { return docker("unpause", c.container(n)) },
		},
		{
			"disconnect", func(n *harness.Node) error { return docker("network", "disconnect", c.network(), c.container(n)) },
			func(n *harness.Node) error {
				return docker("network", "connect", "--alias", fmt.Sprintf("broker-%d", n.ID), c.network(), c.container(n))
			},
		},
	}
	for round := range rounds(1) {
		for i, f := range faults {
			partition := int32((round + i) % partitions)
			id, err := c.Leader(deadline(t, 30*time.Second), topic, partition)
			must(t, err)
			n, begin := c.Node(id), time.Now()
			load.ResetGaps()
			must(t, f.inject(n))
			c.waitTakenOver(t, n, topic, partition)
			if err := load.WaitAcks(deadline(t, 30*time.Second)); err != nil {
				t.Fatalf("round %d, %s of broker %d: %v", round, f.name, n.ID, err)
			}
			gap := load.Gap(partition)
			must(t, f.heal(n))
			must(t, c.ready(t))
			if err := load.WaitAcks(deadline(t, 30*time.Second)); err != nil {
				t.Fatalf("round %d, after %s of broker %d: %v", round, f.name, n.ID, err)
			}
			t.Logf("round %d: %s of broker %d, %v without an acknowledgement, whole again after %v", round, f.name, n.ID,
				gap.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
		}
	}
	if err := load.Stop(60 * time.Second); err != nil {
		t.Error(err)
	}
	final, err := c.ReadAll(deadline(t, 60*time.Second), topic, partitions)
	must(t, err)
	for _, e := range load.History.Check(final) {
		t.Error(e)
	}
	t.Logf("%d acknowledged records checked", load.History.Count())
	waitReplicasEqual(t, c.Cluster, topic, partitions)
}
