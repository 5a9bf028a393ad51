package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/balsa-broker/balsa/config"
)

// settingFlags are the flags that stand for a setting of their own. They win over --set, the environment and the file.
var settingFlags = []struct{ flag, setting, usage string }{
	{"node-id", "node.id", "this broker's `N`, unique in the cluster, for ever the same"},
	{"data-dir", "log.dirs", "`DIR` for the data"},
	{"kafka-listen", "listeners", "`[NAME://]HOST:PORT,...` for Kafka clients"},
	{"kafka-advertise", "advertised.listeners", "`[NAME://]HOST:PORT,...` that clients are told, one per listener"},
	{"cluster-listen", "balsa.cluster.listen", "`HOST:PORT` for the traffic between brokers"},
	{"cluster-advertise", "balsa.cluster.advertise", "`HOST:PORT` at which the other brokers reach it"},
	{"gossip-listen", "balsa.gossip.listen", "`HOST:PORT` for membership gossip, TCP and UDP"},
	{"gossip-advertise", "balsa.gossip.advertise", "`HOST:PORT` at which the other brokers reach it"},
	{"http-listen", "balsa.http.listen", "`HOST:PORT` for health, metrics and status"},
	{"join", "balsa.join", "gossip `HOST:PORT,...` of brokers to join; tried for ever"},
	{"bootstrap-expect", "balsa.bootstrap.expect", "found a cluster once `N` brokers have met"},
	{"rack", "broker.rack", "`NAME` of the rack or zone; replicas are spread over racks"},
	{"log-level", "balsa.log.level", "debug, info, warn or error"},
	{"log-format", "balsa.log.format", "text or json, on standard error"},
}

// configFlags are where configuration comes from.
func configFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config-file", Usage: "YAML `FILE` of settings", EnvVars: []string{"BALSA_CONFIG_FILE"}},
		&cli.StringSliceFlag{Name: "set", Usage: "`NAME=VALUE` of a setting; may be given several times"},
	}
}

// loadSettings resolves file, environment, --set and the flags of their own, in that order; the later wins.
func loadSettings(c *cli.Context) (*config.Broker, error) {
	static, err := staticSettings(c)
	if err != nil {
		return nil, err
	}
	b, err := config.NewBroker(static)
	if err != nil {
		return nil, usageError{err.Error()}
	}
	return b, nil
}

func staticSettings(c *cli.Context) (map[string]string, error) {
	var file []byte
	if name := c.String("config-file"); name != "" {
		var err error
		if file, err = os.ReadFile(name); err != nil {
			return nil, usageError{fmt.Sprintf("--config-file: %v", err)}
		}
	}
	var own []string
	for _, f := range settingFlags {
		if !c.IsSet(f.flag) {
			continue
		}
		value := c.String(f.flag)
		switch f.flag {
		case "kafka-listen", "kafka-advertise":
			var err error
			if value, err = nameListeners(f.flag, value, own); err != nil {
				return nil, err
			}
		case "join", "data-dir", "rack":
			value = strings.TrimSpace(value)
		}
		// The flag's own value is checked alone first, so that the error can name the flag.
		if _, err := config.Load(nil, nil, []string{f.setting + "=" + value}); err != nil {
			return nil, usageError{fmt.Sprintf("--%s: %s", f.flag, strings.TrimPrefix(err.Error(), "--set: "))}
		}
		own = append(own, f.setting+"="+value)
	}
	static, err := config.Load(file, os.Environ(), append(c.StringSlice("set"), own...))
	if err != nil {
		return nil, usageError{err.Error()}
	}
	return static, nil
}

const defaultListener = "PLAINTEXT"

// nameListeners puts names where there are none: a single listener is called PLAINTEXT; of several, each needs a name.
// An advertised address without a name belongs to the only listener.
func nameListeners(flag, value string, own []string) (string, error) {
	parts := config.SplitList(value)
	name := defaultListener
	if flag == "kafka-advertise" {
		for _, kv := range own {
			if list, ok := strings.CutPrefix(kv, "listeners="); ok && !strings.Contains(list, ",") {
				name, _, _ = strings.Cut(list, "://")
			}
		}
	}
	for i, p := range parts {
		if strings.Contains(p, "://") {
			continue
		}
		if len(parts) > 1 {
			return "", usageError{fmt.Sprintf("--%s: of several listeners each needs a name, NAME://%s", flag, p)}
		}
		parts[i] = name + "://" + p
	}
	return strings.Join(parts, ","), nil
}

// listenerAddress is one Kafka listener: where it listens, and what clients are told.
type listenerAddress struct {
	name, listen, advertise string
}

// kafkaListeners pairs listeners with their advertised addresses and refuses addresses that no client could use.
func kafkaListeners(b *config.Broker) ([]listenerAddress, error) {
	advertised := map[string]string{}
	for _, a := range b.AdvertisedListeners() {
		name, address, _ := strings.Cut(a, "://")
		if _, twice := advertised[name]; twice {
			return nil, usageError{fmt.Sprintf("--kafka-advertise: %s is there twice", name)}
		}
		if err := reachable("kafka-advertise", address); err != nil {
			return nil, err
		}
		advertised[name] = address
	}
	var out []listenerAddress
	for _, l := range b.Listeners() {
		name, address, _ := strings.Cut(l, "://")
		for _, other := range out {
			if other.name == name {
				return nil, usageError{fmt.Sprintf("--kafka-listen: the name %s is there twice", name)}
			}
		}
		advertise, ok := advertised[name]
		delete(advertised, name)
		if !ok {
			if isWildcard(address) {
				return nil, usageError{fmt.Sprintf("--kafka-listen %s listens on every address, so clients must be told which to use: add --kafka-advertise %s://HOST:%s",
					address, name, portOf(address))}
			}
			advertise = address
		}
		out = append(out, listenerAddress{name, address, advertise})
	}
	for name := range advertised {
		return nil, usageError{fmt.Sprintf("--kafka-advertise: there is no listener called %s; --kafka-listen names them", name)}
	}
	if len(out) == 0 {
		return nil, usageError{"--kafka-listen: at least one listener is needed"}
	}
	return out, nil
}

// peerAddress checks the listen and advertised address for other brokers and returns the latter.
func peerAddress(kind, listen, advertise string) (string, error) {
	if advertise != "" {
		return advertise, reachable(kind+"-advertise", advertise)
	}
	if isWildcard(listen) {
		return "", usageError{fmt.Sprintf("--%s-listen %s listens on every address, so the other brokers must be told which to use: add --%s-advertise HOST:%s",
			kind, listen, kind, portOf(listen))}
	}
	return "", nil
}

func reachable(flag, address string) error {
	if isWildcard(address) {
		return usageError{fmt.Sprintf("--%s %s: nobody can connect to a wildcard; give a host name or an address of this machine", flag, address)}
	}
	if portOf(address) == "0" {
		return usageError{fmt.Sprintf("--%s %s: port 0 is not an address", flag, address)}
	}
	return nil
}

func isWildcard(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "" || host == "*" || ip != nil && ip.IsUnspecified()
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// checkDataDir makes the data folder and tries to write there, so that a wrong --data-dir is one clear line.
func checkDataDir(dir string) error {
	fail := func(err error) error {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return usageError{fmt.Sprintf("--data-dir %s: cannot write there: %v", dir, err)}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(dir, ".writable-")
	if err != nil {
		return fail(err)
	}
	_ = f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return fail(err)
	}
	return nil
}
