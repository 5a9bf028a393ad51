package broker

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/balsa-broker/balsa/protocol"
)

// fillRandomly gives every field of a request a value, and every structure tagged fields.
func fillRandomly(rng *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			for range rng.IntN(3) {
				v.Addr().Interface().(*kmsg.Tags).Set(1000+rng.Uint32N(50), make([]byte, rng.IntN(200)))
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" && v.Field(i).CanSet() {
				fillRandomly(rng, v.Field(i))
			}
		}
	case reflect.Slice:
		n := rng.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fillRandomly(rng, v.Index(i))
		}
	case reflect.Pointer:
		if rng.IntN(2) == 0 {
			v.SetZero()
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fillRandomly(rng, v.Elem())
	case reflect.String:
		b := make([]byte, rng.IntN(200))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		v.SetString(string(b))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rng.Uint64()))
	case reflect.Uint8:
		v.SetUint(uint64(rng.Uint32N(256)))
	case reflect.Array:
		for i := range v.Len() {
			fillRandomly(rng, v.Index(i))
		}
	}
}

// TestTagsOfEveryRequest: the layouts are those of kmsg, to the last byte; a request with tagged fields passes, one that
// claims more than there are bytes does not.
func TestTagsOfEveryRequest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for key, h := range handlers {
		if key == protocol.Produce || key == protocol.Fetch {
			continue // decoded here
		}
		for version := h.min; version <= h.max; version++ {
			if !flexibleRequest(key, version) {
				continue
			}
			layout, ok := flexibleLayout(key, version)
			if !ok {
				t.Errorf("%s has no layout", kmsg.NameForKey(key))
				continue
			}
			for range 200 {
				req := kmsg.RequestForKey(key)
				fillRandomly(rng, reflect.ValueOf(req).Elem())
				req.SetVersion(version)
				body := req.AppendTo(nil)
				w := tagWalker{b: body}
				w.fields(layout)
				w.tags()
				if w.done || len(w.b) != 0 {
					t.Fatalf("%s v%d: %d of %d bytes left of %+v", kmsg.NameForKey(key), version, len(w.b), len(body), req)
				}
				if err := checkTags(key, version, body); err != nil {
					t.Fatal(err)
				}
			}
			req := kmsg.RequestForKey(key)
			req.SetVersion(version)
			body := req.AppendTo(nil)
			body = append(body[:len(body)-1], 0xff, 0xff, 0xff, 0xff, 0x0f)
			if err := checkTags(key, version, body); !errors.Is(err, protocol.ErrMalformed) {
				t.Errorf("%s v%d with 2^32-1 tagged fields: %v", kmsg.NameForKey(key), version, err)
			}
		}
	}
}

// FuzzCheckTags: what passes is decoded at once, whatever it is.
func FuzzCheckTags(f *testing.F) {
	for key, h := range handlers {
		if key != protocol.Produce && key != protocol.Fetch {
			req := kmsg.RequestForKey(key)
			req.SetVersion(h.max)
			f.Add(key, h.max, req.AppendTo(nil))
		}
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		h, ok := handlers[key]
		if !ok || key == protocol.Produce || key == protocol.Fetch || version < h.min || version > h.max {
			return
		}
		if checkTags(key, version, body) != nil {
			return
		}
		req := kmsg.RequestForKey(key)
		req.SetVersion(version)
		_ = req.ReadFrom(body) // hangs where a number of tags slipped through
	})
}
