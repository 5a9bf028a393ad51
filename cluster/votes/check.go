package votes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/balsa-broker/balsa/vfs"
)

// ErrDamaged: the file does not hold what was written to it. Nobody votes on what it says: the replicas whose votes it
// held are lost (safety rule 1).
var ErrDamaged = errors.New("votes: the file is damaged")

// What is checked of a bbolt file; numbers are the machine's own. A page begins with
//
//	id 8 | flags 2 (1 branch, 2 leaf, 4 meta, 16 free list) | count 2 | overflow 4: pages that follow and belong to it
//
// and goes on with
//
//	meta       magic 4 | version 4 | page size 4 | flags 4 | root page 8 | sequence 8 | free list page 8 | pages 8
//	           | transaction 8 | FNV-64a of these 8
//	branch     count x (position 4 | key size 4 | page 8), then the keys; positions count from their element
//	leaf       count x (flags 4 (1: bucket) | position 4 | key size 4 | value size 4), then keys and values
//	free list  count x page 8
//
// A bucket's value is: root page 8 | sequence 8; with root page 0 a leaf page follows it.
const (
	pageHead   = 16
	metaHead   = 64
	elemSize   = 16
	bucketHead = 16

	flagBranch   = 1
	flagLeaf     = 2
	flagMeta     = 4
	flagFreelist = 16

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = 1<<64 - 1
	maxPage     = 1 << 16 // the largest page of a machine
	maxPages    = 1 << 20
)

// Prepare is to be called before bbolt opens the file at path, by the process that holds the data folder. A file that is
// there is read page by page, as bbolt would: ErrDamaged where that would make bbolt panic, loop, read outside the file
// or fall back to an older transaction. A missing one is made with what init puts into it, under another name first: a
// file half made must not look like a damaged one. Its name is not durable on return.
func Prepare(path string, perm fs.FileMode, o *bolt.Options, init func(*bolt.Tx) error) error {
	f, err := vfs.OS().OpenFile(path, os.O_RDONLY, 0)
	if err == nil {
		defer f.Close()
		if err := checkFile(f); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := path + ".new"
	if err := vfs.OS().RemoveAll(tmp); err != nil {
		return err
	}
	db, err := bolt.Open(tmp, perm, o)
	if err != nil {
		return err
	}
	if err := errors.Join(db.Update(init), db.Close()); err != nil {
		return err
	}
	return vfs.OS().Rename(tmp, path)
}

type checker struct {
	b     []byte
	size  uint64 // of a page
	pages uint64
	seen  []bool
}

type boltMeta struct{ size, root, freelist, pages, tx uint64 }

func checkFile(f io.ReaderAt) error {
	b := make([]byte, maxPage+pageHead+metaHead)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	first, err := checkMeta(b[:n], 0)
	if err != nil {
		return err
	}
	second, err := checkMeta(b[min(first.size, uint64(n)):n], 1)
	if err != nil {
		return err
	}
	m := first
	if second.tx > m.tx {
		m = second
	}
	// bbolt writes the two in turn and would take the older one when the newer is bad: a vote would be forgotten.
	if first.size != second.size || first.tx+second.tx != 2*m.tx-1 {
		return fmt.Errorf("meta pages of transactions %d and %d", first.tx, second.tx)
	}
	if m.pages < 2 || m.pages > maxPages {
		return fmt.Errorf("%d pages", m.pages)
	}
	c := &checker{b: make([]byte, m.pages*m.size), size: m.size, pages: m.pages, seen: make([]bool, m.pages)}
	if _, err := f.ReadAt(c.b, 0); err != nil {
		return fmt.Errorf("read %d pages: %w", m.pages, err)
	}
	if err := c.tree(m.root, nil, nil, true); err != nil {
		return err
	}
	if m.freelist == noFreelist {
		return nil
	}
	return c.freelist(m.freelist)
}

func checkMeta(b []byte, id uint64) (m boltMeta, err error) {
	ne := binary.NativeEndian
	if len(b) < pageHead+metaHead {
		return m, fmt.Errorf("meta page %d is cut", id)
	}
	p := b[pageHead : pageHead+metaHead]
	h := fnv.New64a()
	_, _ = h.Write(p[:metaHead-8])
	m = boltMeta{
		size: uint64(ne.Uint32(p[8:])), root: ne.Uint64(p[16:]), freelist: ne.Uint64(p[32:]), pages: ne.Uint64(p[40:]), tx: ne.Uint64(p[48:]),
	}
	if ne.Uint64(b) != id || ne.Uint16(b[8:]) != flagMeta || ne.Uint32(p) != boltMagic || ne.Uint32(p[4:]) != boltVersion ||
		h.Sum64() != ne.Uint64(p[metaHead-8:]) || m.size < 512 || m.size > maxPage || m.size&(m.size-1) != 0 {
		return m, fmt.Errorf("meta page %d does not check", id)
	}
	return m, nil
}

// page returns a page with its overflow, and notes that it is in use.
func (c *checker) page(id uint64) (b []byte, flags uint16, count int, err error) {
	ne := binary.NativeEndian
	if id < 2 || id >= c.pages {
		return nil, 0, 0, fmt.Errorf("page %d of %d is named", id, c.pages)
	}
	b = c.b[id*c.size:]
	over := uint64(ne.Uint32(b[12:]))
	if ne.Uint64(b) != id || over >= c.pages-id {
		return nil, 0, 0, fmt.Errorf("page %d says that it is %d with %d more", id, ne.Uint64(b), over)
	}
	for i := id; i <= id+over; i++ {
		if c.seen[i] {
			return nil, 0, 0, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	return b[:(over+1)*c.size], ne.Uint16(b[8:]), int(ne.Uint16(b[10:])), nil
}

// tree checks the pages from id down, whose keys are to be in [lo, hi).
func (c *checker) tree(id uint64, lo, hi []byte, root bool) error {
	b, flags, count, err := c.page(id)
	if err != nil {
		return err
	}
	switch {
	case flags == flagLeaf && (count > 0 || root):
		return c.leaf(b, count, lo, hi)
	case flags != flagBranch || count == 0:
		return fmt.Errorf("page %d is of type %x with %d keys", id, flags, count)
	}
	type child struct {
		key []byte
		id  uint64
	}
	var children []child
	for i := range count {
		e, err := element(b, i, count, 0, 4)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		children = append(children, child{e.key, binary.NativeEndian.Uint64(b[pageHead+i*elemSize+8:])})
	}
	for i, k := range children {
		end := hi
		if i+1 < count {
			end = children[i+1].key
		}
		if !between(k.key, lo, end) {
			return fmt.Errorf("page %d: keys out of order", id)
		}
		lo = k.key
		if err := c.tree(k.id, lo, end, false); err != nil {
			return err
		}
	}
	return nil
}

func between(key, lo, hi []byte) bool {
	return bytes.Compare(key, lo) >= 0 && (hi == nil || bytes.Compare(key, hi) < 0)
}

func (c *checker) leaf(b []byte, count int, lo, hi []byte) error {
	for i := range count {
		e, err := element(b, i, count, 4, 8)
		if err != nil {
			return err
		}
		if !between(e.key, lo, hi) || i > 0 && bytes.Equal(e.key, lo) {
			return errors.New("keys out of order")
		}
		lo = e.key
		switch flags := binary.NativeEndian.Uint32(b[pageHead+i*elemSize:]); flags {
		case 0:
		case 1:
			if err := c.bucket(e.value); err != nil {
				return fmt.Errorf("bucket %q: %w", e.key, err)
			}
		default:
			return fmt.Errorf("key of type %x", flags)
		}
	}
	return nil
}

func (c *checker) bucket(v []byte) error {
	ne := binary.NativeEndian
	if len(v) < bucketHead {
		return fmt.Errorf("%d bytes", len(v))
	}
	if id := ne.Uint64(v); id != 0 {
		return c.tree(id, nil, nil, true)
	}
	if v = v[bucketHead:]; len(v) < pageHead || ne.Uint16(v[8:]) != flagLeaf {
		return errors.New("no page in it")
	}
	return c.leaf(v, int(ne.Uint16(v[10:])), nil, nil)
}

type keyValue struct{ key, value []byte }

// element reads key and value i of a page whose elements have the position at pos and the key's size behind it; sizes:
// 4 when only the key's size stands there, 8 with the value's.
func element(b []byte, i, count, pos, sizes int) (e keyValue, err error) {
	ne := binary.NativeEndian
	if len(b) < pageHead+count*elemSize {
		return e, fmt.Errorf("%d keys in %d bytes", count, len(b))
	}
	at := pageHead + i*elemSize
	start, k, v := uint64(at)+uint64(ne.Uint32(b[at+pos:])), uint64(ne.Uint32(b[at+pos+4:])), uint64(0)
	if sizes == 8 {
		v = uint64(ne.Uint32(b[at+pos+8:]))
	}
	if start < uint64(pageHead+count*elemSize) || start+k+v > uint64(len(b)) {
		return e, fmt.Errorf("key %d lies outside its page", i)
	}
	// bbolt leaves no gap: the first key follows the elements. A smaller count would hide the last keys.
	if i == 0 && start != uint64(pageHead+count*elemSize) {
		return e, fmt.Errorf("%d keys, but the first stands at %d", count, start)
	}
	b = b[start:]
	return keyValue{b[:k:k], b[k : k+v : k+v]}, nil
}

func (c *checker) freelist(id uint64) error {
	b, flags, count, err := c.page(id)
	if err != nil {
		return err
	}
	ids, n := b[pageHead:], uint64(count)
	if count == 0xffff { // the number stands before the pages
		n, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if flags != flagFreelist || n > uint64(len(ids))/8 {
		return fmt.Errorf("free list of type %x with %d pages", flags, n)
	}
	for ; n > 0; n, ids = n-1, ids[8:] {
		id := binary.NativeEndian.Uint64(ids)
		if id < 2 || id >= c.pages || c.seen[id] {
			return fmt.Errorf("page %d is free and is not", id)
		}
		c.seen[id] = true
	}
	return nil
}
