package record_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
	"github.com/ctsight/ctsight/internal/record"
)

// read reads a capture from memory to its end or its error.
func read(name string, in io.Reader) (events []event.Event, whats []record.What, err error) {
	r, err := record.New(name, in)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	for {
		var e event.Event
		w, err := r.Read(&e)
		if err != nil {
			if again, _ := r.Read(&e); again != 0 {
				return nil, nil, errors.New("read on after an error")
			}
			return events, whats, err
		}
		events, whats = append(events, e), append(whats, w)
	}
}

// The public captures, against the reader of the lab, which is another program.
func TestPublicCaptures(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(ctreplay.Dir(t), "replay", "*.ctr.tsv.gz"))
	if err != nil || len(files) == 0 {
		t.Fatal("no captures", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".ctr.tsv.gz")
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			events, whats, err := read(name, f)
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			lines := ctreplay.Read(t, name)
			if len(lines) != len(events) {
				t.Fatalf("%d events, the lab reads %d", len(events), len(lines))
			}
			for i := range lines {
				got := events[i]
				want := lines[i].Event
				want.Time += events[0].Time // it counts from the first line on
				want.NetNS = 0
				translate(&want)
				if lines[i].What != byte(whats[i]) {
					t.Fatalf("line %d is %c, the lab says %c", i, whats[i], lines[i].What)
				}
				got.Status &^= event.Confirmed
				if lines[i].What != 'D' { // it does not say
					got.Status = 0
				}
				got.TCPState = 0
				if got != want {
					t.Fatalf("line %d is\n%+v, the lab reads\n%+v", i, got, want)
				}
			}
		})
	}
}

// translate is for what the lab's reader leaves as it is in the file.
func translate(e *event.Event) {
	if e.Orig.Proto != event.ProtoICMP {
		return
	}
	types := map[[2]uint16]uint16{{8, 0}: 0x0800, {128, 129}: 0x8000, {133, 134}: 0x8500, {135, 136}: 0x8700,
		{9, 10}: 0x0900, {143, 0}: 0x8f00, {3, 3}: 0x0303, {1, 4}: 0x0104, {0, 3}: 0x0003, {3, 1}: 0x0301}
	if want, ok := types[[2]uint16{e.Orig.Sport, e.Orig.Dport}]; ok {
		e.Orig.Sport, e.Orig.Dport = 0, want
	}
	if e.Orig.Src.Is6() {
		e.Orig.Proto = event.ProtoICMPv6
	}
}

const (
	head = "#ctreplay v1\n#t_ns\tev\tid\tproto\tsrc\tsport\tdst\tdport\tstatus\tcause\tlife_ns\topkts\trpkts\n"
	ins  = "1000\tN\t1\ttcp\t10.0.0.7\t40000\t10.0.0.1\t80\t-\t-\t-1\t2\t0\n"
	del  = "2000\tD\t1\ttcp\t10.0.0.7\t40000\t10.0.0.1\t80\tU\trst\t1000\t2\t0\n"
)

// line is ins with one column (from 0) changed.
func line(from string, column int, to string) string {
	w := strings.Split(from, "\t")
	w[column] = to
	return strings.Join(w, "\t")
}

// What is wrong with a file is said in one line, with its place.
func TestErrors(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"version", "#ctreplay v2\n", `x:1: ctreplay "v2": only v1 is known`},
		{"cut line", head + ins + "2000\tD\t1\ttc", `x:4: 4 columns where ctreplay v1 has 13`},
		{"no capture", "hello\n", `x:1: 1 columns where ctreplay v1 has 13`},
		{"empty line in it is none", head + "\n" + ins + "x", `x:5: 1 columns where ctreplay v1 has 13`},
		{"order of time", head + del + ins, `x:4: t_ns "1000": 1µs before the line before it, which has 2000`},
		{"clock set", ins + line(del, 0, "99999999999999999"), `x:2: t_ns "99999999999999999": 1157 days after the line before it, which has 1000: was the clock set?`},
		{"negative time", line(ins, 0, "-5"), `x:1: t_ns "-5": not a time from 1970 to 2200 in nanoseconds`},
		{"absurd time", line(ins, 0, "9223372036854775807"), `x:1: t_ns "9223372036854775807": not a time from 1970 to 2200 in nanoseconds`},
		{"time of 20 digits", line(ins, 0, "18446744073709551616"), `x:1: t_ns "18446744073709551616": not a time from 1970 to 2200 in nanoseconds`},
		{"fraction", line(ins, 0, "1e3"), `x:1: t_ns "1e3": not a time from 1970 to 2200 in nanoseconds`},
		{"event", line(ins, 1, "X"), `x:1: ev "X": not one of N R A D`},
		{"no event", line(ins, 1, ""), `x:1: ev "": not one of N R A D`},
		{"id", line(ins, 2, "-1"), `x:1: id "-1": not a number from 0 on`},
		{"no id", line(ins, 2, "-"), `x:1: id "-": not a number from 0 on`},
		{"large id", line(ins, 2, "9999999999999999999"), `x:1: id "9999999999999999999": more than 9223372036854775807`},
		{"protocol", line(ins, 3, "tpc"), `x:1: proto "tpc": no protocol`},
		{"protocol number", line(ins, 3, "256"), `x:1: proto "256": no protocol`},
		{"source", line(ins, 4, "10.0.0.256"), `x:1: src "10.0.0.256": no address`},
		{"destination", line(ins, 6, "fe80::1%eth0"), `x:1: dst "fe80::1%eth0": no address`},
		{"families", line(ins, 6, "fe80::1"), `x:1: src 10.0.0.7 and dst fe80::1 are of two families`},
		{"long address", line(ins, 4, strings.Repeat("f", 60)), `x:1: src "ffffffffffffffffffffffffffffffffffffffff" ...: no address`},
		{"port", line(ins, 5, "65536"), `x:1: sport "65536": more than 65535`},
		{"destination port", line(ins, 7, "http"), `x:1: dport "http": not a number from 0 on`},
		{"terminal", line(ins, 7, "\x1b[2J\u202e"), `x:1: dport "\x1b[2J\u202e": not a number from 0 on`},
		{"status", line(del, 8, "-"), `x:1: status "-": not one of U R A, which a D has`},
		{"cause", line(del, 9, "boredom"), "x:1: cause \"boredom\": neither rst nor timeout nor a cause of `ctsight help reasons`"},
		{"cause number", line(del, 9, "200"), "x:1: cause \"200\": neither rst nor timeout nor a cause of `ctsight help reasons`"},
		{"lifetime", line(del, 10, "-2"), `x:1: life_ns "-2": not a lifetime in nanoseconds`},
		{"absurd lifetime", line(del, 10, "4611686018427387904"), `x:1: life_ns "4611686018427387904": not a lifetime in nanoseconds`},
		{"packets", line(ins, 11, "many"), `x:1: opkts "many": not a number from 0 on`},
		{"binary", "\x00\x01\x02\x03\xff", `x:1: 1 columns where ctreplay v1 has 13`},
		{"no gzip", "\x1f\x8b\x08", `x:1: the file is cut short: unexpected EOF`},
		{"bad gzip", "\x1f\x8bxxxxxxxxxxxxxxxxxxx", `x:1: cannot be read: gzip: invalid header`},
		{"cut gzip", squeeze(t, ins+del)[:40], `x:1: the file is cut short: unexpected EOF`},
		{"bad zstd", "\x28\xb5\x2f\xfdxxxxxxxxx", `x:1: cannot be read: `},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := read("x", strings.NewReader(tc.in))
			var e *record.Error
			if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), tc.want) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// What is no error: files without a head or an end of the last line, of Windows,
// with more columns, several in one.
func TestTolerated(t *testing.T) {
	for name, in := range map[string]string{
		"plain":            head + ins + del,
		"no head":          ins + del,
		"no last newline":  strings.TrimSuffix(head+ins+del, "\n"),
		"CRLF":             strings.ReplaceAll(head+ins+del, "\n", "\r\n"),
		"more columns":     head + strings.TrimSuffix(ins, "\n") + "\tmore\t\n" + del,
		"gzip":             squeeze(t, head+ins+del),
		"gzip in parts":    squeeze(t, head+ins) + squeeze(t, head+del),
		"zstd":             zstdOf(t, head+ins+del),
		"unknown packets":  head + line(line(ins, 11, "-"), 12, "-\n") + del,
		"lifetime unknown": head + ins + line(del, 10, "-1"),
		"cause of ours":    head + ins + line(del, 9, "early_drop"),
	} {
		t.Run(name, func(t *testing.T) {
			events, whats, err := read("x", strings.NewReader(in))
			if !errors.Is(err, io.EOF) || len(events) != 2 || whats[0] != record.Inserted || whats[1] != record.Destroyed {
				t.Fatalf("%d events, %v", len(events), err)
			}
			if e := events[1]; e.Time != 2000 || e.Orig.Dport != 80 || e.Kind != event.Destroy || e.HasLifetime && e.Lifetime != time.Microsecond {
				t.Errorf("%+v", e)
			}
		})
	}
	if _, _, err := read("x", strings.NewReader("")); !errors.Is(err, io.EOF) {
		t.Errorf("of an empty file: %v", err)
	}
}

// The state of a TCP entry at its end, as far as the file tells.
func TestStateAtEnd(t *testing.T) {
	for _, tc := range []struct {
		proto, status, cause, life string
		want                       event.TCPState
	}{
		{"tcp", "U", "timeout", "120000000000", event.TCPSynSent},
		{"tcp", "U", "rst", "1000", event.TCPNone},
		{"tcp", "R", "timeout", "10000000000", event.TCPClose},
		{"tcp", "R", "timeout", "60000000000", event.TCPSynRecv},
		{"tcp", "R", "timeout", "-1", event.TCPSynRecv},
		{"tcp", "A", "timeout", "10000000000", event.TCPNone},
		{"udp", "R", "timeout", "30000000000", event.TCPNone},
	} {
		in := "2000\tD\t1\t" + strings.Join([]string{tc.proto, "10.0.0.7", "1", "10.0.0.1", "80", tc.status, tc.cause, tc.life, "1", "1"}, "\t")
		events, _, err := read("x", strings.NewReader(in))
		if !errors.Is(err, io.EOF) || len(events) != 1 || events[0].TCPState != tc.want {
			t.Errorf("%v: %v %v", tc, err, events)
		}
	}
}

// A line without an end, and one of a gigabyte in a small file, take no memory.
func TestLongLines(t *testing.T) {
	bomb := squeeze(t, ins+strings.Repeat("0", 64<<20))
	for name, in := range map[string]io.Reader{
		"1 GB": io.MultiReader(strings.NewReader(ins), io.LimitReader(zeros{}, 1<<30)),
		"gzip": strings.NewReader(bomb),
	} {
		t.Run(name, func(t *testing.T) {
			grew := growth(func() {
				_, _, err := read("x", in)
				if want := fmt.Sprintf("x:2: the line is longer than %d bytes", record.MaxLine); err == nil || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
			})
			if grew > 1<<20 {
				t.Errorf("%d bytes were allocated", grew)
			}
		})
	}
}

// A small file that is a large one unpacked, with lines that are in order, streams.
func TestBomb(t *testing.T) {
	bomb := squeeze(t, strings.Repeat(strings.Repeat("#", 1000)+"\n", 64<<10)+ins)
	grew := growth(func() {
		if events, _, err := read("x", strings.NewReader(bomb)); !errors.Is(err, io.EOF) || len(events) != 1 {
			t.Errorf("%d events, %v", len(events), err)
		}
	})
	if grew > 1<<20 {
		t.Errorf("%d bytes were allocated for %d", grew, len(bomb))
	}
}

// Any number of addresses takes no more memory than a few thousand.
func TestManyAddresses(t *testing.T) {
	pr, pw := io.Pipe()
	const n = 1 << 18
	go func() {
		w := bytes.Buffer{}
		for i := range n {
			fmt.Fprintf(&w, "%d\tN\t%d\tudp\t10.%d.%d.%d\t1\t10.0.0.1\t53\t-\t-\t-1\t1\t0\n", i, i, i>>16, i>>8&255, i&255)
			if i%1024 == 1023 {
				_, _ = w.WriteTo(pw)
			}
		}
		pw.Close()
	}()
	r, err := record.New("x", pr)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var e event.Event
	for err == nil {
		_, err = r.Read(&e)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.EOF) || r.Lines() != n {
		t.Fatalf("%d lines, %v", r.Lines(), err)
	}
	if grew := int64(after.HeapAlloc) - int64(before.HeapAlloc); grew > 2<<20 {
		t.Errorf("%d bytes are held", grew)
	}
	runtime.KeepAlive(r)
}

func TestOpen(t *testing.T) {
	if _, err := record.Open(filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := record.Open(t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), ":1: cannot be read") {
		t.Errorf("a directory: %v", err)
	}
	r, err := record.Open("-", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	var e event.Event
	if _, err := r.Read(&e); err == nil || !strings.HasPrefix(err.Error(), "stdin:1: ") {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	return len(b), nil
}

// growth is how much fn allocates in all.
func growth(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func squeeze(t testing.TB, s string) string {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstdOf(t testing.TB, s string) string {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return string(z.EncodeAll([]byte(s), nil))
}

// Whatever is in a file: no panic, times in order, one short line of error.
func FuzzRead(f *testing.F) {
	for _, s := range []string{"", head + ins + del, line(ins, 3, "icmp"), line(ins, 4, "fe80::1"), line(del, 9, "12"), "#ctreplay v9", squeeze(f, head+ins+del), zstdOf(f, ins),
		squeeze(f, ins)[:20], "\x1f\x8b", "\t\t\t\t\t\t\t\t\t\t\t\t", line(ins, 4, "::ffff:1.2.3.4")} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		events, whats, err := read("x", bytes.NewReader(in))
		var e *record.Error
		if !errors.Is(err, io.EOF) && !errors.As(err, &e) {
			t.Fatalf("error %v", err)
		}
		if msg := err.Error(); len(msg) > 400 || strings.ContainsFunc(msg, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e }) {
			t.Errorf("not one short line: %q", msg)
		}
		last := event.Ktime(0)
		for i, e := range events {
			if e.Time < last || !e.Orig.Src.IsValid() || !e.Orig.Dst.IsValid() || e.Ptr>>63 == 0 || e.Cause >= event.NumCauses {
				t.Errorf("%c %+v", whats[i], e)
			}
			last = e.Time
		}
	})
}

func BenchmarkRead(b *testing.B) {
	files, _ := filepath.Glob(filepath.Join(ctreplay.Dir(b), "replay", "strat011.ctr.tsv.gz"))
	if len(files) != 1 {
		b.Skip("needs strat011")
	}
	packed, err := os.ReadFile(files[0])
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		r, err := record.New("x", bytes.NewReader(packed))
		if err != nil {
			b.Fatal(err)
		}
		var e event.Event
		for ; err == nil; n++ {
			_, err = r.Read(&e)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "lines/s")
}
