package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The dialler sends a hello, the other side answers with one of its own and a verdict:
//
//	 0  4 length of all that follows
//	 4  4 "Blsa"
//	 8  1 lowest protocol version spoken    answer: the version chosen
//	 9  1 highest protocol version spoken   answer: 0 welcome, 1 refused
//	10  1 class: 1 control, 2 data, 3 snapshot
//	11  1 zero
//	12  4 node id
//	16  8 incarnation of the node's data dir
//	24  8 session: random, of the process
//	32  4 node id that the dialler wants to reach
//	36    cluster ID, software version, reason of a refusal: each 2 bytes of length and the text
//	      (later versions may append; what is not understood is skipped)
type hello struct {
	low, high          uint8
	class              connClass
	node               int32
	incarnation        uint64
	session            uint64
	want               int32
	cluster, ver, text string
}

type connClass uint8

const (
	classControl connClass = iota + 1
	classData
	classSnapshot
)

func (c connClass) String() string {
	switch c {
	case classControl:
		return "control"
	case classData:
		return "data"
	default:
		return "snapshot"
	}
}

// protocolVersion is the only one yet.
const (
	protocolLow  = 1
	protocolHigh = 1
	maxHello     = 4 << 10
	helloFixed   = 32 // after the length
)

var helloMagic = [4]byte{'B', 'l', 's', 'a'}

func appendHello(b []byte, h hello) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0)
	b = append(b, helloMagic[:]...)
	b = append(b, h.low, h.high, byte(h.class), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(h.node))
	b = binary.BigEndian.AppendUint64(b, h.incarnation)
	b = binary.BigEndian.AppendUint64(b, h.session)
	b = binary.BigEndian.AppendUint32(b, uint32(h.want))
	for _, s := range []string{h.cluster, h.ver, h.text} {
		s = s[:min(len(s), 1000)]
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// parseHello reads what follows the length.
func parseHello(b []byte) (h hello, err error) {
	if len(b) < helloFixed || [4]byte(b) != helloMagic {
		return h, errors.New("transport: not a Balsa broker's handshake")
	}
	h = hello{
		low: b[4], high: b[5], class: connClass(b[6]), node: int32(binary.BigEndian.Uint32(b[8:])),
		incarnation: binary.BigEndian.Uint64(b[12:]), session: binary.BigEndian.Uint64(b[20:]),
		want: int32(binary.BigEndian.Uint32(b[28:])),
	}
	b = b[helloFixed:]
	for _, s := range []*string{&h.cluster, &h.ver, &h.text} {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return h, errMalformed
		}
		n := int(binary.BigEndian.Uint16(b))
		*s, b = string(b[2:2+n]), b[2+n:]
	}
	return h, nil
}

func readHello(r io.Reader) (hello, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return hello{}, err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > maxHello || size < helloFixed {
		return hello{}, errors.New("transport: not a Balsa broker's handshake")
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return hello{}, err
	}
	return parseHello(b)
}

func (m *Mux) hello(class connClass, want int32) hello {
	return hello{
		low: protocolLow, high: protocolHigh, class: class, node: m.o.Node, incarnation: m.o.Incarnation,
		session: m.session, want: want, cluster: m.o.ClusterID(), ver: m.o.Version,
	}
}

// greet is the dialler's side. It returns the other side's hello.
func (m *Mux) greet(nc net.Conn, class connClass, want int32) (hello, error) {
	_ = nc.SetDeadline(time.Now().Add(m.o.HandshakeTimeout))
	defer func() { _ = nc.SetDeadline(time.Time{}) }()
	if _, err := nc.Write(appendHello(nil, m.hello(class, want))); err != nil {
		return hello{}, fmt.Errorf("handshake: %w", err)
	}
	h, err := readHello(nc)
	if err != nil {
		return hello{}, fmt.Errorf("handshake: %w", err)
	}
	if h.high != 0 {
		return h, fmt.Errorf("%w by broker %d: %s", ErrRefused, h.node, h.text)
	}
	if h.low < protocolLow || h.low > protocolHigh {
		return h, fmt.Errorf("%w: broker %d chose protocol version %d", ErrRefused, h.node, h.low)
	}
	if err := m.acceptable(h); err != nil {
		return h, err
	}
	if h.node != want {
		return h, fmt.Errorf("%w: the address of broker %d belongs to broker %d", ErrRefused, want, h.node)
	}
	return h, nil
}

// welcome is the other side's.
func (m *Mux) welcome(nc net.Conn) (hello, error) {
	_ = nc.SetDeadline(time.Now().Add(m.o.HandshakeTimeout))
	defer func() { _ = nc.SetDeadline(time.Time{}) }()
	h, err := readHello(nc)
	if err != nil {
		return h, fmt.Errorf("handshake: %w", err)
	}
	switch {
	case h.low > protocolHigh || h.high < protocolLow:
		err = fmt.Errorf("%w: broker %d speaks protocol versions %d to %d, broker %d speaks %d to %d",
			ErrRefused, h.node, h.low, h.high, m.o.Node, protocolLow, protocolHigh)
	case h.class < classControl || h.class > classSnapshot:
		err = fmt.Errorf("%w: unknown class of connection %d", ErrRefused, h.class)
	default:
		if err = m.acceptable(h); err == nil && h.want != m.o.Node {
			err = fmt.Errorf("%w: broker %d dialled broker %d, this is broker %d", ErrRefused, h.node, h.want, m.o.Node)
		}
		if err == nil {
			err = m.knownTwice(h)
		}
	}
	answer := m.hello(h.class, h.node)
	answer.low, answer.high = min(h.high, protocolHigh), 0
	if err != nil {
		answer.high, answer.text = 1, err.Error()
	}
	if _, werr := nc.Write(appendHello(nil, answer)); werr != nil && err == nil {
		err = fmt.Errorf("handshake: %w", werr)
	}
	return h, err
}

// acceptable checks the cluster and the node id against our own.
func (m *Mux) acceptable(h hello) error {
	if err := sameCluster(m.o.Node, m.o.ClusterID(), h.node, h.cluster); err != nil {
		return err
	}
	if h.node == m.o.Node && h.session != m.session {
		return fmt.Errorf("%w: node id %d is used twice, by the data dirs with incarnation %x and %x",
			ErrRefused, h.node, m.o.Incarnation, h.incarnation)
	}
	if h.node < 0 || h.node == m.o.Node {
		return fmt.Errorf("%w: node id %d cannot be a peer of broker %d", ErrRefused, h.node, m.o.Node)
	}
	return nil
}

func sameCluster(self int32, ours string, node int32, theirs string) error {
	if ours != "" && theirs != "" && ours != theirs {
		return fmt.Errorf("%w: broker %d belongs to cluster %s, broker %d to cluster %s", ErrRefused, self, ours, node, theirs)
	}
	return nil
}
