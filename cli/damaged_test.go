package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/admin"
	"github.com/balsa-broker/balsa/cluster"
)

func TestDamagedReplicasAreListed(t *testing.T) {
	status := admin.ClusterStatus{Brokers: []admin.BrokerStatus{
		{ID: 1}, {ID: 2, Damaged: []cluster.ReplicaFailure{{Topic: "orders", Partition: 3, Replica: 9, Damaged: true, Reason: "a bad frame", Waits: "no leader"}}},
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/cluster" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(status)
	}))
	defer s.Close()
	address := strings.TrimPrefix(s.URL, "http://")
	got, err := damagedReplicas(t.Context(), address)
	if err != nil || len(got) != 1 || got[0] != (damagedReplica{2, "orders", 3, 9, true, false, "a bad frame", "no leader"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	var out bytes.Buffer
	app := &cli.App{Writer: &out}
	if err := printDamaged(cli.NewContext(app, nil, nil), got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"damaged replicas 1", "orders", "waits: no leader", "a bad frame"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if _, err := damagedReplicas(t.Context(), "nowhere"); err == nil {
		t.Error("an address without a port was taken")
	}
}
