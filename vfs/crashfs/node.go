package crashfs

import (
	"maps"
	"slices"
	"syscall"
)

// node is a file or a folder.
type node struct {
	// of a folder; nil for a file
	names   map[string]*node // as the process sees it
	durable map[string]*node // as of the last sync
	pending []dirOp          // since

	// of a file
	data  []byte         // as the process sees it
	disk  []byte         // as of the last sync
	dirty map[int64]bool // sectors of data that a sync would write
}

// dirOp sets a name, or removes it (node nil). Operations of one group survive together.
type dirOp struct {
	name  string
	node  *node
	group int
}

func newDir() *node {
	return &node{names: make(map[string]*node), durable: make(map[string]*node)}
}

func newFile() *node { return &node{dirty: make(map[int64]bool)} }

func (n *node) set(name string, child *node, group int) {
	if child == nil {
		delete(n.names, name)
	} else {
		n.names[name] = child
	}
	n.pending = append(n.pending, dirOp{name, child, group})
}

func (n *node) syncNames() {
	n.durable = maps.Clone(n.names)
	n.pending = nil
}

func (n *node) total() int64 {
	sum := int64(len(n.data))
	for _, c := range n.names {
		sum += c.total()
	}
	return sum
}

func (n *node) mark(from, to int64) {
	for s := from / Sector; s*Sector < to; s++ {
		n.dirty[s] = true
	}
}

// resize sets the size; new bytes are zeros, and dirty.
func (n *node) resize(w *world, size int64) {
	old := int64(len(n.data))
	if size < old {
		clear(n.data[size:])
		n.data = n.data[:size]
	} else {
		n.data = append(n.data, make([]byte, size-old)...)
	}
	n.mark(min(old, size), max(old, size))
	w.used += size - old
}

// room is how far the file may grow.
func (n *node) room(w *world) int64 {
	if w.space < 0 {
		return 1 << 62
	}
	return max(w.space-w.used, 0) + int64(len(n.data))
}

func (n *node) write(w *world, p []byte, off int64) (int, error) {
	var err error
	if end := off + int64(len(p)); end > int64(len(n.data)) {
		if room := n.room(w); end > room {
			err = syscall.ENOSPC
			end = max(min(end, room), off)
			p = p[:end-off]
		}
		if len(p) > 0 && end > int64(len(n.data)) {
			n.resize(w, end)
		}
	}
	if len(p) > 0 {
		copy(n.data[off:], p)
		n.mark(off, off+int64(len(p)))
	}
	return len(p), err
}

// sync writes the dirty sectors and the size to the disk.
func (n *node) sync() {
	if len(n.disk) > len(n.data) {
		clear(n.disk[len(n.data):])
		n.disk = n.disk[:len(n.data)]
	} else {
		n.disk = append(n.disk, make([]byte, len(n.data)-len(n.disk))...)
	}
	for s := range n.dirty {
		n.put(n.disk, s)
	}
	clear(n.dirty)
}

// put copies sector s of data to the disk image as far as both reach.
func (n *node) put(disk []byte, s int64) {
	from, to := s*Sector, min((s+1)*Sector, int64(len(disk)), int64(len(n.data)))
	if from < to {
		copy(disk[from:to], n.data[from:to])
	}
}

// loseDirty is a failed sync: some dirty sectors reach the disk, some become clean without it, some stay dirty.
func (w *world) loseDirty(name string) {
	n, err := w.find(name)
	if err != nil || n.names != nil {
		return
	}
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		switch w.rng.IntN(3) {
		case 0:
			n.put(n.disk, s)
			delete(n.dirty, s)
		case 1:
			delete(n.dirty, s)
		}
	}
}

// survive returns what the disk holds of n after a loss of power.
func (w *world) survive(n *node, seen map[*node]*node) *node {
	if s := seen[n]; s != nil {
		return s
	}
	if n.names == nil {
		s := w.surviveFile(n)
		seen[n] = s
		return s
	}
	s := newDir()
	seen[n] = s
	names := maps.Clone(n.durable)
	keep := w.chooser()
	groups := map[int]bool{}
	for _, op := range n.pending {
		k, ok := groups[op.group]
		if !ok {
			k = keep()
			groups[op.group] = k
		}
		switch {
		case !k:
		case op.node == nil:
			delete(names, op.name)
		default:
			names[op.name] = op.node
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) { // in order, so that a seed always loses the same
		s.names[name] = w.survive(names[name], seen)
	}
	s.durable = maps.Clone(s.names)
	return s
}

// chooser returns a function that says for one thing after the other whether it survives: all, none, those up to some
// point, or any.
func (w *world) chooser() func() bool {
	switch w.rng.IntN(5) {
	case 0:
		return func() bool { return true }
	case 1:
		return func() bool { return false }
	case 2:
		alive := true
		return func() bool {
			alive = alive && w.rng.IntN(3) > 0
			return alive
		}
	}
	return func() bool { return w.rng.IntN(2) == 0 }
}

func (w *world) surviveFile(n *node) *node {
	size := int64(len(n.disk))
	switch now := int64(len(n.data)); w.rng.IntN(3) {
	case 0:
	case 1:
		size = now
	default:
		lo, hi := min(size, now), max(size, now)
		size = lo + w.rng.Int64N(hi-lo+1)
	}
	s := newFile()
	s.disk = make([]byte, size)
	copy(s.disk, n.disk)
	keep := w.chooser()
	for i := int64(0); i*Sector < size; i++ {
		if n.dirty[i] && keep() {
			n.put(s.disk, i)
		}
	}
	s.data = append([]byte(nil), s.disk...)
	return s
}
