package broker

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// ApiVersions, versions 0-4. A version that is not known is answered in version 0 with UNSUPPORTED_VERSION and the same
// table (conn.answer), so that the client can choose again.

func handleAPIVersions(_ *Server, _ *requestContext, _ kmsg.Request) (kmsg.Response, error) {
	return apiVersions(), nil
}

func apiVersions() *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	for _, key := range slices.Sorted(maps.Keys(handlers)) {
		h := handlers[key]
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = key, h.advertised, h.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}
