package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// AcceptHeader must be "yes" in a POST to /v1/recovery: a web page cannot make a browser send it.
const AcceptHeader = "X-Balsa-Accept-Data-Loss"

const recoveryTimeout = 30 * time.Second

// recovery answers GET with the plan of a partition's recovery; POST carries it out.
func (s *Server) recovery(w http.ResponseWriter, r *http.Request) {
	part, err := strconv.ParseInt(r.PathValue("partition"), 10, 32)
	node := int64(-1)
	if v := r.URL.Query().Get("node"); v != "" && err == nil {
		node, err = strconv.ParseInt(v, 10, 32)
	}
	if err != nil {
		text(w, http.StatusBadRequest, "partition and node are numbers\n")
		return
	}
	accept := r.Method == http.MethodPost
	if accept && r.Header.Get(AcceptHeader) != "yes" {
		text(w, http.StatusForbidden, "the header "+AcceptHeader+": yes is missing\n")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), recoveryTimeout)
	defer cancel()
	plan, err := s.o.Recovery(ctx, r.PathValue("topic"), int32(part), int32(node), accept)
	if err != nil {
		text(w, http.StatusConflict, err.Error()+"\n")
		return
	}
	body, err := json.MarshalIndent(plan, "", "  ")
	if err != nil {
		text(w, http.StatusInternalServerError, "cannot encode the plan\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // the client is gone: nobody to tell
}
