package capture

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

var update = flag.Bool("update", false, "write the golden files of this version of the format")

// golden is what was read of a file when it was written.
type golden struct {
	Header Header
	Items  []Item
	End    *End
}

func readGolden(t *testing.T, b []byte) (g golden) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(b))
	must(t, err)
	g.Items = read(t, r)
	g.Header, g.End = r.Header, r.End
	return g
}

// goldenFile has some of everything there is in this version of the format.
func goldenFile(t *testing.T) []byte {
	var out bytes.Buffer
	c, err := NewWriter(&out, Header{Tool: "1.0", Node: "gw1", Kernel: "6.12.1", BootID: "b", Backend: "fentry", Own: 4026531840, Hooks: []string{"nf_conntrack_hash_insert"}, Filter: "proto udp",
		Wall: time.Unix(1700000000, 5).UTC(), Mono: 77, Start: 80, Seed: 9, Sysctls: map[string]map[string]string{"1": {"nf_conntrack_max": "7"}}, Names: map[string]string{"1": "router"},
		Census: &Census{Rows: 5, Live: 6, Judged: 7, Pools: 8, Sums: true, Seed: 9}, EntryBytes: 320})
	must(t, err)
	r, at := rand.New(rand.NewPCG(7, 7)), event.Ktime(1e9)
	some := func(n int) (events []event.Event) {
		for range n {
			at += event.Ktime(r.IntN(1e6))
			e := anything(r, at)
			e.Task.Comm = strings.ToValidUTF8(e.Task.Comm, "?") // the text beside it is JSON
			events = append(events, e)
		}
		return events
	}
	must(t, c.Entries(some(3)))
	must(t, c.Events(some(14)))
	must(t, c.Sum(&event.Sum{NetNS: 4026531840, Zone: 3, Src: netip.MustParseAddr("2001:db8::1"), Kind: event.New, N: 1 << 40, Evicted: 3, From: at - 5, Last: at}))
	must(t, c.JSON(Second, at, map[string]int{"entries": 4}))
	must(t, c.Flush())
	n := gateway(1)[0] // it goes, and its destroy refers to it
	n.Time = at + 5
	d := n
	d.Kind, d.Time, d.Lifetime, d.HasLifetime, d.Cause = event.Destroy, at+9, 4, true, event.TimeoutGC
	must(t, c.Events([]event.Event{n, d}))
	must(t, c.JSON(Looks, at+9, map[string]bool{"due": true}))
	must(t, c.JSON(Mark, at+9, map[string]string{"what": "a mark"}))
	must(t, c.Gap(at+9, Missing{Events: 5, Why: "no room"}))
	must(t, c.JSON(Snapshot, at+9, map[string]int{"entries": 2})) // from here on of format 1.1
	must(t, c.Stands(some(2)))
	must(t, c.JSON(Steps, at, map[string]int{"some": 1}))
	must(t, c.JSON(Counts, at, map[string]int{"new": 7}))
	must(t, c.JSON(Held, at, map[string]int{"entries": 7}))
	must(t, c.Close([]byte(`{"a":1}`)))
	return out.Bytes()
}

// TestGolden: what an earlier version has written is read as it was read then. With
// -update files of this version are made; those of others stay.
func TestGolden(t *testing.T) {
	if *update {
		path, b := fmt.Sprintf("testdata/format-%d.%d", Major, Minor), goldenFile(t)
		text, err := json.Marshal(readGolden(t, b))
		must(t, err)
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path+".ctsight", b, 0o644))
		must(t, os.WriteFile(path+".json", append(text, '\n'), 0o644))
	}
	files, err := filepath.Glob("testdata/format-*.ctsight")
	must(t, err)
	if own := fmt.Sprintf("testdata/format-%d.%d.ctsight", Major, Minor); !slices.Contains(files, own) {
		t.Fatalf("no %s: go test -run TestGolden -update", own)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		must(t, err)
		text, err := os.ReadFile(strings.TrimSuffix(path, "ctsight") + "json")
		must(t, err)
		var want golden
		must(t, json.Unmarshal(text, &want))
		got := readGolden(t, b)
		if len(got.Items) != len(want.Items) || !reflect.DeepEqual(got.Header, want.Header) || !reflect.DeepEqual(got.End, want.End) {
			t.Fatalf("%s: %d items, header %+v, end %+v; want %d, %+v, %+v", path, len(got.Items), got.Header, got.End, len(want.Items), want.Header, want.End)
		}
		for i := range got.Items {
			if string(want.Items[i].JSON) == "null" { // has none
				want.Items[i].JSON = nil
			}
			if !reflect.DeepEqual(got.Items[i], want.Items[i]) {
				t.Errorf("%s, item %d:\n%+v\nwas\n%+v", path, i, got.Items[i], want.Items[i])
			}
		}
	}
}

// later makes frames of a version that is later than this one.
type later struct {
	file []byte
	seq  uint32
}

// frame adds one; pad is what its header has where this version has nothing.
func (l *later) frame(kind frameKind, pad uint16, body ...byte) {
	f := frame{kind: kind, seq: l.seq, stored: uint32(len(body)), raw: uint32(len(body)), crc: crc(body)}
	l.seq++
	head := f.append(nil)
	binary.LittleEndian.PutUint16(head[6:], pad)
	binary.LittleEndian.PutUint32(head[44:], crc(head[:44]))
	l.file = append(append(l.file, head...), body...)
}

func sectionOf(k Kind, body ...byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{byte(k)}, uint32(len(body))), body...)
}

// TestLaterMinor: of a file of a later second number all is read that this one knows, and
// nothing of the rest is taken for it, nor for damage.
func TestLaterMinor(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	at := event.Ktime(1e9)
	var events []event.Event
	for range 90 {
		at += 1000
		events = append(events, anything(r, at))
	}
	for _, e := range gateway(3000)[2900:] { // with references
		e.Time += at
		events = append(events, e)
	}
	n := len(events)
	w := newBatchWriter()
	known := w.append(nil, events)
	own := 0
	for _, ref := range w.refs[:n] {
		if ref == 0 {
			own++
		}
	}
	if own == n {
		t.Fatal("no references in the test")
	}
	var more []byte
	more = append(more, 61, byte(formConst), 200, 1)                                          // one number
	more = append(append(more, 99, byte(formPlain), 1), bytes.Repeat([]byte{77}, n)...)       // one byte each
	more = append(append(more, 200, byte(formDelta), 8), bytes.Repeat([]byte{1}, 8*n)...)     // eight
	more = append(append(more, 15, byte(formPlain), 2), bytes.Repeat([]byte{0xff}, 2*own)...) // of orig: what refers has none
	more = append(append(more, 29, byte(formDelta), 1), bytes.Repeat([]byte{0xff}, own)...)   // the last of these
	more = append(append(more, 253, byte(formPlain), 3), bytes.Repeat([]byte{0xff}, 3*n)...)  // just below the lists
	count := len(binary.AppendUvarint(nil, uint64(n)))
	refs := count + len(w.lists(nil))
	if known[refs] != colRef || known[refs+1] != byte(formPlain) {
		t.Fatal("references do not come first")
	}
	refs += 3 + int(known[refs+2])*n
	front := slices.Concat(known[:refs], more, known[refs:]) // before all that is known but these
	back := slices.Concat(known, more)

	l := later{file: []byte(Magic)}
	l.frame(frameHeader, 0xffff, []byte(`{"major":1,"minor":99,"tool":"9.9","mono_ns":5,"seed":3,"new":{"a":[1]},"hooks":["x"]}`)...)
	l.frame('Q', 1, []byte("something that is new")...)
	l.frame(frameData, 0xffff, slices.Concat(
		sectionOf(200, 1, 2, 3), sectionOf(Events, front...), sectionOf(201), sectionOf(Entries, back...),
		sectionOf(Second, append(binary.AppendVarint(nil, 9), []byte(`{"tables":[],"new":1}`)...)...), sectionOf(255, bytes.Repeat([]byte{byte(Events)}, 99)...))...)
	l.frame('a', 2)
	l.frame(frameData, 0, sectionOf(254, 1)...)
	l.frame(frameData, 0, sectionOf(Gap, append(binary.AppendVarint(nil, 9), []byte(`{"events":4,"why":"x","where":"y"}`)...)...)...)
	l.frame(frameEnd, 0, []byte(`{"events":7,"new":[]}`)...)

	in, err := NewReader(bytes.NewReader(l.file))
	must(t, err)
	got := read(t, in)
	want := []Item{{Kind: Events, Events: events}, {Kind: Entries, Events: events}, {Kind: Second, At: 9, JSON: []byte(`{"tables":[],"new":1}`)},
		{Kind: Gap, At: 9, JSON: []byte(`{"events":4,"why":"x","where":"y"}`), Lost: Missing{Events: 4, Why: "x"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%d items, want %d: %+v", len(got), len(want), kindsOf(got))
	}
	if in.Lost != (Missing{Events: 4}) || in.End == nil || in.End.Events != 7 {
		t.Errorf("lost %+v, end %+v", in.Lost, in.End)
	}
	if h := in.Header; h.Minor != 99 || h.Mono != 5 || h.Seed != 3 || !slices.Equal(h.Hooks, []string{"x"}) {
		t.Errorf("header %+v", h)
	}
}

func kindsOf(items []Item) (out []string) {
	for _, x := range items {
		out = append(out, fmt.Sprintf("%d (%d events, %s %s)", x.Kind, len(x.Events), x.JSON, x.Lost.Why))
	}
	return out
}

// TestLaterForm: a form of column, and a way of storing a frame, that this version does
// not know are no guesses: the section is missing and says so, the frame ends the reading.
func TestLaterForm(t *testing.T) {
	events := gateway(50)
	body := append(newBatchWriter().append(nil, events), 70, 9, 1, 2, 3)
	l := later{file: []byte(Magic)}
	l.frame(frameHeader, 0, []byte(`{"major":1,"minor":9}`)...)
	l.frame(frameData, 0, slices.Concat(sectionOf(Events, body...), sectionOf(Second, append(binary.AppendVarint(nil, 9), []byte(`{}`)...)...))...)
	whole := len(l.file)
	l.frame(frameData, 0, sectionOf(Second, append(binary.AppendVarint(nil, 9), []byte(`{}`)...)...)...)
	in, err := NewReader(bytes.NewReader(l.file))
	must(t, err)
	got := read(t, in)
	if len(got) != 3 || got[0].Kind != Gap || !strings.Contains(got[0].Lost.Why, "a form of column") || got[1].Kind != Second || got[2].Kind != Second {
		t.Errorf("%v", kindsOf(got))
	}
	head := l.file[whole : whole+frameSize]
	head[5] = 2 // as no version has stored a frame
	binary.LittleEndian.PutUint32(head[44:], crc(head[:44]))
	in, err = NewReader(bytes.NewReader(l.file))
	must(t, err)
	for err == nil {
		_, err = in.Next()
	}
	if errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "a newer ctsight") {
		t.Errorf("a frame that is stored in another way: %v", err)
	}
}

// TestOtherMajor: another first number is refused, with who can read it.
func TestOtherMajor(t *testing.T) {
	for _, h := range []string{`{"major":2,"minor":1,"tool":"9.9"}`, `{"major":0,"minor":9,"tool":"9.9"}`, `{"tool":"9.9"}`} {
		l := later{file: []byte(Magic)}
		l.frame(frameHeader, 0, []byte(h)...)
		_, err := NewReader(bytes.NewReader(l.file))
		if err == nil || !strings.Contains(err.Error(), `this ctsight reads 1: use that of version "9.9"`) || !strings.Contains(err.Error(), "a recording of format") {
			t.Errorf("%s: %v", h, err)
		}
	}
}
