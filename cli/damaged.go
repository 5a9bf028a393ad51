package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/admin"
)

// damagedReplica is a replica that does not work, as its broker said.
type damagedReplica struct {
	Broker    int32  `json:"broker"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Replica   uint64 `json:"replica"`
	Damaged   bool   `json:"damaged"` // rebuilt by itself once nothing stands against it; else opened again
	// NeedsRecovery: it lost power under flush policy replicated and rests (balsa partition recover says how it stands).
	NeedsRecovery bool   `json:"needs_recovery,omitempty"`
	Reason        string `json:"reason"`
	Waits         string `json:"waits,omitempty"` // what the rebuilding waits for
}

// damagedReplicas asks one broker over HTTP, which knows it of all: no Kafka request tells.
func damagedReplicas(ctx context.Context, address string) ([]damagedReplica, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, usageError{fmt.Sprintf("--http: %q is not HOST:PORT", address)}
	}
	body, err := askHTTP(ctx, address, "/v1/cluster", maxStatusBytes)
	if err != nil {
		return nil, err
	}
	var s admin.ClusterStatus
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		return nil, fmt.Errorf("http://%s/v1/cluster: %w", address, err)
	}
	out := []damagedReplica{}
	for _, b := range s.Brokers {
		for _, d := range b.Damaged {
			out = append(out, damagedReplica{b.ID, d.Topic, d.Partition, d.Replica, d.Damaged, d.NeedsRecovery, d.Reason, d.Waits})
		}
	}
	return out, nil
}

const maxStatusBytes = 256 << 20

func printDamaged(c *cli.Context, list []damagedReplica) error {
	w := c.App.Writer
	fmt.Fprintf(w, "\ndamaged replicas %d\n", len(list))
	if len(list) == 0 {
		return nil
	}
	var rows [][]string
	for _, d := range list[:min(len(list), maxListed)] {
		state := "is opened again"
		if d.NeedsRecovery {
			state = "needs recovery: " + d.Waits
		} else if d.Damaged {
			state = "is rebuilt"
			if d.Waits != "" {
				state = "waits: " + d.Waits
			}
		}
		rows = append(rows, []string{strconv.Itoa(int(d.Broker)), d.Topic, strconv.Itoa(int(d.Partition)), state, d.Reason})
	}
	fmt.Fprintln(w)
	if err := printTable(w, []string{"BROKER", "TOPIC", "PARTITION", "STATE", "REASON"}, rows); err != nil {
		return err
	}
	if rest := len(list) - len(rows); rest > 0 {
		fmt.Fprintf(w, "... and %d more; -o json lists all\n", rest)
	}
	return nil
}
