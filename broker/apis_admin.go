package broker

import "github.com/balsa-broker/balsa/protocol"

// adminAPIs are the administrative APIs, each in a file of its own. Versions come from protocol.Versions.
var adminAPIs = []apiHandler{
	{key: protocol.CreateTopics, handle: handleCreateTopics},
	{key: protocol.DeleteTopics, handle: handleDeleteTopics},
	{key: protocol.CreatePartitions, handle: handleCreatePartitions},
	{key: protocol.DescribeConfigs, handle: handleDescribeConfigs},
	{key: protocol.AlterConfigs, handle: handleAlterConfigs},
	{key: protocol.IncrementalAlterConfigs, handle: handleIncrementalAlterConfigs},
	{key: protocol.DescribeCluster, handle: handleDescribeCluster},
	{key: protocol.DescribeLogDirs, handle: handleDescribeLogDirs},
	{key: protocol.ListConfigResources, handle: handleListConfigResources},
}
