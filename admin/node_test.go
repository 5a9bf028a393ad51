package admin

import "github.com/balsa-broker/balsa/cluster"

var _ Node = (*cluster.Node)(nil)
