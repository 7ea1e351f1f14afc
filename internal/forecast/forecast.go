// Package forecast says when a conntrack table will be full, from how long
// entries of each kind live and not from a slope: a flood of entries that live
// two minutes fills a table or does not, and which of the two shows in its
// first seconds.
//
// One Forecaster watches one table and is fed one Step after the other. It
// knows nothing but its steps: no clock, no kernel. A table is anything with a
// limit, entries that come and go, and ages: the conntrack table of a network
// namespace, or the ports of one NAT address towards one destination (Max the
// size of the pool, Entries the ports in use). Even a table of which only
// Entries, New and Max are known gets a forecast.
//
// Full means full: Entries reaches Max. From .95 Max on the kernel's garbage
// collector takes entries that are not assured before their time, so a table may
// hang there for a while; the forecast does not count on that, and learns
// nothing from deaths while it goes on.
package forecast

import (
	"math"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Never is the time of what does not happen within a day.
const Never = time.Duration(math.MaxInt64)

// Unknown is the age of an entry that was there before we were.
const Unknown = time.Duration(-1)

// Config holds what is known beforehand. The zero value stands for the
// kernel's timeouts.
type Config struct {
	Timeouts [NumClasses]time.Duration // sysctls; 0 is the default
	// Proto is the protocol of all entries, 0 for any: it says how long they
	// live as long as neither samples nor deaths do.
	Proto uint8
}

// Step is one interval in the life of a table: 0.2 to 10 s are useful.
type Step struct {
	At      event.Ktime // end of the interval
	Entries uint64      // the kernel's count at At
	Max     uint64
	New     uint64       // entries inserted in the interval
	Dead    []Death      // entries that left, without those evicted by early drop
	Sample  []Sample     // live entries looked at; empty if the backend cannot
	Live    [Bins]uint64 // live entries by age; Entries has more: of unknown age
	// Recent is New by quarters of a second, newest first, without those that
	// died within a second; of the last whole one before At on. It may be nil.
	Recent []uint32
}

// Death is entries that left the table. The age may be the middle of a bin.
type Death struct {
	Class Class // when it died
	Age   time.Duration
	Count uint64
}

// Sample is one live entry drawn at random. 1,000 a second are good and the
// most that is worth the while is 4,000. Young ones may be drawn more often,
// as long as within one age bin all have the same chance.
type Sample struct {
	Class Class
	Age   time.Duration
	Left  time.Duration // of its timeout
}

// Forecast is what a table is heading for.
type Forecast struct {
	Fill float64 // Entries / Max

	// TimeToFull is when the expected number of entries reaches Max, 0 when
	// it has; Never as long as it is not certain (High is Never) that it will.
	// Low and High are when the mean plus and less 1.5 standard deviations do.
	TimeToFull, Low, High time.Duration

	Saturation float64 // expected entries a day from now if all goes on like this
	Rate       float64 // arrivals per second that outlive their first second
	Growth     float64 // of Rate per second, over the next seconds; 0 if not certain
	Leak       float64 // share of new TCP connections that seem never to be closed

	// Confident is set when classes of live entries were seen and there are
	// enough of them to know the mix of arrivals.
	Confident bool
}

// Forecaster is the memory of one table. It is not safe for concurrent use.
type Forecaster struct {
	cfg     Config
	started bool
	first   event.Ktime
	last    event.Ktime
	entries uint64
	max     uint64

	arrivals arrivals
	tables   [numTracks]table
	leak     leak
	seen     [numTracks][Bins + 1]float64 // recent samples, by track and age
	dated    [numTracks][Bins]float64     // samples of unknown age, by what their timeout says
	recent   float64                      // number of samples in the last seconds
	closing  float64                      // of these, TCPClosing
	open     float64                      // time that TCP connections were open, within one closing timeout
	lag      lag
	timeout  [numTracks]lag // timeout of the doomed, as seen
	n        [numTracks][Bins + 1]float64

	curves [numTracks]curve
	leaky  curve // tcpConn since the leak began
	out    outlook
}

// lag is a mean that forgets.
type lag struct{ sum, n float64 }

func (l *lag) add(x, n float64) { l.sum, l.n = l.sum+x*n, l.n+n }
func (l *lag) fade(k float64)   { l.sum, l.n = l.sum*k, l.n*k }
func (l lag) mean(prior, weight float64) float64 {
	return (l.sum + prior*weight) / (l.n + weight)
}

// New returns a Forecaster that has seen nothing.
func New(cfg Config) *Forecaster {
	for c := range cfg.Timeouts {
		if cfg.Timeouts[c] <= 0 {
			cfg.Timeouts[c] = defaultTimeouts[c]
		}
	}
	return &Forecaster{cfg: cfg}
}
