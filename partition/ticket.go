package partition

import "encoding/binary"

// What a raft.Log of type LogCommand is stands in its Extensions, which never leave the process:
//
//	offset size field
//	     0    1 kind
//	     1    8 term      only of the leader's own entries: the ticket
//	     9    8 epoch
//	    17    8 n
//
// A follower's entries, decoded from the leader's frames, carry the kind alone. One without Extensions was not made by
// this package and is stored as a void frame.
type kind byte

const (
	kindBatch kind = iota + 1
	kindCommand
	kindVoid
	// kindFence is a ticketed entry that carries nothing. When it is stored all that was handed to Raft before it was
	// stored or refused; when it is applied all that is before it in the log is.
	kindFence
)

var (
	extBatch   = []byte{byte(kindBatch)}
	extCommand = []byte{byte(kindCommand)}
	extVoid    = []byte{byte(kindVoid)}
)

const ticketSize = 25

// ticket orders the leader's appends (safety rule 15): the log takes exactly n = 0, 1, 2, ... of an epoch, in the term in
// which they were given out. A fence has the number of the append that follows it.
type ticket struct {
	kind           kind
	term, epoch, n uint64
}

func (t ticket) put(b *[ticketSize]byte) []byte {
	b[0] = byte(t.kind)
	binary.BigEndian.PutUint64(b[1:], t.term)
	binary.BigEndian.PutUint64(b[9:], t.epoch)
	binary.BigEndian.PutUint64(b[17:], t.n)
	return b[:]
}

// parseExt returns the kind, and the ticket if there is one. kind is 0 without Extensions.
func parseExt(b []byte) (k kind, t ticket, ticketed bool) {
	switch len(b) {
	case 1:
		return kind(b[0]), ticket{}, false
	case ticketSize:
		t = ticket{
			kind: kind(b[0]), term: binary.BigEndian.Uint64(b[1:]), epoch: binary.BigEndian.Uint64(b[9:]),
			n: binary.BigEndian.Uint64(b[17:]),
		}
		return t.kind, t, true
	}
	return 0, ticket{}, false
}

// gate is the leader's store side of the tickets. Not safe for concurrent use.
type gate struct {
	epoch, next uint64
	void        bool // an entry was missed or refused: nothing more of this epoch
}

// admit says whether the entry may be stored as what it is, in an entry of term logTerm.
func (g *gate) admit(t ticket, logTerm uint64) bool {
	if t.term != logTerm || t.epoch < g.epoch || (t.epoch == g.epoch && g.void) {
		return false
	}
	if t.epoch > g.epoch {
		*g = gate{epoch: t.epoch}
	}
	if t.n != g.next {
		g.void = true
		return false
	}
	if t.kind != kindFence {
		g.next++
	}
	return true
}
