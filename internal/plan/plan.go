// Package plan makes of the connections of a while what a conntrack table must be:
// what each class of them costs, what limit, buckets and NAT ports they need and how
// much memory that is, and what would have become of the table with another limit,
// other timeouts or more of the same traffic. It does that by replaying the arrivals
// that were seen with the kernel's rules (docs/plan.md). It is given connections and
// values of the kernel, and asks neither the kernel nor the clock.
package plan

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Conn is what is known of one connection's entry. Fields that are not known are zero.
type Conn struct {
	Start event.Ktime // of its entry; of the window for one that was there Before
	End   event.Ktime // the entry went; 0 when it was there at the end of the window
	// Assured is since when it was; Start where only is known that it was.
	Assured event.Ktime
	// Expires is when its timeout ended, or would have.
	Expires event.Ktime
	ID      uint64 // equal for equal tuples of a zone
	Pool    uint32 // from 1 on, an index into Record.Pools plus one
	Proto   uint8
	State   event.TCPState // the last one
	Cause   event.Cause    // of its End
	Replied bool
	// Fixed says that no packet has come since the window began: the kernel leaves
	// the timeout that it has.
	Fixed   bool
	Before  bool // it was there when the window began
	Refused bool // it got no entry, the table was full
	// Silent says that it is not there any more at the end of the window, and that
	// nobody told when it went: entries from before somebody listened do not.
	Silent bool
}

// Pool is the ports of a NAT address towards a destination.
type Pool struct {
	Addr, Dst netip.Addr
	Port      uint16 // of the destination
	Proto     uint8
}

// Input is a source of connections, in any order.
type Input interface {
	// All is asked once.
	All() iter.Seq[Conn]
	// Window is what it was watched in.
	Window() (from, to event.Ktime)
	// Pools are those that connections name.
	Pools() []Pool
	// Read is when the table had been read: that removes what has expired. 0 for not.
	Read() event.Ktime
	// Counts are what the kernel counted meanwhile, in the order of time; fewer than two
	// are none.
	Counts() []Count
}

// Kernel is what the tables were when the connections were seen.
type Kernel struct {
	Max      uint64 // 0 not known, or no limit
	Buckets  uint64 // 0 not known
	HZ       int    // jiffies a second; 0 is DefaultHZ
	Timeouts Timeouts
	// Pause is what the collector sleeps between two visits where that is always the
	// same (PauseOf); 0 where it depends on what entries have left.
	Pause time.Duration
}

// PauseOf is the Pause of a release: two minutes before 5.15, and in all stable kernels of
// 2021 and later (4608fdfc07e1), the running mean after that. "" is a new one.
func PauseOf(release string) time.Duration {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major < 5 || major == 5 && minor < 15) {
		return 2 * time.Minute
	}
	return 0
}

// longest is how long the collector sleeps at most.
func (k *Kernel) longest() time.Duration { return cmp.Or(k.Pause, gcMax) }

// DefaultHZ is that of Debian and most others.
const DefaultHZ = 250

// Record is all connections of a window, in the order of their arrival.
type Record struct {
	From, To event.Ktime
	Conns    []Conn
	Pools    []Pool
	Kernel   Kernel

	timers []Timer     // of each connection
	read   event.Ktime // when the table had been read
	others others      // entries that the collector meets besides
	// Lagless says that no garbage collector was at work: a capture that was made
	// from packets has none.
	Lagless bool
	// Early is how many timed out sooner than the timeout that they should have had:
	// the values of Kernel are not those of the time.
	Early  uint64
	scans  []event.Ktime // when the collector was seen at work
	passes []pass        // of it
}

func (r *Record) span() float64 { return r.To.Sub(r.From).Seconds() }

// seconds makes a duration.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
