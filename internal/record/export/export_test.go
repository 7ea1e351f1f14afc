package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var clock = event.Clock{Mono: 5, Wall: time.Unix(1700000000, 5).UTC()}

// some is inserts, destroys and drops, in the order of their time.
func some(n int) (out []event.Event) {
	r := rand.New(rand.NewPCG(1, 2))
	now := event.Ktime(1e9)
	var live []event.Event
	for i := range n {
		now += event.Ktime(r.IntN(1e7))
		switch {
		case len(live) > 50 || len(live) > 0 && r.IntN(2) == 0:
			k := r.IntN(len(live))
			e := live[k]
			live = append(live[:k], live[k+1:]...)
			e.Kind, e.Lifetime, e.HasLifetime, e.Time = event.Destroy, now.Sub(e.Time), r.IntN(5) > 0, now
			e.Cause = []event.Cause{event.TimeoutGC, event.TCPRstUnreplied, event.EarlyDrop, event.CauseUnknown}[r.IntN(4)]
			if e.Status |= event.SeenReply; r.IntN(2) == 0 {
				e.Status |= event.Assured
			}
			if e.Cause == event.EarlyDrop {
				e.By = event.Tuple{Src: netip.MustParseAddr("10.9.9.9"), Dst: e.Orig.Dst, Sport: 1, Dport: 2, Proto: 17}
			}
			out = append(out, e)
		case r.IntN(10) == 0:
			out = append(out, event.Event{Time: now, Kind: event.Drop, Reason: event.TableFull, NetNS: 1, Hook: 1, Orig: event.Tuple{Src: netip.MustParseAddr("2001:db8::7"),
				Dst: netip.MustParseAddr("2001:db8::1"), Sport: 7, Dport: 53, Proto: event.ProtoUDP}})
		default:
			e := event.Event{Time: now, Kind: event.New, NetNS: event.NetNS(1 + r.IntN(3)), Ptr: uint64(i+1)<<8 | 1<<63, Status: event.Confirmed,
				Orig: event.Tuple{Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(9))}), Dst: netip.AddrFrom4([4]byte{10, 1, 0, byte(r.IntN(200))}), Sport: uint16(r.Uint32()), Dport: 443, Proto: event.ProtoTCP}}
			if r.IntN(9) == 0 {
				e.Orig.Proto, e.Orig.Sport, e.Orig.Dport = event.ProtoICMP, 77, 8<<8
			}
			e.Reply = e.Orig.Inverse()
			e.Reply.Dst = netip.MustParseAddr("203.0.113.1")
			live, out = append(live, e), append(out, e)
		}
	}
	return out
}

func exported(t testing.TB, w Writer, events []event.Event) {
	t.Helper()
	for i := range events {
		must(t, w.Write(&events[i]))
	}
	must(t, w.Close())
}

// TestText: what is written is what the reader of captures reads.
func TestText(t *testing.T) {
	events := some(3000)
	var out bytes.Buffer
	w := NewText(&out, clock)
	exported(t, w, events)
	r, err := record.New("x", &out)
	must(t, err)
	ids, drops := map[uint64]uint64{}, uint64(0)
	for i := range events {
		want := &events[i]
		if want.Kind == event.Drop {
			drops++
			continue
		}
		var got event.Event
		what, err := r.Read(&got)
		must(t, err)
		o := want.Orig
		if o.IsICMP() {
			o.Sport = 0 // there is no id in the text
		}
		if got.Kind != want.Kind || got.Orig != o || int64(got.Time) != clock.At(want.Time).UnixNano() || (what == record.Destroyed) != (want.Kind == event.Destroy) {
			t.Fatalf("event %d: %+v, want %+v", i, got, want)
		}
		if want.Kind == event.New {
			ids[want.Ptr] = got.Ptr
			continue
		}
		if ids[want.Ptr] != got.Ptr || got.Cause != want.Cause || got.HasLifetime != want.HasLifetime || want.HasLifetime && got.Lifetime != want.Lifetime ||
			got.Status&(event.SeenReply|event.Assured) != want.Status&(event.SeenReply|event.Assured) {
			t.Fatalf("event %d: %+v, want %+v", i, got, want)
		}
	}
	if _, err := r.Read(new(event.Event)); !errors.Is(err, io.EOF) || w.LeftOut() != drops || drops == 0 {
		t.Errorf("behind the end: %v; %d left out, %d drops", err, w.LeftOut(), drops)
	}
}

// duckdb answers with one row for each query.
const duckdb = `
const { DuckDBInstance } = require(process.argv[1]);
(async () => {
  const c = await (await DuckDBInstance.create(':memory:')).connect();
  const out = [];
  for (const q of JSON.parse(process.argv[2])) out.push((await c.runAndReadAll(q)).getRowsJson());
  console.log(JSON.stringify(out));
})().catch(e => { console.error(e.message); process.exit(1); });
`

// TestDuckDB: DuckDB reads it, and counts what there is.
func TestDuckDB(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: DuckDB cannot be asked")
	}
	lib, err := filepath.Abs("../../../bin/duckdb/node_modules/@duckdb/node-api")
	must(t, err)
	if _, err := os.Stat(lib); err != nil {
		t.Skip("DuckDB is not installed: make deps-duckdb")
	}
	events := some(300_000) // more than a group of rows
	path := filepath.Join(t.TempDir(), "a.parquet")
	f, err := os.Create(path)
	must(t, err)
	exported(t, NewParquet(f, clock), events)
	must(t, f.Close())
	count := map[string]int{}
	life, distinct, natted := int64(0), map[string]bool{}, 0
	for i := range events {
		e := &events[i]
		count[e.Kind.String()]++
		if e.Kind == event.Destroy {
			count["cause "+e.Cause.String()]++
		}
		if e.Kind == event.Drop {
			count["reason "+e.Reason.String()]++
		}
		if e.HasLifetime {
			life += int64(e.Lifetime)
		}
		if e.Status&event.Assured != 0 {
			count["assured"]++
		}
		if e.NAT() == "snat" {
			natted++
		}
		distinct[e.Orig.Dst.String()] = true
	}
	queries := []string{
		"select event, count(*)::int from '" + path + "' group by event",
		"select 'cause ' || cause, count(*)::int from '" + path + "' where cause is not null group by cause",
		"select 'reason ' || reason, count(*)::int from '" + path + "' where reason is not null group by reason",
		"select 'assured', count(*)::int from '" + path + "' where list_contains(status, 'assured')",
		"select sum(lifetime_ns)::varchar, count(distinct dst)::int, epoch_ns(min(time))::varchar, epoch_ns(max(time))::varchar, count(*) filter (nat = 'snat')::int, count(icmp_type)::int, count(mark)::int, count(pid)::int + count(cgroup)::int + count(iif)::int + count(comm)::int, count(by_src)::int, count(by_sport)::int, count(reply_src)::int, count(sport)::int from '" + path + "'",
	}
	args, err := json.Marshal(queries)
	must(t, err)
	out, err := exec.Command(node, "-e", duckdb, "--", lib, string(args)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var answers [][][]any
	must(t, json.Unmarshal(out, &answers))
	got := map[string]int{}
	for _, rows := range answers[:4] {
		for _, row := range rows {
			got[row[0].(string)] = int(row[1].(float64))
		}
	}
	for k, n := range count {
		if got[k] != n {
			t.Errorf("%s: %d, DuckDB counts %d", k, n, got[k])
		}
	}
	if len(got) != len(count) {
		t.Errorf("DuckDB counts %v, want %v", got, count)
	}
	icmp, by, replies := 0, 0, 0
	for i := range events {
		if events[i].Orig.IsICMP() {
			icmp++
		}
		if !events[i].By.IsZero() {
			by++
		}
		if !events[i].Reply.IsZero() {
			replies++
		}
	}
	nano := func(k event.Ktime) string { return json.Number(itoa(clock.At(k).UnixNano())).String() }
	want := []any{itoa(life), float64(len(distinct)), nano(events[0].Time), nano(events[len(events)-1].Time), float64(natted), float64(icmp), 0., 0., float64(by), float64(by), float64(replies), float64(len(events) - icmp)}
	for i, x := range answers[4][0] {
		if x != want[i] {
			t.Errorf("column %d of %q: %v, want %v", i, queries[4], x, want[i])
		}
	}
}

func itoa(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// BenchmarkParquet is what a row costs, and how many bytes it takes.
func BenchmarkParquet(b *testing.B) {
	events := some(1 << 17)
	for b.Loop() {
		var size counter
		exported(b, NewParquet(&size, clock), events)
		b.ReportMetric(float64(size)/float64(len(events)), "bytes/event")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(events)), "ns/event")
}

type counter int64

func (c *counter) Write(b []byte) (int, error) { *c += counter(len(b)); return len(b), nil }
