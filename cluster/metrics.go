package cluster

import "github.com/prometheus/client_golang/prometheus"

// collector reports this node's state when it is scraped; nothing is counted twice.
type collector struct{ n *Node }

var (
	descAlive      = prometheus.NewDesc("balsa_cluster_brokers_alive", "Brokers held for alive, this one among them.", nil, nil)
	descController = prometheus.NewDesc("balsa_cluster_is_controller", "1 on the controller.", nil, nil)
	descReplicas   = prometheus.NewDesc("balsa_cluster_replicas", "Partition replicas on this broker, by state.", []string{"state"}, nil)
	descLeading    = prometheus.NewDesc("balsa_cluster_leaders", "Partitions that this broker leads.", nil, nil)
	descLeaderless = prometheus.NewDesc("balsa_cluster_leaderless", "Groups with a replica here that look for a leader.", nil, nil)
	descStood      = prometheus.NewDesc("balsa_cluster_elections_total", "Times that the failover driver made a replica here stand for election.", nil, nil)
	descDamaged    = prometheus.NewDesc("balsa_cluster_replica_damages_total", "Replicas on this broker that were found damaged.", nil, nil)
	descRebuilt    = prometheus.NewDesc("balsa_cluster_replica_rebuilds_total", "Damaged replicas on this broker that were rebuilt and vote again.", nil, nil)
	descLosses     = prometheus.NewDesc("balsa_cluster_data_losses_total", "Times that a partition of the cluster went on from one replica's log after too many had lost theirs (the same on every broker).", nil, nil)
	descScrubbed   = prometheus.NewDesc("balsa_cluster_scrub_bytes_total", "Bytes that the background check has read.", nil, nil)
	descPasses     = prometheus.NewDesc("balsa_cluster_scrub_passes_total", "Passes over all replicas that the background check has ended.", nil, nil)
	descScrubDone  = prometheus.NewDesc("balsa_cluster_scrub_replicas", "Replicas checked in the pass under way, or in the last one.", nil, nil)
	descScrubLast  = prometheus.NewDesc("balsa_cluster_scrub_last_pass_timestamp_seconds", "When the last pass of the background check ended; 0: none did since the start.", nil, nil)
	descClock      = prometheus.NewDesc("balsa_cluster_clock_offset_seconds", "The median of the living brokers' wall clocks minus this broker's.", nil, nil)
	descSuspended  = prometheus.NewDesc("balsa_cluster_retention_suspended", "1 while nothing is deleted by age because this broker's clock is far from the others'.", nil, nil)
	descDiskFull   = prometheus.NewDesc("balsa_cluster_disk_full", "1 while produce is refused for want of room.", nil, nil)
)

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descAlive, descController, descReplicas, descLeading, descLeaderless, descStood, descDamaged, descRebuilt, descLosses, descClock, descSuspended, descScrubbed,
		descPasses, descScrubDone, descScrubLast, descDiskFull,
	} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.n.Status()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge(descAlive, float64(len(s.Alive)))
	gauge(descController, flag(c.n.ctl.IsLeader()))
	gauge(descReplicas, float64(s.Replicas-s.Opening-len(s.Failed)), "open")
	gauge(descReplicas, float64(s.Opening), "opening")
	gauge(descReplicas, float64(len(s.Failed)-s.Damaged-s.NeedsRecovery), "failed")
	gauge(descReplicas, float64(s.NeedsRecovery), "needs-recovery")
	gauge(descReplicas, float64(s.Damaged), "damaged")
	gauge(descLeading, float64(s.Leading))
	gauge(descLeaderless, float64(s.Leaderless))
	gauge(descScrubDone, float64(c.n.scrub.done.Load()))
	gauge(descScrubLast, float64(c.n.scrub.last.Load()))
	gauge(descClock, s.ClockOffset.Seconds())
	gauge(descSuspended, flag(s.ClockErr != nil))
	gauge(descDiskFull, flag(s.DiskFull))
	for d, v := range map[*prometheus.Desc]uint64{
		descStood: c.n.failover.stood.Load(), descDamaged: s.FoundDamage, descRebuilt: s.Rebuilt,
		descScrubbed: c.n.scrub.bytes.Load(), descPasses: c.n.scrub.passes.Load(), descLosses: losses(c.n.Image()),
	} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
}

// registerMetrics: a second node of one process that shares a registry goes without.
func (n *Node) registerMetrics() {
	if n.opt.Registerer == nil {
		return
	}
	if err := n.opt.Registerer.Register(collector{n}); err != nil {
		n.log.Debug("Metrics", "err", err)
	}
}
