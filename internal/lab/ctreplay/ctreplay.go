// Package ctreplay reads, for tests only, the public captures that were turned
// into what conntrack would have done (ctreplay v1, shared/data/README.md). They
// lie beside the checkout and never in it.
package ctreplay

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// EnvData names the directory of the captures, if it is not ../shared/data.
const EnvData = "CTSIGHT_DATA"

// A Line is one thing that happened to an entry: it was inserted (N), a first
// answer came (R), it became assured (A), it was destroyed (D).
type Line struct {
	What  byte
	ID    uint64
	Event event.Event // Time from the first line on; of R and A only the tuple counts
	Sent  uint64      // packets that the client sent in all, 0 where it is not known
}

// Find returns where the captures are.
func Find() (string, error) {
	dir := os.Getenv(EnvData)
	if dir == "" {
		_, file, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(file), "../../../../shared/data")
	}
	if _, err := os.Stat(filepath.Join(dir, "replay")); err != nil {
		return "", fmt.Errorf("needs the public captures: put them at %s or name their directory in %s", dir, EnvData)
	}
	return dir, nil
}

// Dir is Find for a test, which it skips where they are not.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := Find()
	if err != nil {
		t.Skip(err)
	}
	return dir
}

// Read is Load for a test.
func Read(t testing.TB, name string) []Line {
	t.Helper()
	out, _, err := Load(Dir(t), name)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Path is the file of a replay.
func Path(dir, name string) string { return filepath.Join(dir, "replay", name+".ctr.tsv.gz") }

// Load returns the lines of a replay, in order of time, and the wall time of the
// first.
func Load(dir, name string) (out []Line, start time.Time, err error) {
	f, err := os.Open(Path(dir, name))
	if err != nil {
		return nil, start, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, start, err
	}
	s := bufio.NewScanner(z)
	var first int64
	for s.Scan() {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		l, at, err := parse(strings.Split(s.Text(), "\t"))
		if err != nil {
			return nil, start, fmt.Errorf("%s: %w: %s", name, err, s.Text())
		}
		if len(out) == 0 {
			first = at
		}
		l.Event.Time = event.Ktime(at - first)
		out = append(out, l)
	}
	return out, time.Unix(0, first).UTC(), s.Err()
}

func parse(w []string) (l Line, at int64, err error) {
	if len(w) < 11 {
		return l, 0, fmt.Errorf("%d fields", len(w))
	}
	num := func(s string) int64 {
		n, e := strconv.ParseInt(s, 10, 64)
		if e != nil && err == nil {
			err = e
		}
		return n
	}
	addr := func(s string) netip.Addr {
		a, e := netip.ParseAddr(s)
		if e != nil && err == nil {
			err = e
		}
		return a
	}
	at, l.What, l.ID = num(w[0]), w[1][0], uint64(num(w[2]))
	e := &l.Event
	e.NetNS, e.Ptr = 1, 1<<63|l.ID
	e.Orig = event.Tuple{Src: addr(w[4]), Sport: uint16(num(w[5])), Dst: addr(w[6]), Dport: uint16(num(w[7])),
		Proto: map[string]uint8{"tcp": event.ProtoTCP, "udp": event.ProtoUDP, "icmp": event.ProtoICMP}[w[3]]}
	switch l.What {
	case 'N':
		e.Kind = event.New
	case 'D':
		e.Kind, e.Cause = event.Destroy, event.TimeoutGC
		if w[9] == "rst" {
			e.Cause = event.TCPRstUnreplied
		}
		e.Status = map[string]event.Status{"R": event.SeenReply, "A": event.SeenReply | event.Assured}[w[8]]
		if life := num(w[10]); life >= 0 {
			e.Lifetime, e.HasLifetime = time.Duration(life), true
		}
	}
	if len(w) > 11 {
		l.Sent = uint64(max(0, num(w[11])))
	}
	return l, at, err
}
