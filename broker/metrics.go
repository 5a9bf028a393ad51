package broker

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

// metrics of the front door. Labels are API and error names only: what clients name never becomes a label.
type metrics struct {
	requests, errs                 *prometheus.CounterVec
	latency                        *prometheus.HistogramVec
	bytesIn, bytesOut              prometheus.Counter
	refused, malformed             prometheus.Counter
	producedBytes, producedBatches prometheus.Counter
	fetchedBytes                   prometheus.Counter

	perAPI sync.Map // int16 -> *apiMetrics
	errors sync.Map // int16 -> prometheus.Counter
}

type apiMetrics struct {
	requests prometheus.Counter
	latency  prometheus.Observer
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "balsa", Subsystem: "kafka", Name: name, Help: help})
	}
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "balsa", Subsystem: "kafka", Name: "requests_total", Help: "Requests by API.",
		}, []string{"api"}),
		errs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "balsa", Subsystem: "kafka", Name: "errors_total", Help: "Errors in responses, by Kafka's name.",
		}, []string{"error"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "balsa", Subsystem: "kafka", Name: "request_seconds", Help: "From a request's last byte read to its answer written, by API.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 4, 9),
		}, []string{"api"}),
		bytesIn:         counter("bytes_in_total", "Bytes of requests."),
		bytesOut:        counter("bytes_out_total", "Bytes of responses."),
		refused:         counter("connections_refused_total", "Connections refused by a limit."),
		malformed:       counter("malformed_requests_total", "Connections closed because of what the client sent."),
		producedBytes:   counter("produced_bytes_total", "Bytes of batches appended for producers."),
		producedBatches: counter("produced_batches_total", "Batches appended for producers."),
		fetchedBytes:    counter("fetched_bytes_total", "Bytes of batches sent to consumers."),
	}
}

func (m *metrics) register(r prometheus.Registerer, s *Server) error {
	connections := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "balsa", Subsystem: "kafka", Name: "connections", Help: "Open client connections.",
	}, func() float64 { return float64(s.Connections()) })
	sessions := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "balsa", Subsystem: "kafka", Name: "fetch_sessions", Help: "Incremental fetch sessions.",
	}, func() float64 { return float64(s.sessions.len()) })
	for _, c := range []prometheus.Collector{
		m.requests, m.errs, m.latency, m.bytesIn, m.bytesOut, m.refused, m.malformed, m.producedBytes, m.producedBatches,
		m.fetchedBytes, connections, sessions,
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) done(key int16, start time.Time) {
	v, ok := m.perAPI.Load(key)
	if !ok {
		name := kmsg.NameForKey(key)
		if name == "Unknown" {
			name = strconv.Itoa(int(key))
		}
		v, _ = m.perAPI.LoadOrStore(key, &apiMetrics{requests: m.requests.WithLabelValues(name), latency: m.latency.WithLabelValues(name)})
	}
	a := v.(*apiMetrics)
	a.requests.Inc()
	a.latency.Observe(time.Since(start).Seconds())
}

// failed counts an error code of a response.
func (m *metrics) failed(code int16) {
	if code == 0 {
		return
	}
	v, ok := m.errors.Load(code)
	if !ok {
		v, _ = m.errors.LoadOrStore(code, m.errs.WithLabelValues(protocol.ErrorName(code)))
	}
	v.(prometheus.Counter).Inc()
}
