//go:build verify

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/balsa-broker/balsa/integration/harness"
)

// benchProduce runs `balsa bench produce` and returns records per second and the 50th and 99th percentile in ms.
func benchProduce(r *Run, c *harness.Cluster, topic string, partitions, size, records int) (rate, p50, p99 float64, err error) {
	bin, err := harness.Build()
	if err != nil {
		return 0, 0, 0, err
	}
	cmd := exec.CommandContext(r.timeout(5*time.Minute), bin, "bench", "produce", "-b", strings.Join(c.Bootstrap(), ","),
		"--create", "--delete", "--topic", topic, "--partitions", strconv.Itoa(partitions), "--replication-factor", "3",
		"--record-size", strconv.Itoa(size), "--records", strconv.Itoa(records), "--acks", "all", "-o", "json")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("bench: %w: %s", err, stderr.String())
	}
	var report struct {
		Rate   float64 `json:"records_per_second"`
		Failed int     `json:"failed"`
		Ack    struct {
			P50 float64 `json:"p50_ms"`
			P99 float64 `json:"p99_ms"`
		} `json:"ack_latency"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return 0, 0, 0, err
	}
	if report.Failed > 0 {
		return 0, 0, 0, fmt.Errorf("bench: %d records failed", report.Failed)
	}
	return report.Rate, report.Ack.P50, report.Ack.P99, nil
}

func throughput(r *Run) error {
	disk, syncs, err := rawDisk(r.dir)
	if err != nil {
		return err
	}
	r.info("raw disk: 1 MiB writes, each with fdatasync", "MB/s", disk, nil)
	r.info("raw disk: 4 KiB write and fdatasync", "per s", syncs, nil)
	loop, err := rawLoopback()
	if err != nil {
		return err
	}
	r.info("raw loopback, one TCP stream", "MB/s", loop, nil)
	c, err := r.cluster(3, "cluster")
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, _, err := benchProduce(r, c, "warm-up", 16, 100, 500_000); err != nil {
		return err
	}
	for _, k := range []struct {
		partitions, size, records int
		bound                     float64
	}{
		{16, 100, 5_000_000, 500_000},
		{16, 1024, 1_000_000, 100_000},
		{16, 16 << 10, 60_000, 0},
		{1, 100, 2_000_000, 0},
		{1, 1024, 400_000, 0},
		{1, 16 << 10, 40_000, 0},
	} {
		var rates, p50s, p99s []float64
		n := k.records
		if r.short {
			n /= 4
		}
		for i := range r.rounds(5, 2) {
			rate, p50, p99, err := benchProduce(r, c, fmt.Sprintf("t-%d-%d-%d", k.partitions, k.size, i), k.partitions, k.size, n)
			if err != nil {
				return err
			}
			rates, p50s, p99s = append(rates, rate), append(p50s, p50), append(p99s, p99)
		}
		name := fmt.Sprintf("%d B records, %d partitions, RF 3, fsync", k.size, k.partitions)
		if k.bound > 0 {
			r.least(name, "records/s", percentile(rates, 0.5), k.bound, rates)
		} else {
			r.info(name, "records/s", percentile(rates, 0.5), rates)
		}
		r.info(name+": MB/s over raw disk's / 3", "ratio", percentile(rates, 0.5)*float64(k.size)/1e6/(disk/3), nil)
		r.info(name+": p50", "ms", percentile(p50s, 0.5), p50s)
		r.info(name+": p99", "ms", percentile(p99s, 0.5), p99s)
	}
	return nil
}

// rawDisk measures synced sequential writes (MB/s) and small synced writes (per second) in dir.
func rawDisk(dir string) (mbps, syncs float64, err error) {
	f, err := os.Create(filepath.Join(dir, "raw"))
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	block := make([]byte, 1<<20)
	start := time.Now()
	const mib = 256
	for range mib {
		if _, err := f.Write(block); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
	}
	mbps = mib * 1.048576 / time.Since(start).Seconds()
	start = time.Now()
	const n = 500
	for range n {
		if _, err := f.Write(block[:4096]); err != nil {
			return 0, 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, 0, err
		}
	}
	return mbps, n / time.Since(start).Seconds(), nil
}

func rawLoopback() (float64, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	const total = 1 << 30
	errs := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 1<<20))
			_ = conn.Close()
		}
		errs <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return 0, err
	}
	block := make([]byte, 1<<20)
	start := time.Now()
	for sent := 0; sent < total; sent += len(block) {
		if _, err := conn.Write(block); err != nil {
			return 0, err
		}
	}
	_ = conn.Close()
	if err := <-errs; err != nil {
		return 0, err
	}
	return total / 1e6 / time.Since(start).Seconds(), nil
}
