package meta

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func genCommand(img *Image) *rapid.Generator[Command] {
	return rapid.Custom(func(t *rapid.T) Command {
		node := rapid.Int32Range(1, 5)
		nodes := rapid.SliceOfNDistinct(node, 1, 3, rapid.ID[int32])
		inc := rapid.Uint64Range(1, 3)
		topic := rapid.Custom(func(t *rapid.T) TopicID { return TopicID{rapid.ByteRange(1, 6).Draw(t, "topic")} })
		part := rapid.Int32Range(0, 3)
		name := rapid.SampledFrom([]string{"a", "b", "a.b", "a_b", "c", ".."})
		conf := rapid.MapOf(rapid.SampledFrom([]string{"x", "y", "z"}), rapid.Ptr(rapid.StringN(0, 5, -1), true))
		replica := rapid.Uint64Range(0, img.NextReplicaID)
		switch rapid.IntRange(0, 15).Draw(t, "kind") {
		case 0:
			return SetClusterID{ClusterID: rapid.SampledFrom([]string{"c", "d"}).Draw(t, "cluster")}
		case 1:
			return RegisterBroker{Broker: Broker{ID: node.Draw(t, "id"), Incarnation: inc.Draw(t, "inc"), Rack: rapid.SampledFrom([]string{"", "r"}).Draw(t, "rack"), Listeners: []Listener{{"L", "h", 1}}}}
		case 2:
			return FenceBroker{ID: node.Draw(t, "id"), Incarnation: inc.Draw(t, "inc")}
		case 3:
			return UnfenceBroker{ID: node.Draw(t, "id"), Incarnation: inc.Draw(t, "inc")}
		case 4:
			return RemoveBroker{ID: node.Draw(t, "id")}
		case 5, 6:
			return CreateTopic{ID: topic.Draw(t, "id"), Name: name.Draw(t, "name"), Partitions: rapid.SliceOfN(nodes, 0, 3).Draw(t, "parts"), Configs: map[string]string{"k": "v"}}
		case 7:
			return DeleteTopic{ID: topic.Draw(t, "id")}
		case 8:
			return CreatePartitions{Topic: topic.Draw(t, "id"), From: part.Draw(t, "from"), Partitions: rapid.SliceOfN(nodes, 0, 3).Draw(t, "parts")}
		case 9:
			return SetReplicas{Topic: topic.Draw(t, "id"), Partition: part.Draw(t, "p"), Epoch: rapid.Int32Range(-1, 3).Draw(t, "epoch"), Nodes: nodes.Draw(t, "nodes")}
		case 10:
			return ReplaceReplica{Topic: topic.Draw(t, "id"), Partition: part.Draw(t, "p"), Epoch: rapid.Int32Range(-1, 3).Draw(t, "epoch"), ID: replica.Draw(t, "r")}
		case 13:
			return ChooseReplica{
				Topic: topic.Draw(t, "id"), Partition: part.Draw(t, "p"), Epoch: rapid.Int32Range(0, 3).Draw(t, "epoch"), ID: replica.Draw(t, "r"),
				Term: rapid.Uint64Range(5, 6).Draw(t, "term"), Loss: Loss{Replica: 1, Known: -1},
			}
		case 14:
			return FinishRecovery{Topic: topic.Draw(t, "id"), Partition: part.Draw(t, "p"), ID: replica.Draw(t, "r"), Term: rapid.Uint64Range(5, 6).Draw(t, "term")}
		case 11:
			return ReplicasRemoved{Topic: topic.Draw(t, "id"), Partition: part.Draw(t, "p"), IDs: rapid.SliceOfN(replica, 0, 5).Draw(t, "ids")}
		case 12:
			return SetTopicConfigs{Topic: topic.Draw(t, "id"), Set: conf.Draw(t, "set"), ReplaceAll: rapid.Bool().Draw(t, "all")}
		default:
			return SetBrokerConfigs{Node: rapid.Int32Range(-1, 5).Draw(t, "node"), Set: conf.Draw(t, "set"), ReplaceAll: rapid.Bool().Draw(t, "all")}
		}
	})
}

// Invariants, after every command:
//   - an image, once made, never changes (its encoding stays the same);
//   - a refused command changes nothing but the version;
//   - the image equals what its snapshot gives, and equal images give equal results from then on (Apply is
//     deterministic, whether commands come one by one, in a batch or from the log);
//   - no replica id is ever given twice; a replica's disk is its broker's; no broker has two replicas of a partition;
//   - a creation record never changes;
//   - both topic maps agree, and the partition count is right.
func TestApplyProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		img := NewImage()
		replay := NewImage() // fed from the encoded commands, and through snapshots
		owner := map[uint64]string{}
		initial := map[string]string{}
		var indexes []uint64
		var commands []Command
		for i := range rapid.IntRange(1, 40).Draw(t, "commands") {
			c := genCommand(img).Draw(t, "command")
			before := EncodeImage(img)
			next, result, err := Apply(img, uint64(i+1), c)
			if !bytes.Equal(before, EncodeImage(img)) {
				t.Fatalf("%T changed the image it was applied to", c)
			}
			if err != nil {
				var e *Error
				if !errors.As(err, &e) || e.Code == 0 {
					t.Fatalf("%T: %v is no *Error", c, err)
				}
				same := *next
				same.Version = img.Version
				if !bytes.Equal(before, EncodeImage(&same)) {
					t.Fatalf("%T was refused and changed the image", c)
				}
			}
			img = next
			indexes, commands = append(indexes, uint64(i+1)), append(commands, c)

			decoded, derr := DecodeCommand(EncodeCommand(c))
			if derr != nil {
				t.Fatal(derr)
			}
			var result2 any
			var err2 error
			replay, result2, err2 = Apply(replay, uint64(i+1), decoded)
			if !bytes.Equal(EncodeResult(result), EncodeResult(result2)) || fmt.Sprint(err) != fmt.Sprint(err2) {
				t.Fatalf("%T: %v %v, again: %v %v", c, result, err, result2, err2)
			}
			b := EncodeImage(img)
			if !bytes.Equal(b, EncodeImage(replay)) {
				t.Fatalf("%T: the images differ", c)
			}
			back, derr := DecodeImage(b)
			if derr != nil {
				t.Fatal(derr)
			}
			if !bytes.Equal(b, EncodeImage(back)) || back.PartitionCount != img.PartitionCount {
				t.Fatal("an image changed on its way through a snapshot")
			}
			replay = back
			checkImage(t, img, owner, initial)
		}
		batch := Batch(NewImage(), indexes, commands, func(int, any, error) {})
		if !bytes.Equal(EncodeImage(batch), EncodeImage(img)) {
			t.Fatal("a batch gives another image")
		}
	})
}

func checkImage(t *rapid.T, img *Image, owner map[uint64]string, initial map[string]string) {
	if len(img.Topics) != len(img.TopicsByID) {
		t.Fatal("the topic maps differ")
	}
	count := 0
	for name, topic := range img.Topics {
		if topic.Name != name || img.TopicsByID[topic.ID] != topic {
			t.Fatal("the topic maps differ")
		}
		count += len(topic.Partitions)
		for i := range topic.Partitions {
			p := &topic.Partitions[i]
			// A topic id may be used again here, so the replica ids name the partition.
			key := fmt.Sprintf("%s-%d-%d", topic.ID, p.ID, p.Initial[0].ID)
			if p.ID != int32(i) || len(p.Replicas) == 0 || p.Created && !slices.Equal(p.Replicas, p.Initial) {
				t.Fatalf("%+v", p)
			}
			if was, ok := initial[key]; ok && was != fmt.Sprint(p.Initial) {
				t.Fatalf("the creation record changed from %s to %v", was, p.Initial)
			}
			initial[key] = fmt.Sprint(p.Initial)
			seen := map[int32]bool{}
			for _, r := range p.Replicas {
				if seen[r.Node] {
					t.Fatalf("two replicas on broker %d", r.Node)
				}
				seen[r.Node] = true
				if b := img.Brokers[r.Node]; b == nil || b.Incarnation != r.Incarnation {
					t.Fatalf("replica %+v is not on its broker's disk", r)
				}
			}
			for _, r := range slices.Concat(p.Replicas, p.Removing, p.Initial) {
				who := fmt.Sprintf("%s on %d", key, r.Node)
				if r.ID == 0 || r.ID >= img.NextReplicaID || owner[r.ID] != "" && owner[r.ID] != who {
					t.Fatalf("replica id %d was given twice: %s, %s", r.ID, owner[r.ID], who)
				}
				owner[r.ID] = who
			}
			for _, r := range p.Removing {
				if slices.ContainsFunc(p.Replicas, func(o Replica) bool { return o.ID == r.ID }) {
					t.Fatalf("replica %s stays and goes", r)
				}
			}
		}
	}
	if count != img.PartitionCount {
		t.Fatalf("%d partitions, counted %d", img.PartitionCount, count)
	}
}

// Invariants of placement:
//   - as many replicas as asked for, on different brokers, that are registered; a majority of them alive;
//   - of dead brokers no more than are needed;
//   - a partition is in as many racks as it can be, and no rack has two more of it than another that has room;
//   - on an empty cluster of equal racks leaders differ by at most one between brokers, replicas by at most two;
//   - the same image gives the same answer.
func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		racks := rapid.IntRange(1, 4).Draw(t, "racks")
		perRack := rapid.IntRange(1, 4).Draw(t, "brokers per rack")
		img := NewImage()
		for i := range racks * perRack {
			img, _, _ = Apply(img, uint64(i), RegisterBroker{Broker: Broker{ID: int32(i + 1), Incarnation: 1, Rack: fmt.Sprint("r", i%racks)}})
		}
		n := racks * perRack
		dead := map[int32]bool{}
		for range rapid.IntRange(0, n/2).Draw(t, "dead") {
			dead[rapid.Int32Range(1, int32(n)).Draw(t, "id")] = true
		}
		factor := rapid.IntRange(1, min(n, 5)).Draw(t, "factor")
		alive := func(id int32) bool { return !dead[id] }
		total := 0
		leaders, replicas := map[int32]int{}, map[int32]int{}
		for k := range rapid.IntRange(1, 4).Draw(t, "topics") {
			count := rapid.IntRange(1, 20).Draw(t, "partitions")
			parts, err := Place(img, count, factor, alive)
			if n-len(dead) <= factor/2 {
				if !errors.Is(err, ErrInvalidFactor) {
					t.Fatalf("no majority is alive: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			again, _ := Place(img, count, factor, alive)
			if fmt.Sprint(parts) != fmt.Sprint(again) {
				t.Fatal("not deterministic")
			}
			total += count
			for _, nodes := range parts {
				checkPlaced(t, nodes, factor, racks, n, dead)
				leaders[nodes[0]]++
				for _, id := range nodes {
					replicas[id]++
				}
			}
			img, _, err = Apply(img, uint64(100+k), CreateTopic{ID: TopicID{byte(k + 1)}, Name: fmt.Sprint("t", k), Partitions: parts})
			if err != nil {
				t.Fatal(err)
			}
		}
		if len(dead) > 0 {
			return
		}
		for id := int32(1); id <= int32(n); id++ {
			if l := leaders[id]; l < total/n || l > (total+n-1)/n {
				t.Fatalf("broker %d of %d has %d of %d leaders", id, n, l, total)
			}
			if r, mean := replicas[id], total*factor/n; r < mean-1 || r > mean+2 {
				t.Fatalf("broker %d of %d has %d of %d replicas", id, n, r, total*factor)
			}
		}
	})
}

func checkPlaced(t *rapid.T, nodes []int32, factor, racks, n int, dead map[int32]bool) {
	if len(nodes) != factor {
		t.Fatalf("%v for factor %d", nodes, factor)
	}
	seen, inRack, deadOnes := map[int32]bool{}, map[int]int{}, 0
	for _, id := range nodes {
		if seen[id] || id < 1 || int(id) > n {
			t.Fatalf("%v", nodes)
		}
		seen[id] = true
		inRack[(int(id)-1)%racks]++
		if dead[id] {
			deadOnes++
		}
	}
	if want := max(0, factor-(n-len(dead))); deadOnes != want {
		t.Fatalf("%v: %d dead, %d are needed", nodes, deadOnes, want)
	}
	if len(dead) == 0 && len(inRack) != min(racks, factor) {
		t.Fatalf("%v: in %d of %d racks", nodes, len(inRack), racks)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, g := range golden {
		f.Add(EncodeCommand(g.c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		if again := EncodeCommand(c); !bytes.Equal(again, b) {
			t.Fatalf("%x has two encodings: %x", b, again)
		}
		_, _, _ = Apply(NewImage(), 1, c)
	})
}

func BenchmarkApplyCreateTopic(b *testing.B) {
	img := NewImage()
	for i := range 3 {
		img, _, _ = Apply(img, 1, RegisterBroker{Broker: Broker{ID: int32(i), Incarnation: 1}})
	}
	for i := range 1000 {
		img, _, _ = Apply(img, 1, CreateTopic{ID: TopicID{1, byte(i), byte(i >> 8)}, Name: fmt.Sprint("t", i), Partitions: [][]int32{{0, 1, 2}}})
	}
	for b.Loop() {
		if _, _, err := Apply(img, 1, CreateTopic{ID: TopicID{2}, Name: "x", Partitions: [][]int32{{0, 1, 2}}}); err != nil {
			b.Fatal(err)
		}
	}
}
