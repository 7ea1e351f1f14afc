package pipeline_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/lab/ctreplay"
	"github.com/ctsight/ctsight/internal/pipeline"
)

// The counts of every finding of a scan are those of the log. The log is read by the
// lab's reader and counted again from agg.Evidence's words alone: what became of the
// first contacts of the source with an endpoint, as far as it was known when the
// finding was told. Nothing here is of internal/detect.

// contact is an entry of the log.
type contact struct {
	src, dst       netip.Addr
	port           uint16
	proto          uint8
	at             time.Duration // of its insert, from the first line on
	line, lastLine int
	replied, sure  time.Duration // marks; never where there are none
	ended          time.Duration
	how            string // at its end: refused, unanswered, half_open, answered
	first          bool   // of its source with its endpoint in a day
	looked         bool   // the first look was
	said           string // outcome so far
	taken          bool   // is one of those that fail
}

const (
	never   = time.Duration(1<<63 - 1)
	looking = 100 * time.Millisecond // the raster
)

// endpoint is what a contact was with.
type endpoint struct {
	dst   netip.Addr
	proto uint8
	port  uint16
}

func (c *contact) endpoint() endpoint { return endpoint{c.dst, c.proto, c.port} }

// contactsOf reads the entries of a log; the lines that are no insert tell of one.
func contactsOf(lines []ctreplay.Line) []*contact {
	var all []*contact
	type edge struct {
		src netip.Addr
		endpoint
	}
	live, last := map[uint64]*contact{}, map[edge]time.Duration{}
	for i := range lines {
		l := &lines[i]
		at, o := time.Duration(l.Event.Time), l.Event.Orig
		c := live[l.ID]
		switch l.What {
		case 'N':
			c = &contact{src: o.Src, dst: o.Dst, port: o.Dport, proto: o.Proto, at: at, line: i, replied: never, sure: never, ended: never}
			if o.Proto == event.ProtoICMP {
				c.port = 0
			}
			edge := edge{c.src, c.endpoint()}
			before, known := last[edge]
			c.first = !known || (at-before)/time.Second > 24*3600
			last[edge] = at
			live[l.ID] = c
			all = append(all, c)
		case 'R':
			if c != nil {
				c.replied = at
			}
		case 'A':
			if c != nil {
				c.replied, c.sure = min(c.replied, at), at
			}
		case 'D':
			if c == nil {
				continue
			}
			delete(live, l.ID)
			c.ended, c.lastLine = at, i
			s := l.Event.Status
			switch {
			case l.Event.Cause == event.TCPRstUnreplied:
				c.how = "refused"
			case s&event.SeenReply == 0:
				c.how = "unanswered"
			case o.Proto == event.ProtoTCP && s&event.Assured == 0:
				c.how = "half_open"
			default:
				c.how = "answered"
			}
		}
	}
	return all
}

// moment is when something is known of a contact: at a line, or when it is looked
// at, which is after the lines of the same time.
type moment struct {
	at    time.Duration
	stage int // 0 is a line, then the looks
	order int // of lines in the log, of looks that of the inserts
	c     *contact
}

// other is the protocol over which a service is there too.
var other = map[uint8]uint8{event.ProtoTCP: event.ProtoUDP, event.ProtoUDP: event.ProtoTCP}

var looks = []time.Duration{200 * time.Millisecond, 3 * time.Second, 30 * time.Second, 90 * time.Second}

// moments are all that may tell something, in their order. The raster is one of
// absolute time, in which the log began at begin.
func moments(all []*contact, begin time.Duration) (out []moment) {
	for i, c := range all {
		out = append(out, moment{c.at, -1, c.line, c})
		if c.ended != never {
			out = append(out, moment{c.ended, 0, c.lastLine, c})
		}
		for stage, after := range looks {
			at := (begin+c.at+after+looking-1)/looking*looking - begin
			if at < c.ended {
				out = append(out, moment{at, stage + 1, i, c})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b moment) int {
		if line, other := a.stage <= 0, b.stage <= 0; a.at == b.at && line != other {
			if line {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(max(0, a.stage), max(0, b.stage)), cmp.Compare(a.order, b.order))
	})
	return out
}

// says is the outcome that a moment tells, "" for none.
func (m *moment) says() string {
	c := m.c
	switch {
	case m.stage < 0, c.said == "answered":
		return ""
	case m.stage == 0:
		return c.how
	case c.sure <= m.at, c.replied <= m.at && c.proto != event.ProtoTCP:
		return "answered"
	case m.stage == 2 && c.replied > m.at:
		return "unanswered"
	}
	return ""
}

// story is what was known of a source at a moment.
type story struct {
	at time.Duration
	agg.Evidence
}

// count are the counts of Evidence that a log has to agree with.
func count(e *agg.Evidence) agg.Evidence {
	return agg.Evidence{Contacts: e.Contacts, Attempts: e.Attempts, Answered: e.Answered, Refused: e.Refused, Unanswered: e.Unanswered, HalfOpen: e.HalfOpen, Invalid: e.Invalid,
		Pending: e.Pending, Excused: e.Excused, Dsts: e.Dsts, Dports: e.Dports}
}

// storiesOf tells what was known of one source from its first failing contact at
// since on, moment by moment.
func storiesOf(ms []moment, src netip.Addr, since time.Duration) (out []story) {
	for _, m := range ms {
		m.c.said, m.c.looked, m.c.taken = "", false, false
	}
	good := map[endpoint]time.Duration{} // endpoints that have answered, for anybody
	var e agg.Evidence
	dsts, ports := map[netip.Addr]int{}, map[uint32]int{}
	begun, tested, again := false, false, uint64(0)
	failing := map[endpoint]*contact{}
	tally := func(said string) *uint64 {
		return map[string]*uint64{"refused": &e.Refused, "unanswered": &e.Unanswered, "half_open": &e.HalfOpen}[said]
	}
	fails := func(c *contact, n int) {
		e.Dsts += distinct(dsts, c.dst, n)
		e.Dports += distinct(ports, uint32(c.proto)<<16|uint32(c.port), n)
	}
	for i := range ms {
		m := &ms[i]
		c := m.c
		said := m.says()
		if c.src == src && c.first {
			switch {
			case m.stage < 0:
				e.Pending++
			case !c.looked:
				c.looked = true
				e.Pending--
			}
		}
		was := c.said
		if said != "" && said != was {
			c.said = said
			if c.src == src && c.first {
				known := false
				for _, p := range []uint8{c.proto, other[c.proto]} {
					at, was := good[endpoint{c.dst, p, c.port}]
					known = known || was && m.at/time.Second-at/time.Second <= 3600
				}
				known = known || c.proto == event.ProtoUDP && c.port >= 33434 && c.port <= 33533 // traceroute
				begun = begun || m.at == since && said != "answered" && !known
				switch {
				case !begun:
				case said == "answered" && was == "":
					e.Answered++
				case said == "answered" && c.taken:
					*tally(was)--
					e.Answered++
					fails(c, -1)
					c.taken = false
					delete(failing, c.endpoint())
				case said == "answered":
				case was == "" && known:
					e.Excused++
				case was == "" && failing[c.endpoint()] != nil: // the day before
					again++
				case was == "":
					failing[c.endpoint()] = c
					tested = tested || len(failing) > 1
					*tally(said)++
					fails(c, 1)
					c.taken = true
				case c.taken:
					*tally(was)--
					*tally(said)++
				}
			}
		}
		if x := failing[c.endpoint()]; said != "" && said != was && c.src == src && (!c.first || was != "") && x != nil && x != c {
			switch {
			case said != "answered" && was == "":
				again++
			case said == "answered" && tested: // it was not there yet
				*tally(x.said)--
				e.Excused++
				fails(x, -1)
				x.taken = false
				delete(failing, c.endpoint())
			}
		}
		if said == "answered" {
			good[c.endpoint()] = m.at
		}
		if c.src != src || !begun {
			continue
		}
		e.Contacts = e.Refused + e.Unanswered + e.HalfOpen + e.Answered + e.Pending
		e.Attempts = e.Refused + e.Unanswered + e.HalfOpen + again
		out = append(out, story{m.at, e})
	}
	return out
}

// distinct adds n to how often k is there, and returns by how many more there are.
func distinct[K comparable](m map[K]int, k K, n int) uint64 {
	was := m[k]
	m[k] += n
	switch {
	case was == 0 && n > 0:
		return 1
	case was > 0 && m[k] == 0:
		return ^uint64(0)
	}
	return 0
}

// checkCounts demands that the counts of every scan are those of the log at the
// moment when it was told: of several moments of the same time, those of one.
func checkCounts(t *testing.T, findings []agg.Finding, first time.Time, lines []ctreplay.Line) (checked int) {
	t.Helper()
	ms := moments(contactsOf(lines), time.Duration(first.UnixNano()))
	stories := map[string][]story{}
	outage := time.Time{}
	for _, f := range findings {
		if f.Class == "upstream_outage" && (outage.IsZero() || f.First.Before(outage)) {
			outage = f.First
		}
	}
	for _, f := range findings {
		if e := &f.Evidence; f.Class != "scan" || e.Contacts != e.Refused+e.Unanswered+e.HalfOpen+e.Invalid+e.Answered+e.Pending {
			if f.Class == "scan" {
				t.Errorf("%s: its parts are not %d contacts: %+v", f.ID, e.Contacts, e)
			}
			continue
		}
		// What everybody's failing excuses is the detector's to say.
		if !f.Source.IsSingleIP() || !outage.IsZero() && !f.Time.Before(outage) {
			continue
		}
		checked++
		key := f.Source.String() + f.First.String()
		if stories[key] == nil {
			stories[key] = storiesOf(ms, f.Source.Addr(), f.First.Sub(first))
		}
		told, got := f.Time.Sub(first), count(&f.Evidence)
		var best []agg.Evidence
		for _, s := range stories[key] {
			if s.at < told { // the last before is what is known, if nothing is at that time
				best = best[:0]
			}
			if s.at <= told {
				best = append(best, s.Evidence)
			}
		}
		if !slices.ContainsFunc(best, func(e agg.Evidence) bool { return same(&e, &got) }) {
			want := agg.Evidence{}
			if len(best) > 0 {
				want = best[len(best)-1]
			}
			t.Errorf("%s %s %s at %v (first %v, last %v):\ntold %+v\nlog  %+v", f.ID, f.State, f.Source, told, f.First.Sub(first), f.Last.Sub(first), got, count(&want))
		}
	}
	return checked
}

func same(a, b *agg.Evidence) bool { return fmt.Sprint(count(a)) == fmt.Sprint(count(b)) }

func TestCountsOfPublicCaptures(t *testing.T) {
	n := 0
	for name, capture := range captures(t) {
		t.Run(name, func(t *testing.T) {
			out, r, err := replay(t, bytes.NewReader(capture), pipeline.ReplayConfig{})
			if err != nil {
				t.Fatal(err)
			}
			n += checkCounts(t, out.findings, r.First, ctreplay.Read(t, name))
		})
	}
	t.Logf("%d tellings of scans", n)
	if n < 100 {
		t.Errorf("only %d tellings of scans", n)
	}
}

// Logs that no network has made: everything that may happen to a contact, at times
// that meet, of sources that scan, fail, serve and come back.
func TestCountsOfRandomLogs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "replay"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(ctreplay.EnvData, dir)
	n := 0
	for seed := range uint64(150) {
		log := randomLog(rand.New(rand.NewPCG(seed, 5)))
		name := fmt.Sprint("random", seed)
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, _ = z.Write([]byte(log))
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "replay", name+".ctr.tsv.gz"), packed.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		out, r, err := replay(t, strings.NewReader(log), pipeline.ReplayConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if n += checkCounts(t, out.findings, r.First, ctreplay.Read(t, name)); t.Failed() {
			t.Fatalf("seed %d: %d lines", seed, r.Lines)
		}
	}
	t.Logf("%d tellings of scans", n)
	if n < 500 {
		t.Errorf("only %d tellings of scans", n)
	}
}

// randomLog writes one. Half of the times are on the raster of looks.
func randomLog(r *rand.Rand) string {
	type line struct {
		at   time.Duration
		text string
	}
	var lines []line
	span := []time.Duration{20 * time.Second, 10 * time.Minute, 30 * time.Hour}[r.IntN(3)]
	when := func(most time.Duration) time.Duration {
		d := time.Duration(r.Int64N(int64(most)))
		if r.IntN(2) == 0 {
			d = d / looking * looking
		}
		return d
	}
	hosts, ports := 1+r.IntN(12), 1+r.IntN(30)
	steady := r.IntN(4) > 0 // what has answered goes on to do so, mostly
	roles := map[string]int{}
	for id := range 50 + r.IntN(600) {
		proto := []string{"tcp", "tcp", "tcp", "udp", "icmp"}[r.IntN(5)]
		at := when(span)
		tuple := fmt.Sprintf("%d\t%s\t192.0.2.%d\t%d\t10.0.0.%d\t%d", id, proto, 1+r.IntN(3), 1024+id, r.IntN(hosts), r.IntN(ports)) // a live tuple is there once
		add := func(d time.Duration, what, end string) {
			lines = append(lines, line{at + d, what + "\t" + tuple + "\t" + end + "\t1\t1\n"})
		}
		const open = "-\t-\t-1"
		add(0, "N", open)
		reply := []time.Duration{0, 20 * time.Millisecond, 200 * time.Millisecond, 250 * time.Millisecond, 3 * time.Second, 3100 * time.Millisecond, when(100 * time.Second)}[r.IntN(7)]
		role := r.IntN(6)
		at0 := tuple[strings.LastIndex(tuple, "10.0.0."):]
		if was, ok := roles[at0]; ok && steady && r.IntN(50) > 0 {
			role = was
		}
		roles[at0] = role
		switch role {
		case 0: // stays
		case 1: // refused
			if proto == "tcp" {
				add(when(time.Second), "D", "U\trst\t-1")
			}
		case 2:
			add(30*time.Second+when(100*time.Second), "D", "U\ttimeout\t-1")
		case 3: // answered
			add(reply, "R", open)
			add(reply+when(4*time.Second), "A", open)
			if r.IntN(2) == 0 {
				add(reply+4*time.Second+when(time.Hour), "D", "A\ttimeout\t-1")
			}
		case 4: // accepted only
			add(reply, "R", open)
			add(reply+10*time.Second, "D", "R\ttimeout\t-1")
		case 5: // answered, as only its end says
			add(5*time.Second+when(200*time.Second), "D", []string{"A", "R"}[r.IntN(2)]+"\ttimeout\t-1")
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	begin := 1_700_000_000*time.Second + when(time.Second)
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "%d\t%s", begin+l.at, l.text)
	}
	return b.String()
}

// What a source has made in a burst, and how often it came back to one endpoint, was
// let in and soon gone, are in the log as often.
func TestCountsOfOtherClasses(t *testing.T) {
	bursts, hammered := 0, 0
	for name, capture := range captures(t) {
		out, r, err := replay(t, bytes.NewReader(capture), pipeline.ReplayConfig{})
		if err != nil {
			t.Fatal(err)
		}
		all := contactsOf(ctreplay.Read(t, name))
		for _, f := range out.findings {
			first, told := f.First.Sub(r.First), f.Time.Sub(r.First)
			got, least, most := 0, 0, 0
			if f.State == agg.Cleared { // when it was over is the test's to say
				continue
			}
			switch f.Class {
			case "rate_burst":
				bursts++
				i := slices.IndexFunc(f.Evidence.Figures, func(x agg.Figure) bool { return x.Name == "new_entries" })
				got = int(f.Evidence.Figures[i].Value)
				for _, c := range all {
					if c.src == f.Source.Addr() && c.at >= first && c.at <= told {
						if most++; c.at < told {
							least++
						}
					}
				}
				least = min(most, least+1) // it is told with one of those of the moment
			case "connection_hammering":
				hammered++
				got = int(f.Evidence.Answered)
				most = comeBack(all, &f, first, told)
				least = most
			default:
				continue
			}
			if got < least || got > most {
				t.Errorf("%s: %s %s %s %v at %v (first %v): told %d, log %d to %d", name, f.ID, f.Class, f.State, f.Source, told, first, got, least, most)
			}
		}
	}
	t.Logf("%d tellings of bursts, %d of hammering", bursts, hammered)
	if bursts < 20 || hammered < 10 {
		t.Error("too few")
	}
}

// comeBack is how many connections of the finding's source with its target, made since
// first and without a pause of a minute, were let in, open for less than 10 s and had
// ended by then. A closed connection stays in the table for two minutes, or for 10 s
// after a RST.
func comeBack(all []*contact, f *agg.Finding, first, by time.Duration) (n int) {
	last := first
	for _, c := range all {
		stays := 2 * time.Minute
		if c.ended-c.at < stays {
			stays = 10 * time.Second
		}
		if c.src != f.Source.Addr() || c.dst != f.Target.Addr || c.port != f.Target.Port || c.proto != f.Target.Proto ||
			c.at < first || c.ended > by || c.how != "answered" || c.ended-c.at-stays >= 10*time.Second {
			continue
		}
		if c.at-last > time.Minute {
			break
		}
		last = c.at
		n++
	}
	return n
}
