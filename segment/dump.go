package segment

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/balsa-broker/balsa/protocol/record"
	"github.com/balsa-broker/balsa/vfs"
)

// DumpHeader is the first line of a dump in JSON.
type DumpHeader struct {
	File       string    `json:"file"`
	BaseOffset int64     `json:"base_offset"`
	FirstIndex uint64    `json:"first_index"`
	PrevTerm   uint64    `json:"previous_term"`
	SegmentID  string    `json:"segment_id"`
	Created    time.Time `json:"created"`
	BootID     string    `json:"boot_id,omitempty"`
}

// DumpEntry is the line of one entry in JSON. The fields of a batch are left out for other types.
type DumpEntry struct {
	Position   int64  `json:"position"`
	Size       int    `json:"size_bytes"`
	Index      uint64 `json:"index"`
	Term       uint64 `json:"term"`
	Type       string `json:"type"`
	BaseOffset int64  `json:"base_offset"`

	LastOffset    *int64 `json:"last_offset,omitempty"`
	Records       *int32 `json:"records,omitempty"`
	MaxTimestamp  *int64 `json:"max_timestamp_ms,omitempty"`
	Codec         string `json:"codec,omitempty"`
	ProducerID    *int64 `json:"producer_id,omitempty"`
	ProducerEpoch *int16 `json:"producer_epoch,omitempty"`
	BaseSequence  *int32 `json:"base_sequence,omitempty"`
	Transactional bool   `json:"transactional,omitempty"`
	Control       bool   `json:"control,omitempty"`
}

// DumpSummary is the last line of a dump in JSON.
type DumpSummary struct {
	Sound        bool   `json:"sound"`
	Problem      string `json:"problem,omitempty"`
	Entries      int    `json:"entries"`
	Batches      int    `json:"batches"`
	Size         int64  `json:"size_bytes"`
	Preallocated int64  `json:"preallocated_bytes"`
	NextIndex    uint64 `json:"next_index"`
	NextOffset   int64  `json:"next_offset"`
	Index        string `json:"index"`
}

// Dump writes what is in the segment file at path, a line per entry (JSON: an object per line), and whether it is
// sound: every frame with its CRC, in order, and an index that agrees. err is for what could not be read or written;
// damage is sound == false. The file of a running broker may end in a write that is under way.
func Dump(w io.Writer, fsys vfs.FS, path string, asJSON bool) (sound bool, err error) {
	base, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(path), logSuffix), 10, 64)
	if err != nil || !strings.HasSuffix(path, logSuffix) || base < 0 {
		return false, fmt.Errorf("segment: dump %s: the name of a segment file is its base offset and %s", path, logSuffix)
	}
	d := &dumper{w: bufio.NewWriter(w), json: asJSON, fs: fsys}
	d.s = &seg{dir: filepath.Dir(path), segInfo: segInfo{baseOffset: base, maxTS: -1, maxTSOffset: -1}}
	f, err := fsys.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return false, fmt.Errorf("segment: dump: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, fmt.Errorf("segment: dump: %w", err)
	}
	var read int64
	if err := d.dump(&tail{f: f, size: size, read: &read}, path); err != nil {
		return false, fmt.Errorf("segment: dump: %w", err)
	}
	if err := d.w.Flush(); err != nil {
		return false, fmt.Errorf("segment: dump: %w", err)
	}
	return d.sum.Sound, nil
}

type dumper struct {
	w    *bufio.Writer
	json bool
	fs   vfs.FS
	s    *seg
	sum  DumpSummary

	index  vfs.File
	recs   int // in the index
	rec    int // the next to be compared
	recErr string
}

func (d *dumper) dump(t *tail, path string) error {
	h, err := t.header()
	if err != nil {
		d.sum.Problem = err.Error()
		if used, uerr := t.used(0); uerr != nil {
			return uerr
		} else if used == 0 {
			d.sum.Sound, d.sum.Problem, d.sum.Preallocated = true, "", t.size
		}
		return d.summary()
	}
	if h.baseOffset != d.s.baseOffset {
		d.sum.Problem = fmt.Sprintf("the header says base offset %d", h.baseOffset)
		return d.summary()
	}
	d.s.id, d.s.firstIndex, d.s.headerSize = h.id, h.firstIndex, t.headerSize
	if err := d.header(h, path); err != nil {
		return err
	}
	if d.index, d.recs, err = loadIndex(d.fs, d.s, os.O_RDONLY); err != nil {
		return err
	}
	if d.index != nil {
		defer d.index.Close()
	}
	c, term := d.s.begin(), h.prevTerm
	for c.pos < t.size {
		e, err := t.frame(c, term)
		if errors.Is(err, errBadFrame) {
			used, uerr := t.used(c.pos)
			if uerr != nil {
				return uerr
			}
			if used > 0 {
				d.sum.Problem = err.Error()
			}
			break
		}
		if err != nil {
			return err
		}
		d.compare(c, &e)
		if err := d.entry(c.pos, e); err != nil {
			return err
		}
		c, term = (&head{Entry: e, at: c}).after(), e.Term
	}
	d.compare(c, nil)
	d.sum.Size, d.sum.Preallocated = c.pos, t.size-c.pos
	d.sum.NextIndex, d.sum.NextOffset = c.index, c.offset
	switch {
	case d.index == nil:
		d.sum.Index = "none"
	case d.recErr != "":
		d.sum.Index = d.recErr
	default:
		d.sum.Index = fmt.Sprintf("%d records", d.recs)
	}
	if d.sum.Problem == "" && d.recErr != "" {
		d.sum.Problem = "index: " + d.recErr
	}
	d.sum.Sound = d.sum.Problem == ""
	return d.summary()
}

// compare checks the index records up to the boundary c; e is the frame there, nil at the end.
func (d *dumper) compare(c cursor, e *Entry) {
	for d.recErr == "" && d.rec < d.recs {
		r, err := readRec(d.index, d.s.id, d.rec)
		switch {
		case err != nil:
			d.recErr = err.Error()
		case r.pos > c.pos && e != nil:
			return
		case r.pos != c.pos || r.index != c.index || r.offset != c.offset || r.maxTS != c.maxTS ||
			r.kind != recDurable && (e == nil || r.term != e.Term) || r.kind == recReserved && r.typ != e.Type:
			d.recErr = fmt.Sprintf("record %d (position %d, entry %d, offset %d) names no frame", d.rec, r.pos, r.index, r.offset)
		}
		d.rec++
	}
}

func (d *dumper) line(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = d.w.Write(append(b, '\n'))
	}
	return err
}

func (d *dumper) header(h fileHeader, path string) error {
	created := time.UnixMilli(h.created).UTC()
	if d.json {
		return d.line(DumpHeader{
			File: path, BaseOffset: h.baseOffset, FirstIndex: h.firstIndex, PrevTerm: h.prevTerm,
			SegmentID: fmt.Sprintf("%016x", h.id), Created: created, BootID: h.boot,
		})
	}
	_, err := fmt.Fprintf(d.w, "segment %s: base offset %d, first index %d after term %d, made %s\n%12s %10s %10s %6s %-13s %s\n",
		path, h.baseOffset, h.firstIndex, h.prevTerm, created.Format(time.RFC3339), "POSITION", "SIZE", "INDEX", "TERM", "TYPE", "OFFSETS")
	return err
}

var codecs = [8]string{"none", "gzip", "snappy", "lz4", "zstd", "codec-5", "codec-6", "codec-7"}

func (d *dumper) entry(pos int64, e Entry) error {
	d.sum.Entries++
	v := DumpEntry{Position: pos, Size: e.Size, Index: e.Index, Term: e.Term, Type: e.Type.String(), BaseOffset: e.BaseOffset}
	if e.Type == Batch {
		d.sum.Batches++
		b := record.Batch(e.Header)
		last, n, ts, id, epoch, seq := b.LastOffset(), b.Count(), b.MaxTimestamp(), b.ProducerID(), b.ProducerEpoch(), b.BaseSequence()
		v.LastOffset, v.Records, v.MaxTimestamp, v.ProducerID, v.ProducerEpoch, v.BaseSequence = &last, &n, &ts, &id, &epoch, &seq
		v.Codec, v.Transactional, v.Control = codecs[b.Codec()&7], b.Transactional(), b.Control()
	}
	if d.json {
		return d.line(v)
	}
	text := fmt.Sprintf("%12d %10d %10d %6d %-13s %d", pos, e.Size, e.Index, e.Term, e.Type, e.BaseOffset)
	if e.Type == Batch {
		text += fmt.Sprintf("..%d  %d records, %s, timestamp %d", *v.LastOffset, *v.Records, v.Codec, *v.MaxTimestamp)
		if *v.ProducerID >= 0 {
			text += fmt.Sprintf(", producer %d epoch %d sequence %d", *v.ProducerID, *v.ProducerEpoch, *v.BaseSequence)
		}
		if v.Control {
			text += ", control"
		}
	}
	_, err := fmt.Fprintln(d.w, text)
	return err
}

func (d *dumper) summary() error {
	if d.json {
		return d.line(d.sum)
	}
	verdict := "sound"
	if !d.sum.Sound {
		verdict = "DAMAGED: " + d.sum.Problem
	}
	_, err := fmt.Fprintf(d.w, "%d entries, %d batches, %d bytes and %d preallocated; index: %s; %s\n", d.sum.Entries,
		d.sum.Batches, d.sum.Size, d.sum.Preallocated, d.sum.Index, verdict)
	return err
}
