package detect

import (
	"time"

	"github.com/ctsight/ctsight/internal/prefetch"
)

// cache remembers two times of each of many hashes, in sets of four that are one
// cache line: of those that fall into a set the four that were seen last.
type cache struct {
	sets [][ways]seen // a power of two
}

const ways = 4

// seen is when something was met: seconds of Engine.second, 0 never. With the place of
// the set, the hash is kept whole but for the lowest bits, which are notes (link.go).
type seen struct {
	hash uint64
	last uint32
	good uint32 // when it was answered; with failing in it the last contact failed
}

const failing = 1 << 31

// fine says whether it was answered and has not failed since.
func (s *seen) fine() bool { return s.good != 0 && s.good&failing == 0 }

// served says whether it was ever answered.
func (s *seen) served() bool { return s.good != 0 }

// fail notes that the last contact failed.
func (s *seen) fail() {
	if s.good != 0 {
		s.good |= failing
	}
}

// known says whether an endpoint has answered within the last hour; of nil that none has.
func (s *seen) known(sec uint32) bool {
	return s != nil && s.good != 0 && sec-s.good <= uint32(knownFor/time.Second)
}

func newCache(n int) *cache { return &cache{make([][ways]seen, n/ways)} }

func (c *cache) set(h uint64) *[ways]seen { return &c.sets[h&seenNotes&uint64(len(c.sets)-1)] }

func (c *cache) line(h uint64) prefetch.Line { return prefetch.Of(c.set(h)) }

// find returns what is known of h, nil for nothing.
func (c *cache) find(h uint64) *seen {
	set := c.set(h)
	for i := range set {
		if set[i].hash>>16 == h>>16 {
			return &set[i]
		}
	}
	return nil
}

// get returns the place of h, a new one if need be.
func (c *cache) get(h uint64) (s *seen, fresh bool) {
	set := c.set(h)
	oldest := 0
	for i := range set {
		if set[i].hash>>16 == h>>16 {
			return &set[i], false
		}
		if set[i].last < set[oldest].last {
			oldest = i
		}
	}
	set[oldest] = seen{hash: h &^ seenNotes}
	return &set[oldest], true
}
