package harness

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// FileKinds are the kinds of files of a broker that can be damaged.
func FileKinds() []string {
	return []string{"active", "closed", "index", "state", "high-watermark", "checkpoint", "replica", "votes", "metadata"}
}

// Files lists the broker's files of a kind, of topics whose name begins with topic.
func (n *Node) Files(kind, topic string) ([]string, error) {
	logs := func(pattern string) ([]string, error) {
		return filepath.Glob(filepath.Join(n.Dir, "topics", topic+"*", pattern))
	}
	switch kind {
	case "active", "closed":
		all, err := logs("*.log")
		if err != nil {
			return nil, err
		}
		slices.Sort(all)
		var out []string
		for i, f := range all {
			last := i == len(all)-1 || filepath.Dir(all[i+1]) != filepath.Dir(f)
			if last == (kind == "active") {
				out = append(out, f)
			}
		}
		return out, nil
	case "index", "checkpoint":
		return logs("*." + kind)
	case "state", "high-watermark", "replica":
		return logs(kind)
	case "votes":
		return filepath.Glob(filepath.Join(n.Dir, "votes.db"))
	case "metadata":
		return filepath.Glob(filepath.Join(n.Dir, "controller", "raft.db"))
	}
	return nil, fmt.Errorf("no files of kind %q", kind)
}

// ErrEmptyFile means that a file holds nothing that could be damaged.
var ErrEmptyFile = errors.New("nothing to damage")

// FlipBit flips one bit of a file, within what was written of it, and says where.
func FlipBit(rng *rand.Rand, path string) (string, error) {
	f, end, err := openWritten(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	at, bit := rng.Int64N(end), rng.IntN(8)
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return "", err
	}
	b[0] ^= 1 << bit
	if _, err := f.WriteAt(b, at); err != nil {
		return "", err
	}
	return fmt.Sprintf("bit %d of byte %d of %d", bit, at, end), f.Sync()
}

// Truncate cuts a file off at a random place within what was written of it, and says where.
func Truncate(rng *rand.Rand, path string) (string, error) {
	f, end, err := openWritten(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	at := rng.Int64N(end)
	if err := f.Truncate(at); err != nil {
		return "", err
	}
	return fmt.Sprintf("cut at byte %d of %d", at, end), f.Sync()
}

// openWritten opens a file and returns where its last byte that is not zero ends: behind it is preallocated space.
func openWritten(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	end := len(strings.TrimRight(string(b), "\x00"))
	if end == 0 {
		_ = f.Close()
		return nil, 0, fmt.Errorf("%s: %w", path, ErrEmptyFile)
	}
	return f, int64(end), nil
}

// Wipe removes everything from the data folder of a broker that does not run. The folder stays.
func (n *Node) Wipe() error {
	if n.Running() {
		return fmt.Errorf("broker %d runs", n.ID)
	}
	entries, err := os.ReadDir(n.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.Dir, e.Name())))
	}
	return err
}
