// Package crashfs is a file system in memory that loses power. It keeps what was synced and a random part of what was
// not: bytes in torn 512-byte sectors, sizes, and created, renamed and removed names. It returns errors on demand.
//
// The model is harsher than most file systems: a synced file's name is lost unless its folder was synced too, and
// unsynced sectors and names survive in any order. After a failed sync some of the dirty sectors count as clean
// though they never reached the disk: reads still show them, and no later sync writes them.
//
//	fs := crashfs.New(seed)
//	fs.CrashAt(7)              // power goes at the 7th sync, before it does anything
//	... work until ErrCrashed ...
//	fs = fs.Crash()            // what the disk held
package crashfs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/balsa-broker/balsa/vfs"
)

// Sector is what a disk writes as a whole.
const Sector = 512

// ErrCrashed: the power went, or the process was killed; every call of the old FS and its files returns it.
var ErrCrashed = errors.New("crashfs: crashed")

// ErrLie, from a hook, makes a sync of a file or folder a lie: it succeeds and makes nothing durable.
var ErrLie = errors.New("crashfs: a sync that lies")

// Op names an operation for a hook.
type Op string

// The operations that a hook sees.
const (
	OpOpen     Op = "open"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpSync     Op = "sync"
	OpSyncDir  Op = "syncdir"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
)

// FS is one life of the file system, from a start to a crash or kill. It implements vfs.FS; names are absolute paths
// (a relative one is taken from the root). All calls may be concurrent.
type FS struct {
	w    *world
	dead bool // guarded by w.mu
}

var _ vfs.FS = (*FS)(nil)

// world is what lives on when a process is killed: page cache and disk.
type world struct {
	mu      sync.Mutex
	rng     *rand.Rand
	root    *node
	syncs   int
	crashAt int
	crashed bool
	hook    func(op Op, name string) error
	space   int64 // -1: endless
	used    int64
	group   int // of directory operations that survive together
}

// New returns an empty file system whose losses follow seed.
func New(seed uint64) *FS {
	return &FS{w: newWorld(rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15)), newDir())}
}

func newWorld(rng *rand.Rand, root *node) *world {
	return &world{rng: rng, root: root, space: -1}
}

// Syncs returns how many syncs of files and folders there were in this world.
func (f *FS) Syncs() int {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.syncs
}

// CrashAt has the power go at the n-th sync from now (1: the next), before it does anything. 0: not at all.
func (f *FS) CrashAt(n int) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	f.w.crashAt = 0
	if n > 0 {
		f.w.crashAt = f.w.syncs + n
	}
}

// Crashed says whether CrashAt's point was reached.
func (f *FS) Crashed() bool {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.crashed
}

// SetHook has f's operations ask hook first; an error that it returns is the operation's (syscall.EIO,
// syscall.ENOSPC). It is called with no lock held. nil: no hook.
func (f *FS) SetHook(hook func(op Op, name string) error) {
	f.w.mu.Lock()
	f.w.hook = hook
	f.w.mu.Unlock()
}

// SetSpace limits the sum of the files' sizes; what goes beyond gets ENOSPC, a write after what fitted. Negative: no
// limit.
func (f *FS) SetSpace(bytes int64) {
	f.w.mu.Lock()
	f.w.space = bytes
	f.w.mu.Unlock()
}

// Used is the sum of the files' sizes.
func (f *FS) Used() int64 {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return f.w.used
}

// Crash is the loss of power: f and its files are dead, and the result holds what was on the disk. It may be called
// more than once; each result is another possible outcome.
func (f *FS) Crash() *FS {
	w := f.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.crashed, f.dead = true, true
	next := newWorld(rand.New(rand.NewPCG(w.rng.Uint64(), w.rng.Uint64())), nil)
	next.root = w.survive(w.root, map[*node]*node{})
	next.used = next.root.total()
	return &FS{w: next}
}

// Kill is kill -9: f and its files are dead, the page cache lives. What was not synced still is not.
func (f *FS) Kill() *FS {
	w := f.w
	w.mu.Lock()
	defer w.mu.Unlock()
	f.dead = true
	return &FS{w: w}
}

// Flip inverts bits of a byte of a file, on the disk and in the cache.
func (f *FS) Flip(name string, off int64, mask byte) error {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	n, err := f.w.find(name)
	if err != nil {
		return err
	}
	if off >= int64(len(n.data)) {
		return syscall.EINVAL
	}
	n.data[off] ^= mask
	if off < int64(len(n.disk)) {
		n.disk[off] ^= mask
	}
	return nil
}

// enter is the start of every operation: w.mu is held on return without error.
func (f *FS) enter(op Op, name string) error {
	w := f.w
	w.mu.Lock()
	hook := w.hook
	if f.dead || w.crashed {
		w.mu.Unlock()
		return ErrCrashed
	}
	if hook != nil {
		w.mu.Unlock()
		err := hook(op, name)
		w.mu.Lock()
		if err != nil {
			if op == OpSync && !errors.Is(err, ErrLie) {
				w.loseDirty(name)
			}
			w.mu.Unlock()
			return &fs.PathError{Op: string(op), Path: name, Err: err}
		}
		if f.dead || w.crashed {
			w.mu.Unlock()
			return ErrCrashed
		}
	}
	return nil
}

// syncPoint counts a sync; false: the power goes now.
func (w *world) syncPoint() bool {
	w.syncs++
	if w.crashAt != 0 && w.syncs >= w.crashAt {
		w.crashed = true
	}
	return !w.crashed
}

func split(name string) []string {
	name = strings.Trim(filepath.ToSlash(filepath.Clean("/"+name)), "/")
	if name == "" || name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

func (w *world) find(name string) (*node, error) {
	n := w.root
	for _, part := range split(name) {
		if n.names == nil {
			return nil, syscall.ENOTDIR
		}
		if n = n.names[part]; n == nil {
			return nil, syscall.ENOENT
		}
	}
	return n, nil
}

// parent returns the folder of name, and its last part.
func (w *world) parent(name string) (*node, string, error) {
	parts := split(name)
	if len(parts) == 0 {
		return nil, "", syscall.EINVAL
	}
	n, err := w.find(strings.Join(parts[:len(parts)-1], "/"))
	if err == nil && n.names == nil {
		err = syscall.ENOTDIR
	}
	return n, parts[len(parts)-1], err
}
