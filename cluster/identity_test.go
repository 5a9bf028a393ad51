package cluster

import (
	"errors"
	"testing"

	"github.com/balsa-broker/balsa/vfs"
)

func TestIdentityIsMadeOnceAndBelongsToOneNode(t *testing.T) {
	dir := t.TempDir()
	a, err := loadIdentity(vfs.OS(), dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	if a.Incarnation == 0 || a.Incarnation > incarnationMax {
		t.Fatalf("incarnation %x", a.Incarnation)
	}
	a.ClusterID = "c"
	if err := a.save(vfs.OS(), dir); err != nil {
		t.Fatal(err)
	}
	b, err := loadIdentity(vfs.OS(), dir, 1)
	if err != nil || b != a {
		t.Fatalf("%+v, %v; want %+v", b, err, a)
	}
	if _, err := loadIdentity(vfs.OS(), dir, 2); !errors.Is(err, ErrWrongNode) {
		t.Fatalf("another node id: %v", err)
	}
	if err := vfs.WriteFile(vfs.OS(), dir, dir+"/"+metaFile, []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := loadIdentity(vfs.OS(), dir, 1); !errors.Is(err, ErrFormat) {
		t.Fatalf("damaged: %v", err)
	}
}

func TestDataFolderIsLocked(t *testing.T) {
	dir := t.TempDir()
	release, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); !errors.Is(err, ErrLocked) {
		t.Fatalf("second lock: %v", err)
	}
	release()
	release, err = lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	release()
}
