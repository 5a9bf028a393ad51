//go:build verify

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/balsa-broker/balsa/integration/harness"
)

// syncTrace runs three brokers under strace, produces marked records one at a time and checks for each one that before
// the client's acknowledgement, on two brokers at least, the write of its bytes to a segment file was followed by a
// completed fdatasync of that file.
//
// The same is then done with a build from which the syncs of files were taken out: it must fail, or the trace shows
// nothing.
func syncTrace(r *Run) error {
	count := r.rounds(200, 40)
	short, err := traceSyncs(r, "cluster", "", count)
	if err != nil {
		return err
	}
	r.most(fmt.Sprintf("of %d batches, acknowledged before synced on two brokers", count), "batches", float64(short), 0, nil)
	bin, err := harness.BuildWithoutSyncs(r.dir)
	if err != nil {
		return err
	}
	short, err = traceSyncs(r, "without", bin, 20)
	if err != nil {
		return err
	}
	r.least("the same of 20, with the syncs taken out of the build", "batches", float64(short), 20, nil)
	return nil
}

// traceSyncs returns how many of count batches were acknowledged before they were synced on two brokers.
func traceSyncs(r *Run, name, bin string, count int) (int, error) {
	if _, err := exec.LookPath("strace"); err != nil {
		return 0, errors.New("needs strace (Debian: apt-get install strace)")
	}
	trace := func(n *harness.Node) string { return filepath.Join(r.dir, fmt.Sprintf("trace-%s-%d", name, n.ID)) }
	c, err := harness.New(harness.Options{Nodes: 3, Dir: filepath.Join(r.dir, name), Binary: bin})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for _, n := range c.Nodes {
		n.Wrap = []string{
			"strace", "-f", "-ttt", "-T", "-y", "-s", "400", "-o", trace(n),
			"-e", "trace=pwrite64,pwritev,pwritev2,write,writev,fdatasync,fsync,sync_file_range",
		}
	}
	if err := c.Start(r.timeout(60 * time.Second)); err != nil {
		return 0, err
	}
	if err := c.CreateTopic(r.timeout(60*time.Second), "traced", 1, 3, nil); err != nil {
		return 0, err
	}
	cl, err := c.Client(kgo.DefaultProduceTopic("traced"), kgo.ProducerLinger(0), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	acked := make([]float64, count)
	for i := range count {
		ctx, cancel := context.WithTimeout(r.ctx, 20*time.Second)
		err := cl.ProduceSync(ctx, &kgo.Record{Value: []byte(marker(i))}).FirstErr()
		cancel()
		if err != nil {
			return 0, err
		}
		acked[i] = float64(time.Now().UnixNano()) / 1e9
	}
	for _, n := range c.Nodes {
		pid, err := tracee(n.Pid())
		if err != nil {
			return 0, err
		}
		if err := exec.Command("kill", "-TERM", strconv.Itoa(pid)).Run(); err != nil {
			return 0, err
		}
	}
	end := time.Now().Add(30 * time.Second)
	for _, n := range c.Nodes {
		for n.Running() && time.Now().Before(end) {
			time.Sleep(20 * time.Millisecond)
		}
	}
	durable := make([]int, count)
	for _, n := range c.Nodes {
		at, err := durableTimes(trace(n), count)
		if err != nil {
			return 0, err
		}
		for i := range count {
			if at[i] > 0 && at[i] <= acked[i] {
				durable[i]++
			}
		}
	}
	short := 0
	for _, d := range durable {
		if d < 2 {
			short++
		}
	}
	return short, nil
}

func marker(i int) string { return fmt.Sprintf("marker-%06d-end", i) }

func tracee(strace int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", strace, strace))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) == 0 {
		return 0, errors.New("strace has no child")
	}
	return strconv.Atoi(f[0])
}

var (
	writeCall  = regexp.MustCompile(`(?:pwrite64|pwritev2?|write|writev)\(\d+<([^>]*\.log)>`)
	syncCall   = regexp.MustCompile(`(?:fdatasync|fsync)\(\d+<([^>]*)>`)
	markerText = regexp.MustCompile(`marker-(\d{6})-end`)
)

// took reads how long a call took, which strace -T puts at the line's end.
func took(line string) float64 {
	i := strings.LastIndexByte(line, '<')
	if i < 0 {
		return 0
	}
	d, _ := strconv.ParseFloat(strings.TrimSuffix(line[i+1:], ">"), 64)
	return d
}

// durableTimes reads a trace: for each marker, when the first completed sync that began after the completed write of
// its bytes to a .log file ended; 0 when none did.
func durableTimes(path string, count int) ([]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := make([]float64, count)
	written := map[string][]int{}  // file -> markers written and not yet covered
	pending := map[string]string{} // thread -> its unfinished call's text
	syncing := map[string][]int{}  // thread -> markers that the sync under way covers
	syncFile := map[string]string{}
	wrote := func(text string) {
		m := writeCall.FindStringSubmatch(text)
		if m == nil {
			return
		}
		for _, k := range markerText.FindAllStringSubmatch(text, -1) {
			if i, err := strconv.Atoi(k[1]); err == nil && i < count {
				written[m[1]] = append(written[m[1]], i)
			}
		}
	}
	begin := func(thread, text string) {
		if m := syncCall.FindStringSubmatch(text); m != nil {
			syncFile[thread] = m[1]
			syncing[thread] = append([]int(nil), written[m[1]]...)
		}
	}
	finish := func(thread string, at float64, ok bool) {
		if ok {
			for _, i := range syncing[thread] {
				if out[i] == 0 {
					out[i] = at
				}
			}
			file := syncFile[thread]
			written[file] = written[file][min(len(syncing[thread]), len(written[file])):]
		}
		delete(syncing, thread)
		delete(syncFile, thread)
	}
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 1<<20), 1<<20)
	for s.Scan() {
		parts := strings.Fields(s.Text())
		if len(parts) < 3 {
			continue
		}
		thread := parts[0]
		at, err := strconv.ParseFloat(parts[1], 64)
		if err != nil {
			continue
		}
		line := s.Text()
		switch {
		case strings.Contains(line, "<unfinished ...>"):
			pending[thread] = line
			begin(thread, line)
		case strings.Contains(line, " resumed>"):
			text := pending[thread] + line
			delete(pending, thread)
			wrote(text)
			if _, ok := syncFile[thread]; ok {
				finish(thread, at, strings.Contains(line, "= 0"))
			}
		default:
			wrote(line)
			if syncCall.MatchString(line) {
				begin(thread, line)
				finish(thread, at+took(line), strings.Contains(line, "= 0"))
			}
		}
	}
	return out, s.Err()
}
