package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/balsa-broker/balsa/cluster/controller"
	"github.com/balsa-broker/balsa/cluster/meta"
	"github.com/balsa-broker/balsa/cluster/votes"
)

// What a broker does at its start about damage in what all its replicas share.

// putAway renames a file or folder of the data folder to its name with ".damaged", in the place of an older one: nothing
// reads it, it is for people. Durable on return.
func (n *Node) putAway(name string) error {
	from := filepath.Join(n.opt.DataDir, name)
	if err := n.opt.FS.RemoveAll(from + damagedSuffix); err != nil {
		return fmt.Errorf("cluster: putting %s away: %w", from, err)
	}
	if err := n.opt.FS.Rename(from, from+damagedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cluster: putting %s away: %w", from, err)
	}
	return n.opt.FS.SyncDir(n.opt.DataDir)
}

// openVotes opens the file of terms and votes. A damaged one is put away: no replica here may vote on what it said, so each
// is a log without votes, which is lost and comes back under another id (safety rule 1), or has nobody to vote against.
func (n *Node) openVotes() (*votes.Store, error) {
	o := votes.Options{Logger: n.log}
	s, err := votes.Open(filepath.Join(n.opt.DataDir, votesFile), o)
	if !errors.Is(err, votes.ErrDamaged) {
		return s, err
	}
	n.log.Error("The file of terms and votes is damaged: the replicas of this broker are rebuilt", "err", err)
	if err := n.putAway(votesFile); err != nil {
		return nil, err
	}
	return votes.Open(filepath.Join(n.opt.DataDir, votesFile), o)
}

// openController starts this broker's member of the controller group. One whose log is damaged is a lost member: this disk
// comes back as the member of the next generation, which holds nothing and is fed by the others; the leader takes the old one
// out of the group first. A broker that knows no other one stops instead: the metadata is nowhere else.
func (n *Node) openController() (*controller.Controller, error) {
	c, err := n.startController()
	if !errors.Is(err, votes.ErrDamaged) && !errors.Is(err, controller.ErrLost) && !errors.Is(err, meta.ErrCorrupt) {
		return c, err
	}
	if n.clusterID() == "" || n.alone() {
		return nil, fmt.Errorf("%w. No other broker of the cluster is known (--join), which could have the metadata", err)
	}
	next := n.identity
	if next.Generation++; next.Generation == 0 {
		return nil, fmt.Errorf("%w. The controller's log on this disk was damaged %d times: use another disk", err, controller.Generations)
	}
	n.log.Error("The controller's log on this disk is damaged: it is filled anew from the other brokers", "err", err)
	if err := next.save(n.opt.FS, n.opt.DataDir); err != nil { // first: the old member must not come back
		return nil, err
	}
	n.identity = next
	if err := n.putAway(controllerDir); err != nil {
		return nil, err
	}
	return n.startController()
}

// alone: this broker has never seen another one, and was told of none.
func (n *Node) alone() bool {
	return len(n.opt.Join) == 0 && len(loadHints(n.opt.FS, n.opt.DataDir)) == 0
}
