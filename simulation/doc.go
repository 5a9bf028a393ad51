// Package simulation runs whole clusters of three or five brokers in one process, in the time of a testing/synctest
// bubble: the real segment, partition, transport, controller and cluster code (Serf and raft with it) on disks in
// memory that lose power, and on a network in memory that is cut, slow, and resets connections. Faults come at random
// from a seed, producers and readers load the cluster all the while, and what they saw is checked.
//
// How to run it, what stands for what, and what it found: docs/design/simulation.md.
package simulation
