// Package transport carries the Raft traffic of every group between two brokers over few connections, and stands
// guard at each group's inbox (safety rules 1 and 4 to 7).
package transport

import "github.com/hashicorp/raft"

// Group is what the transport needs of one Raft group's log. Implemented by partition.Partition (entries live in
// segment files and never pass through Raft) and by the controller group (entries carry their data).
// All methods may be called concurrently with Raft's own.
type Group interface {
	// FirstIndex and LastIndex of the local log; 0, 0 when empty.
	FirstIndex() uint64
	LastIndex() uint64
	// Term of a local entry, also of FirstIndex-1 when known.
	Term(index uint64) (term uint64, ok bool)
	// Committed is the highest index known committed and held locally (applied, or kept high watermark).
	Committed() uint64
	// HasConfiguration says whether the log holds (or held) a configuration: without one no vote is granted (rule 1).
	HasConfiguration() bool
	// EncodeEntries appends the wire form of entries[0..n) to buf for the largest n such that it stays within
	// maxBytes (n >= 1), and returns it with n. The entries are contiguous.
	EncodeEntries(buf []byte, entries []*raft.Log, maxBytes int) (out []byte, n int, err error)
	// DecodeEntries is its inverse. The logs may alias payload, which stays untouched until the RPC is answered.
	// It checks all that the format allows (CRC, contiguity of indexes, epoch = term).
	DecodeEntries(first uint64, payload []byte) ([]*raft.Log, error)
	// WipeForSnapshot durably empties the log before InstallSnapshot is handed to Raft (rule 6).
	WipeForSnapshot(lastIndex, lastTerm uint64) error
}
