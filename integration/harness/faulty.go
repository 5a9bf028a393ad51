package harness

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Faults are what a broker built by BuildFaulty does to itself. It reads them anew at each sync and each look at the
// clock.
type Faults struct {
	// SyncDelay is added to each fdatasync, fsync and syncfs, of segments, votes, metadata and folders.
	SyncDelay time.Duration
	// SyncFails makes syncs fail with EIO of files whose path holds this text; "" fails none.
	SyncFails string
	// ClockOffset is added to the wall clock by which retention and producers are judged.
	ClockOffset time.Duration
}

// faultyEnv names the file that a broker of BuildFaulty reads.
const faultyEnv = "FAULTY_CONTROL"

func (n *Node) faultsFile() string { return n.Dir + ".faults" }

// SetFaults makes the broker's process behave from now on, and after restarts. It needs Options.Binary to be
// BuildFaulty's. The zero value ends all faults.
func (n *Node) SetFaults(f Faults) error {
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	tmp := n.faultsFile() + ".new"
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, n.faultsFile())
}

// faultySource goes into package vfs of the build.
const faultySource = `package vfs

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"time"
)

type faults struct {
	SyncDelay   time.Duration
	SyncFails   string
	ClockOffset time.Duration
}

func readFaults() (f faults) {
	if b, err := os.ReadFile(os.Getenv("` + faultyEnv + `")); err == nil {
		_ = json.Unmarshal(b, &f)
	}
	return f
}

// FaultySync comes before each sync of the file or folder of that name.
func FaultySync(name string) error {
	f := readFaults()
	time.Sleep(f.SyncDelay)
	if f.SyncFails != "" && strings.Contains(name, f.SyncFails) {
		return &os.PathError{Op: "fdatasync", Path: name, Err: syscall.EIO}
	}
	return nil
}

// FaultyNow is a wall clock that is off.
func FaultyNow() time.Time {
	if off := readFaults().ClockOffset; off != 0 {
		return time.Now().Add(off).Round(0)
	}
	return time.Now()
}
`

// patch replaces a text that must stand exactly once in a file.
type patch struct{ file, old, new string }

var faultyPatches = []patch{
	{
		"vfs/os_linux.go", `return control(f, "fdatasync", unix.Fdatasync)`,
		"if err := FaultySync(f.Name()); err != nil {\n\t\treturn err\n\t}\n\treturn control(f, \"fdatasync\", unix.Fdatasync)",
	},
	{
		"vfs/dir_unix.go", "\terr = d.Sync()\n",
		"\tif err = FaultySync(name); err == nil {\n\t\terr = d.Sync()\n\t}\n",
	},
	{
		"vfs/syncall_linux.go", `err = control(f, "syncfs", unix.Syncfs)`,
		"if err = FaultySync(name); err == nil {\n\t\terr = control(f, \"syncfs\", unix.Syncfs)\n\t}",
	},
	{"cluster/options.go", "o.Now = time.Now\n", "o.Now = vfs.FaultyNow\n"},
	// bbolt keeps the votes and the metadata log.
	{"bbolt/bolt_linux.go", "\t\"syscall\"\n", "\t\"syscall\"\n\n\t\"github.com/balsa-broker/balsa/vfs\"\n"},
	{
		"bbolt/bolt_linux.go", `return syscall.Fdatasync(int(db.file.Fd()))`,
		"if err := vfs.FaultySync(db.path); err != nil {\n\t\treturn err\n\t}\n\treturn syscall.Fdatasync(int(db.file.Fd()))",
	},
}

// BuildFaulty builds the binary with syncs and a wall clock that SetFaults can disturb; everything else is the
// product's own code. The binary is in dir.
func BuildFaulty(dir string) (string, error) {
	return buildPatched(dir, "balsa-faulty", faultyPatches, map[string]string{"vfs/faulty.go": faultySource})
}

// BuildWithoutSyncs builds the binary with a file system whose Sync does nothing.
func BuildWithoutSyncs(dir string) (string, error) {
	return buildPatched(dir, "balsa-without-syncs", []patch{
		{"vfs/os_linux.go", `return control(f, "fdatasync", unix.Fdatasync)`, "return nil"},
	}, nil)
}

// buildPatched builds the binary from a copy of this module, with bbolt in a folder of it, in which sources were changed
// and others added.
func buildPatched(dir, name string, patches []patch, added map[string]string) (string, error) {
	source := filepath.Join(dir, name+"-source")
	defer func() { _ = os.RemoveAll(source) }()
	for pkg, to := range map[string]string{"github.com/balsa-broker/balsa": source, "go.etcd.io/bbolt": filepath.Join(source, "bbolt")} {
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", pkg).Output()
		if err != nil {
			return "", fmt.Errorf("find %s: %w", pkg, err)
		}
		if err := copySources(strings.TrimSpace(string(out)), to); err != nil {
			return "", err
		}
	}
	for _, p := range patches {
		file := filepath.Join(source, p.file)
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if strings.Count(string(b), p.old) != 1 {
			return "", fmt.Errorf("%s is not as this build knows it: %q", p.file, p.old)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(b), p.old, p.new, 1)), 0o644); err != nil {
			return "", err
		}
	}
	for file, text := range added {
		if err := os.WriteFile(filepath.Join(source, file), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	bin := filepath.Join(dir, name)
	for _, args := range [][]string{
		{"mod", "edit", "-replace", "go.etcd.io/bbolt=./bbolt"},
		{"build", "-trimpath", "-buildvcs=false", "-o", bin, "."},
	} {
		cmd := exec.Command("go", args...)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: go %s: %w\n%s", name, strings.Join(args, " "), err, out)
		}
	}
	return bin, nil
}

// copySources copies a module without its tests, documents and binaries.
func copySources(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if path != from && (strings.HasPrefix(name, ".") || name == "bin" || name == "docs" || name == "tools" || name == "integration") {
				return fs.SkipDir
			}
			rel, err := filepath.Rel(from, path)
			if err != nil {
				return err
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !d.Type().IsRegular() || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o644)
	})
}
