package segment

// DecodeFrame parses the frame at the start of b, which holds frames exactly as they lie in a segment file (that is how
// replicas send them to each other), and returns the entry and the number of bytes that its frame takes. It checks all
// that the format allows: lengths, magic, the CRC of the batch or of the reserved frame. index is the Raft index that the
// frame must have: a batch does not carry it, a reserved frame does, and another one there is ErrCorrupt. The Term of a
// batch is its leader epoch. Header and Payload alias b.
func DecodeFrame(b []byte, index uint64) (e Entry, n int, err error) { panic("todo") }
