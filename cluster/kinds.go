package cluster

// kind of a message between brokers. Numbers are part of the wire format: never reused. Below 32 are the
// controller's.
type kind = uint8

const (
	kindPing      kind = 32 // notice: this broker lives; called, it answers its wall clock (clock.go)
	kindRound     kind = 33 // how do these replicas stand? (round.go)
	kindAnnounce  kind = 34 // leaderships, new or changed (leaders.go)
	kindPull      kind = 35 // all leaderships known, by shards
	kindDigest    kind = 36 // do our tables agree on what the sender leads?
	kindBootstrap kind = 37 // what do you know of a new cluster? (bootstrap.go)
	kindRecovery  kind = 41 // how do these replicas stand after a loss of power? (standing.go)
	kindConfirm   kind = 38 // which partitions of these topics have a leader that you know?
	kindDamaged   kind = 39 // a replica of the sender's, in a group that the receiver leads, is damaged: replace it (repair.go)
	kindDamages   kind = 40 // notice: the replicas of the sender that are damaged
)
