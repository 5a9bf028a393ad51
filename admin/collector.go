package admin

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/balsa-broker/balsa/cluster/meta"
)

// collector turns the node's state into metrics when it is scraped. Labels are states and broker-made words only:
// a metric per topic would let clients grow the registry.
type collector struct {
	node   Node
	minISR func(*meta.Topic) int
}

// Collector gives metrics of the cluster as n sees it, and of the replicas on this broker.
func Collector(n Node, minISR func(*meta.Topic) int) prometheus.Collector {
	return &collector{node: n, minISR: minISR}
}

func desc(subsystem, name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("balsa", subsystem, name), help, labels, nil)
}

var (
	descBrokers         = desc("cluster", "brokers", "Registered brokers, by state (alive, dead).", "state")
	descController      = desc("cluster", "controller", "1 if this broker is the controller.")
	descHasController   = desc("cluster", "has_controller", "1 if this broker knows a controller.")
	descVersion         = desc("cluster", "metadata_version", "Version of the metadata that this broker has.")
	descTopics          = desc("cluster", "topics", "Topics.")
	descPartitions      = desc("cluster", "partitions", "Partitions.")
	descUnderReplicated = desc("cluster", "under_replicated_partitions", "Partitions with fewer in-sync replicas than replicas.")
	descUnderMinISR     = desc("cluster", "under_min_isr_partitions", "Partitions with fewer in-sync replicas than min.insync.replicas.")
	descLeaderless      = desc("cluster", "leaderless_partitions", "Partitions without a leader that this broker knows.")
	descReplicas        = desc("broker", "replicas", "Replicas on this broker, by state.", "state")
	descLeads           = desc("broker", "leads", "Partitions that this broker leads and serves.")
	descLogBytes        = desc("broker", "log_bytes", "Bytes of all logs on this broker.")
)

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBrokers, descController, descHasController, descVersion, descTopics, descPartitions, descUnderReplicated, descUnderMinISR,
		descLeaderless, descReplicas, descLeads, descLogBytes,
	} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := Status(c.node, c.minISR)
	brokers := map[string]int{"alive": 0, "dead": 0}
	for _, b := range s.Brokers {
		if b.Alive {
			brokers["alive"]++
		} else {
			brokers["dead"]++
		}
	}
	for state, n := range brokers {
		gauge(descBrokers, float64(n), state)
	}
	gauge(descController, flag(s.Controller == s.Broker))
	gauge(descHasController, flag(s.Controller >= 0))
	gauge(descVersion, float64(s.MetadataVersion))
	gauge(descTopics, float64(s.Topics))
	gauge(descPartitions, float64(s.Partitions))
	gauge(descUnderReplicated, float64(s.UnderReplicated.Count))
	gauge(descUnderMinISR, float64(s.UnderMinISR.Count))
	gauge(descLeaderless, float64(s.Leaderless.Count))

	states := map[string]int{}
	leads, bytes := 0, int64(0)
	for _, r := range s.Local {
		states[r.State]++
		if r.Serving {
			leads++
		}
		bytes += r.SizeBytes
	}
	for state, n := range states {
		gauge(descReplicas, float64(n), state)
	}
	gauge(descLeads, float64(leads))
	gauge(descLogBytes, float64(bytes))
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
