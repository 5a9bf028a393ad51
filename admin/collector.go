package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/balsa-broker/balsa/cluster/meta"
)

// collector turns the state of the cluster into metrics when it is scraped; the node itself has metrics of its own
// part in it. No label is a topic's name: clients could grow the registry.
type collector struct {
	node   Node
	minISR func(*meta.Topic) int
}

// Collector gives metrics of the cluster as n sees it, and of the logs on this broker.
func Collector(n Node, minISR func(*meta.Topic) int) prometheus.Collector {
	return &collector{node: n, minISR: minISR}
}

func desc(subsystem, name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("balsa", subsystem, name), help, labels, nil)
}

var (
	descHasController   = desc("cluster", "has_controller", "1 if this broker knows a controller.")
	descVersion         = desc("cluster", "metadata_version", "Version of the metadata that this broker has.")
	descTopics          = desc("cluster", "topics", "Topics.")
	descPartitions      = desc("cluster", "partitions", "Partitions.")
	descUnderReplicated = desc("cluster", "under_replicated_partitions", "Partitions with fewer in-sync replicas than replicas.")
	descUnderMinISR     = desc("cluster", "under_min_isr_partitions", "Partitions with fewer in-sync replicas than min.insync.replicas.")
	descLeaderless      = desc("cluster", "leaderless_partitions", "Partitions without a leader that this broker knows.")
	descLogBytes        = desc("broker", "log_bytes", "Bytes of all logs on this broker.")
)

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descHasController, descVersion, descTopics, descPartitions, descUnderReplicated, descUnderMinISR,
		descLeaderless, descLogBytes,
	} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := Status(c.node, c.minISR)
	gauge(descHasController, flag(s.Controller >= 0))
	gauge(descVersion, float64(s.MetadataVersion))
	gauge(descTopics, float64(s.Topics))
	gauge(descPartitions, float64(s.Partitions))
	gauge(descUnderReplicated, float64(s.UnderReplicated.Count))
	gauge(descUnderMinISR, float64(s.UnderMinISR.Count))
	gauge(descLeaderless, float64(s.Leaderless.Count))

	bytes := int64(0)
	for _, r := range s.Local {
		bytes += r.SizeBytes
	}
	gauge(descLogBytes, float64(bytes))
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
