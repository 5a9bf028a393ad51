// Command balsa is a replicated log broker: one static binary that speaks the Kafka protocol.
package main

import (
	"os"

	"github.com/balsa-broker/balsa/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
