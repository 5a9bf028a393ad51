package broker

// adminAPIs are the administrative APIs, each in a file of its own. Versions come from protocol.Versions.
var adminAPIs = []apiHandler{
	// {key: protocol.CreateTopics, handle: handleCreateTopics},
}
