package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A recovery is asked for by GET and carried out by POST, and only with the header that no web page can send.
func TestRecovery(t *testing.T) {
	asked := ""
	s := New(Options{Recovery: func(_ context.Context, topic string, part, node int32, accept bool) (any, error) {
		asked = fmt.Sprint(topic, " ", part, " ", node, " ", accept)
		if topic == "none" {
			return nil, errors.New("unknown topic")
		}
		return map[string]int{"choice": 2}, nil
	}})
	for _, c := range []struct {
		method, path, header string
		status               int
		asked                string
	}{
		{"GET", "/v1/recovery/or.ders/3", "", 200, "or.ders 3 -1 false"},
		{"GET", "/v1/recovery/orders/3?node=2", "yes", 200, "orders 3 2 false"},
		{"POST", "/v1/recovery/orders/3?node=2", "yes", 200, "orders 3 2 true"},
		{"POST", "/v1/recovery/orders/3", "", 403, ""},
		{"POST", "/v1/recovery/orders/x", "yes", 400, ""},
		{"POST", "/v1/recovery/orders/1?node=x", "yes", 400, ""},
		{"DELETE", "/v1/recovery/orders/1", "yes", 405, ""},
		{"GET", "/v1/recovery/none/1", "", 409, "none 1 -1 false"},
	} {
		asked = ""
		r := httptest.NewRequest(c.method, c.path, nil)
		if c.header != "" {
			r.Header.Set(AcceptHeader, c.header)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != c.status || asked != c.asked || c.status == http.StatusOK && !strings.Contains(w.Body.String(), `"choice": 2`) {
			t.Errorf("%s %s: %d, asked %q: %s", c.method, c.path, w.Code, asked, w.Body)
		}
	}
}
