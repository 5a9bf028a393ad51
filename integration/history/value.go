package history

import (
	"fmt"
	"strconv"
	"strings"
)

// Value is the value of a producer's seq-th record, padded to size bytes. No two sends share one.
func Value(producer, seq, size int) []byte {
	s := fmt.Sprintf("%d:%d:", producer, seq)
	if len(s) < size {
		s += strings.Repeat("x", size-len(s))
	}
	return []byte(s)
}

// Parse is the inverse of Value. It fails on a value that Value did not make, down to the last byte of the padding.
func Parse(v []byte) (producer, seq int, err error) {
	parts := strings.SplitN(string(v), ":", 3)
	if len(parts) != 3 || strings.Trim(parts[2], "x") != "" {
		return 0, 0, fmt.Errorf("not a value of a producer: %.60q", v)
	}
	if producer, err = strconv.Atoi(parts[0]); err != nil {
		return 0, 0, err
	}
	seq, err = strconv.Atoi(parts[1])
	return producer, seq, err
}
