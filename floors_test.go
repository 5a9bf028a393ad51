package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/balsa-broker/balsa"

// floors are the floors of the house, from the ground up. A package imports only packages of lower floors, or of its
// own tree. The three front doors of one floor never import each other.
var floors = [][]string{
	{"config", "vfs", "protocol", "internal"}, // leaves: what stands on no other package of ours
	{"segment"},
	{"partition"},
	{"cluster"},
	{"coordinator"},
	{"broker", "amqp", "admin"},
	{"cli"},
	{""}, // main
	{"integration"},
	{"simulation"},
}

func floorOf(tree string) int {
	return slices.IndexFunc(floors, func(f []string) bool { return slices.Contains(f, tree) })
}

// tree is the top folder of a package of this module: "cluster" for .../cluster/transport, "" for main.
func tree(path string) string {
	top, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, module), "/"), "/")
	return top
}

func TestFloors(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	type listed struct {
		ImportPath                         string
		Imports, TestImports, XTestImports []string
	}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		from := tree(p.ImportPath)
		if floorOf(from) < 0 {
			t.Errorf("%s stands on no floor: add %q to floors", p.ImportPath, from)
			continue
		}
		for _, imported := range p.Imports {
			if msg := refuse(from, imported); msg != "" {
				t.Errorf("%s: %s", p.ImportPath, msg)
			}
		}
		// A test may stand on a higher floor than what it tests, never on a front door from the side.
		for _, imported := range append(p.TestImports, p.XTestImports...) {
			if strings.HasPrefix(imported, module) && floorOf(tree(imported)) == floorOf(from) && tree(imported) != from {
				t.Errorf("%s: its test imports %s of the same floor", p.ImportPath, imported)
			}
		}
	}
}

// refuse says why a package of the tree from may not import a package; "" when it may.
func refuse(from, imported string) string {
	if imported != module && !strings.HasPrefix(imported, module+"/") {
		return ""
	}
	to := tree(imported)
	switch lower, upper := floorOf(to), floorOf(from); {
	case to == from:
		return ""
	case lower < 0:
		return imported + " stands on no floor"
	case upper == 0 && to == "internal":
		return "" // internal holds what everyone may use
	case lower >= upper:
		return "may not import " + imported
	}
	return ""
}

// The three front doors never meet, and no leaf stands on another: the check itself, on imports that must not be.
func TestFloorsRefuse(t *testing.T) {
	for _, c := range []struct {
		from, imported string
		refused        bool
	}{
		{"broker", module + "/admin", true},
		{"admin", module + "/broker", true},
		{"segment", module + "/partition", true},
		{"config", module + "/protocol/record", true},
		{"cluster", module + "/broker", true},
		{"broker", module + "/cli", true},
		{"cli", module + "/broker", false},
		{"cluster", module + "/partition", false},
		{"broker", module + "/coordinator/group", false},
		{"segment", module + "/vfs", false},
		{"segment", "github.com/hashicorp/raft", false},
	} {
		if got := refuse(c.from, c.imported) != ""; got != c.refused {
			t.Errorf("%s imports %s: refused %v, want %v", c.from, c.imported, got, c.refused)
		}
	}
}
