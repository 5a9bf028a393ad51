//go:build linux

package simulation

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/balsa-broker/balsa/vfs/crashfs"
)

// Disk is one broker's data folder. The partitions' files and the broker's identity live in a crashfs, with all that
// it does at a kill and at a loss of power. bbolt maps its file, so votes.db and the controller's folder are real files
// in a folder of tmpfs.
//
// A real folder dies like this: every descriptor of this process that points into it is replaced by one that takes no
// writes (locks fall with them, as at the end of a process), and the folder gets another name for its next life, so
// that no path of the old life leads there. What was written so far is there at the next start, also after a loss of
// power: bbolt's transactions are whole or absent either way (its syncs are tested in cluster/votes).
type Disk struct {
	root string // of the real folders
	name string

	mu   sync.Mutex
	life int
	fs   *crashfs.FS
}

// NewDisk makes an empty disk; name is unique in root.
func NewDisk(root, name string, seed uint64) (*Disk, error) {
	d := &Disk{root: root, name: name, fs: crashfs.New(seed)}
	return d, d.format()
}

// format makes the folder of the current life, durably.
func (d *Disk) format() error {
	if err := os.MkdirAll(d.Dir(), 0o755); err != nil {
		return err
	}
	if err := d.fs.MkdirAll(d.Dir(), 0o755); err != nil {
		return err
	}
	for dir := d.root; ; dir = filepath.Dir(dir) {
		if err := d.fs.SyncDir(dir); err != nil {
			return err
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// Dir is the data folder of the current life.
func (d *Disk) Dir() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dir()
}

func (d *Disk) dir() string { return filepath.Join(d.root, d.name+"."+strconv.Itoa(d.life)) }

// FS is the file system of the current life.
func (d *Disk) FS() *crashfs.FS {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fs
}

// Fill leaves so many bytes free; -1: endless.
func (d *Disk) Fill(left int64) {
	fs := d.FS()
	fs.SetSpace(-1)
	if left < 0 {
		return
	}
	fs.SetSpace(fs.Used() + left)
}

// Files lists the files of the partitions, as far as they hold anything.
func (d *Disk) Files() (list []string) {
	fs := d.FS()
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := fs.ReadDir(dir)
		if err != nil {
			return
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.IsDir() {
				walk(name)
			} else if info, err := e.Info(); err == nil && info.Size() > 0 {
				list = append(list, name)
			}
		}
	}
	walk(filepath.Join(d.Dir(), "topics"))
	return list
}

// Flip inverts one bit of a file, on the disk and in the cache, and says where.
func (d *Disk) Flip(name string, rng *rand.Rand) (off int64, err error) {
	fs := d.FS()
	info, err := fs.Stat(name)
	if err != nil || info.Size() == 0 {
		return 0, errors.Join(err, io.EOF)
	}
	off = rng.Int64N(info.Size())
	return off, fs.Flip(name, off, 1<<rng.IntN(8))
}

// Kill ends the life at this instant and begins the next one, with what a kill -9 or a loss of power leaves.
func (d *Disk) Kill(power bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if power {
		d.fs = d.fs.Crash()
	} else {
		d.fs = d.fs.Kill()
		d.fs.SetHook(nil)
	}
	if err := killDescriptors(d.dir()); err != nil {
		return err
	}
	return d.next()
}

// Next begins the next life after a clean stop.
func (d *Disk) Next() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fs.SetHook(nil)
	return d.next()
}

// next gives the folder its next name. The caller holds mu.
func (d *Disk) next() error {
	old := d.dir()
	d.life++
	if err := os.Rename(old, d.dir()); err != nil {
		return err
	}
	if err := d.fs.Rename(old, d.dir()); err != nil {
		return err
	}
	return d.fs.SyncDir(d.root)
}

// Wipe empties the disk. The broker must be down.
func (d *Disk) Wipe(seed uint64) error {
	if err := os.RemoveAll(d.Dir()); err != nil {
		return err
	}
	d.mu.Lock()
	d.life++
	d.fs = crashfs.New(seed)
	d.mu.Unlock()
	return d.format()
}

// killDescriptors replaces every descriptor of a file under dir by one that refuses writes.
func killDescriptors(dir string) error {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(null) }()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || !strings.HasPrefix(to, dir+"/") {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			return err
		}
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("end descriptor %d of %s: %w", fd, to, err)
		}
	}
	return nil
}
