package demo

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/event"
)

// Data is what the demo has seen: enough for its last act and for the page,
// which ask nothing and nobody else.
type Data struct {
	Kernel, Backend string
	Exact           bool // the backend sees drops and evictions one by one
	Start           time.Time
	Length          time.Duration
	Acts            []Act
	Bins            []Bin // every 100 ms from Start

	Clients    []counted // act 1
	Unfinished int       // conversations that failed: their truth is not known
	Burst      []counted // act 2
	Scan       []counted // act 3
	Open       []uint16  // scanned ports that answered
	Found      Found     // of the scan, by the detectors

	// Act 4.
	Limit, Was                  int
	Skipped                     string // why the table was not filled
	FullAt                      time.Duration
	KernelDrop, KernelEarlyDrop uint64
	Losers                      []counted
	Evictions                   []Eviction
	EvictedAssured, EvictedGC   uint64

	// Act 5.
	Truth   []TruthRow
	Balance []agg.BalanceRow
	Doc     *agg.Doc // the ledger of the demo's namespace

	bySource map[netip.Addr]uint64 // what was sent
}

// Act is a stretch of the time line.
type Act struct {
	Name     string
	From, To time.Duration
}

// Eviction is whose entries were evicted for whose packets.
type Eviction struct {
	Victim, Culprit netip.Addr
	Count           uint64
}

// TruthRow sets what the sources of a role have sent beside what was traced.
type TruthRow struct {
	Role, Addrs     string
	Sent, New, Lost uint64
}

// Difference is what is not accounted for.
func (t TruthRow) Difference() int64 { return int64(t.Sent) - int64(t.New) - int64(t.Lost) }

// sent notes flows of a source.
func (d *Data) sent(a netip.Addr, n uint64) {
	if d.bySource == nil {
		d.bySource = map[netip.Addr]uint64{}
	}
	d.bySource[a] += n
}

// finish takes over what was recorded and the ledger of the namespace.
func (d *Data) finish(r *recorder, doc *agg.Doc, ns event.NetNS, clock event.Clock) {
	d.Start, d.Length = clock.At(r.start), time.Duration(len(r.bins))*binWidth
	for _, a := range d.Acts {
		d.Length = max(d.Length, a.To)
	}
	d.Bins = r.bins
	d.Doc = only(doc, ns)
	d.Balance = d.Doc.Balance
	for _, ro := range cast {
		t := TruthRow{Role: ro.name, Addrs: ro.text()}
		for a, n := range d.bySource {
			if ro.has(a) {
				t.Sent += n
			}
		}
		for _, c := range r.of(ro) {
			t.New += c.New
			t.Lost += c.Lost
		}
		if t.Sent+t.New+t.Lost > 0 {
			d.Truth = append(d.Truth, t)
		}
	}
}

// only is the ledger without other namespaces, where the machine went on.
func only(doc *agg.Doc, ns event.NetNS) *agg.Doc {
	out := *doc
	out.Kernel = slices.DeleteFunc(slices.Clone(doc.Kernel), func(k agg.KernelDelta) bool { return k.NetNS != ns })
	out.Balance = slices.DeleteFunc(slices.Clone(doc.Balance), func(b agg.BalanceRow) bool { return b.NetNS != ns })
	return &out
}

// Residual is the sum of all differences, without their signs: 0 when every
// packet and every entry is accounted for. A backend that sees no drops can
// only be held against the kernel's total of them.
func (d *Data) Residual() (n uint64) {
	abs := func(i int64) uint64 { return uint64(max(i, -i)) }
	for _, b := range d.Balance {
		if b.Difference != nil {
			n += abs(*b.Difference)
		}
	}
	if !d.Exact {
		return n + abs(d.missing()-d.kernelDrops())
	}
	for _, t := range d.Truth {
		n += abs(t.Difference())
	}
	return n
}

// missing is how many packets that were sent have neither made an entry nor
// been seen to be lost.
func (d *Data) missing() (n int64) {
	for _, t := range d.Truth {
		n += t.Difference()
	}
	return n
}

func (d *Data) kernelDrops() int64 {
	for _, b := range d.Balance {
		if b.Counter == agg.CounterDrop && b.Kernel != nil {
			return *b.Kernel
		}
	}
	return 0
}

// lostBy lists the sources that lost packets, most first.
func (d *Data) lostBy() []counted {
	out := slices.DeleteFunc(slices.Clone(d.Losers), func(c counted) bool { return c.Lost == 0 })
	slices.SortStableFunc(out, func(a, b counted) int { return cmp.Compare(b.Lost, a.Lost) })
	return out
}

// bystanders are the customers: what they lost, of how many.
func (d *Data) bystanders() (lost, of uint64) {
	for _, c := range d.Losers {
		if customers.has(c.Source) {
			lost += c.Lost
			of += c.Lost + c.New
		}
	}
	return lost, of
}

// roleEviction sums evictions over the sources of a role.
type roleEviction struct {
	Victim, Culprit string
	Count           uint64
}

func (d *Data) evictionsByRole() []roleEviction {
	sums := map[[2]string]uint64{}
	var order [][2]string
	for _, e := range d.Evictions {
		k := [2]string{roleWithAddr(e.Victim), roleWithAddr(e.Culprit)}
		if sums[k] == 0 {
			order = append(order, k)
		}
		sums[k] += e.Count
	}
	var out []roleEviction
	for _, k := range order {
		out = append(out, roleEviction{k[0], k[1], sums[k]})
	}
	slices.SortStableFunc(out, func(a, b roleEviction) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

// roleWithAddr is the name of a role and its addresses.
func roleWithAddr(a netip.Addr) string {
	for _, r := range cast {
		if r.has(a) {
			return r.text() + " " + r.name
		}
	}
	return who(a)
}

// Found is when the detectors confirmed the scan: how long after its first failing
// contact, and how many ports had failed by then.
type Found struct {
	Is    bool
	After time.Duration
	Ports uint64
}
