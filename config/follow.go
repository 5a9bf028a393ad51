package config

import (
	"maps"
	"sync/atomic"
)

// Follow gives the configuration in force, as the metadata changes it. current returns the metadata's version and its
// dynamic settings, for all brokers and for this one; the maps are never written to once returned. The result may be
// called concurrently and from hot paths: while the version stays it costs one call of current, and the same *Broker
// comes back until a setting really changes. What With leaves out is reported once, to problem (may be nil).
func (b *Broker) Follow(current func() (version uint64, cluster, own map[string]string), problem func(error)) func() *Broker {
	type state struct {
		version      uint64
		cluster, own map[string]string
		broker       *Broker
	}
	var at atomic.Pointer[state]
	at.Store(&state{broker: b})
	return func() *Broker {
		old := at.Load()
		version, cluster, own := current()
		if version <= old.version {
			return old.broker
		}
		next := &state{version: version, cluster: cluster, own: own, broker: old.broker}
		if !maps.Equal(cluster, old.cluster) || !maps.Equal(own, old.own) {
			var err error
			if next.broker, err = b.With(cluster, own); err != nil && problem != nil {
				problem(err)
			}
		}
		if at.CompareAndSwap(old, next) {
			return next.broker
		}
		return at.Load().broker // someone else was faster: at least as new but for a hair
	}
}
