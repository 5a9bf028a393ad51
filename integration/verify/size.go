//go:build verify

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsa-broker/balsa/integration/harness"
)

// proc reads a broker's figures from /proc.
func proc(n *harness.Node, file, key string) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.Pid(), file))
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key {
			v, _ := strconv.ParseFloat(f[1], 64)
			return v
		}
	}
	return -1
}

func rssMiB(n *harness.Node) float64 { return proc(n, "status", "VmRSS:") / 1024 }

// cpuSeconds is user and system time of a broker's process.
func cpuSeconds(n *harness.Node) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.Pid()))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return -1
	}
	u, _ := strconv.ParseFloat(f[11], 64)
	s, _ := strconv.ParseFloat(f[12], 64)
	return (u + s) / 100
}

// fill produces total bytes in batches of about batch bytes, incompressible, round robin over the partitions.
func fill(ctx context.Context, c *harness.Cluster, topic string, partitions int, total, batch int) error {
	cl, err := c.Client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(int32(batch+1024)), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(64))
	if err != nil {
		return err
	}
	defer cl.Close()
	value := bytes.Repeat([]byte("0123456789abcdef"), (batch-200)/16)
	var mu sync.Mutex
	var first error
	for i := 0; i*batch < total; i++ {
		cl.Produce(ctx, &kgo.Record{Partition: int32(i % partitions), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	return first
}

func manyPartitions(r *Run) error {
	c, err := r.cluster(3, "cluster")
	if err != nil {
		return err
	}
	defer c.Close()
	start := time.Now()
	if err := c.CreateTopic(r.timeout(60*time.Second), "many", 1000, 3, nil); err != nil {
		return err
	}
	r.most("1,000 partitions with RF 3 created", "s", time.Since(start).Seconds(), 5, nil)
	time.Sleep(10 * time.Second)
	idle := float64(r.rounds(30, 10))
	before := 0.0
	for _, n := range c.Nodes {
		before += cpuSeconds(n)
	}
	time.Sleep(time.Duration(idle) * time.Second)
	after := 0.0
	for _, n := range c.Nodes {
		after += cpuSeconds(n)
	}
	r.most("idle, three brokers together", "cores", (after-before)/idle, 0.2, nil)
	var disk, rss []float64
	for _, n := range c.Nodes {
		disk = append(disk, float64(dirSize(n.Dir))/(1<<20))
		rss = append(rss, rssMiB(n))
	}
	r.most("disk of 1,000 empty partitions, one broker", "MiB", percentile(disk, 1), 200, disk)
	r.info("resident memory with 1,000 partitions, one broker", "MiB", percentile(rss, 1), rss)
	return nil
}

func diskBytes(r *Run) error {
	c, err := r.cluster(3, "cluster")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.CreateTopic(r.timeout(30*time.Second), "bytes", 4, 3, nil); err != nil {
		return err
	}
	total := r.rounds(1<<30, 1<<28)
	sum := func() (w float64) {
		for _, n := range c.Nodes {
			w += proc(n, "io", "write_bytes:")
		}
		return w
	}
	before := sum()
	start := time.Now()
	if err := fill(r.timeout(5*time.Minute), c, "bytes", 4, total, 256<<10); err != nil {
		return err
	}
	took := time.Since(start)
	r.most("bytes written / (bytes produced x RF)", "ratio", (sum()-before)/float64(total)/3, 1.05, nil)
	r.info("produced in batches of 256 KiB, RF 3", "MiB/s", float64(total)/(1<<20)/took.Seconds(), nil)
	return nil
}

func memory(r *Run) error {
	c, err := r.cluster(1, "cluster")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.CreateTopic(r.timeout(30*time.Second), "memory", 4, 1, nil); err != nil {
		return err
	}
	if err := fill(r.timeout(5*time.Minute), c, "memory", 4, 1<<30, 64<<10); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	one := rssMiB(c.Nodes[0])
	gib := r.rounds(20, 3)
	if err := fill(r.timeout(30*time.Minute), c, "memory", 4, (gib-1)<<30, 64<<10); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	all := rssMiB(c.Nodes[0])
	r.most(fmt.Sprintf("RSS after %d GiB", gib), "MiB", all, 512, []float64{one, all})
	r.most(fmt.Sprintf("RSS after %d GiB / after 1 GiB", gib), "ratio", all/one, 1.1, nil)
	return nil
}

func restart(r *Run) error {
	c, err := r.cluster(1, "cluster", "num.partitions=1")
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.CreateTopic(r.timeout(60*time.Second), "restart", 1000, 1, nil); err != nil {
		return err
	}
	total := r.rounds(10<<30, 1<<30)
	if err := fill(r.timeout(20*time.Minute), c, "restart", 1000, total, 64<<10); err != nil {
		return err
	}
	n := c.Nodes[0]
	again := func(kind string, stop func() error) error {
		if err := stop(); err != nil {
			return err
		}
		start := time.Now()
		if err := c.Start(r.timeout(2 * time.Minute)); err != nil {
			return err
		}
		took := time.Since(start).Seconds()
		read := proc(n, "io", "rchar:")
		if kind == "clean stop" {
			r.most("read to be ready after a clean stop, share of the log", "%", 100*read/float64(total), 1, nil)
		} else {
			r.info("read to be ready after kill -9, share of the log", "%", 100*read/float64(total), nil)
		}
		r.info("ready after a "+kind, "s", took, nil)
		return nil
	}
	if err := again("clean stop", n.Stop); err != nil {
		return err
	}
	if err := fill(r.timeout(5*time.Minute), c, "restart", 1000, 64<<20, 64<<10); err != nil {
		return err
	}
	if err := again("kill -9", n.Kill); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(r.dir, "cluster"))
}
