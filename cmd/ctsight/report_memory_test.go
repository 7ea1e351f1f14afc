package main

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record/capture"
)

// What a report of a flood may take: half a million connections of as many forged
// sources, all of them in the table at once. With twenty times as many events after them
// it is no more.
const mostOfReport = 256 << 20

func TestReportMemory(t *testing.T) {
	const n = 500_000
	src := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 9}) }
	dir := t.TempDir()
	text, recorded := filepath.Join(dir, "flood.ctr.tsv.gz"), filepath.Join(dir, "flood.ctsight")

	f, err := os.Create(text)
	must(t, err)
	z, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	must(t, err)
	w := bufio.NewWriter(z)
	fmt.Fprint(w, "#ctreplay v1\n#t_ns\tev\tid\tproto\tsrc\tsport\tdst\tdport\tstatus\tcause\tlife_ns\topkts\trpkts\n")
	for pass, format := range []string{"%d\tN\t%d\ttcp\t%s\t%d\t10.9.0.1\t443\t-\t-\t-1\t1\t0\n", "%d\tD\t%d\ttcp\t%s\t%d\t10.9.0.1\t443\tU\ttimeout\t60000000000\t1\t0\n"} {
		for i := range n {
			fmt.Fprintf(w, format, 1_700_000_000_000_000_000+pass*60_000_000_000+i*100_000, i, src(i), 1024+i%60000)
		}
	}
	must(t, w.Flush())
	must(t, z.Close())
	must(t, f.Close())

	f, err = os.Create(recorded)
	must(t, err)
	buf := bufio.NewWriter(f)
	const mono = 5_000_000_000_000
	c, err := capture.NewWriter(buf, capture.Header{Tool: "test", Node: "gw", BootID: "x", Backend: "fentry", Wall: time.Date(2026, 11, 22, 19, 38, 0, 0, time.UTC), Mono: mono, Start: mono, Seed: 1})
	must(t, err)
	var batch []event.Event
	for i := range 2 * n {
		e := event.Event{Time: mono + event.Ktime(i)*event.Ktime(100*time.Microsecond), Kind: event.New, NetNS: 4026531840, Ptr: 0xffff888000000000 + uint64(i%n)<<8,
			Orig: event.Tuple{Proto: event.ProtoTCP, Src: src(i % n), Dst: netip.AddrFrom4([4]byte{10, 9, 0, 1}), Sport: uint16(1024 + i%n%60000), Dport: 443}}
		if i >= n {
			e.Kind, e.Cause = event.Destroy, event.TimeoutGC
		}
		if batch = append(batch, e); len(batch) == 512 || i == 2*n-1 {
			must(t, c.Events(batch))
			batch = batch[:0]
		}
	}
	must(t, c.Close(nil))
	must(t, buf.Flush())
	must(t, f.Close())

	for _, from := range []string{text, recorded} {
		cmd := ctsight(t, "report", from, "-o", "-", "--max", "600000", "--format", "md", "--log.level", "error")
		r := runCmd(t, cmd)
		took := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
		t.Logf("%s: %d MiB", filepath.Base(from), took>>20)
		if r.code != exitDone || !strings.Contains(r.stdout, "500,000 connections in ") || !strings.Contains(r.stdout, " held 500,000 entries at most") {
			t.Errorf("%s: %.1000s %s", from, r.stdout, r.stderr)
		}
		if took > mostOfReport {
			t.Errorf("%s: %d MiB", from, took>>20)
		}
		if !strings.Contains(r.stdout, "sources that made room for others") {
			t.Errorf("%s: does not say which bound was reached", from)
		}
		if !strings.Contains(r.stdout, "500,000 connections in curves of what limit they need, for which they are too many") {
			t.Errorf("%s: does not say why there are no curves", from)
		}
	}
}
