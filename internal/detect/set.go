package detect

// set is a set of hashes, small ones without a map. Past its bound it takes no more
// and says so.
type set struct {
	few  []uint64
	many map[uint64]struct{}
	full bool
}

// counted is a set of hashes with how often each is in it.
type counted struct {
	few  []times
	many map[uint64]uint32
	full bool
}

type times struct {
	hash uint64
	n    uint32
}

const (
	fewest  = 16
	setMost = 1 << 16
)

func (s *set) len() int { return max(len(s.few), len(s.many)) }

func (s *set) has(h uint64) bool {
	if s.many != nil {
		_, ok := s.many[h]
		return ok
	}
	for _, v := range s.few {
		if v == h {
			return true
		}
	}
	return false
}

// add says whether h is news.
func (s *set) add(h uint64) bool {
	switch {
	case s.has(h):
		return false
	case s.len() >= setMost:
		s.full = true
		return true
	case s.many != nil:
		s.many[h] = struct{}{}
	case len(s.few) < fewest:
		s.few = append(s.few, h)
	default:
		s.many = make(map[uint64]struct{}, 4*fewest)
		for _, v := range s.few {
			s.many[v] = struct{}{}
		}
		s.few, s.many[h] = nil, struct{}{}
	}
	return true
}

func (s *set) remove(h uint64) {
	delete(s.many, h)
	for i, v := range s.few {
		if v == h {
			s.few[i] = s.few[len(s.few)-1]
			s.few = s.few[:len(s.few)-1]
			return
		}
	}
}

func (c *counted) has(h uint64) bool {
	if c.many != nil {
		_, ok := c.many[h]
		return ok
	}
	for i := range c.few {
		if c.few[i].hash == h {
			return true
		}
	}
	return false
}

func (c *counted) len() int { return max(len(c.few), len(c.many)) }

func (c *counted) add(h uint64) {
	if c.many == nil {
		for i := range c.few {
			if c.few[i].hash == h {
				c.few[i].n++
				return
			}
		}
		if len(c.few) < fewest {
			c.few = append(c.few, times{h, 1})
			return
		}
		c.many = make(map[uint64]uint32, 4*fewest)
		for _, v := range c.few {
			c.many[v.hash] = v.n
		}
		c.few = nil
	}
	if _, ok := c.many[h]; !ok && len(c.many) >= setMost {
		c.full = true
		return
	}
	c.many[h]++
}

func (c *counted) remove(h uint64) {
	if n, ok := c.many[h]; ok {
		if c.many[h] = n - 1; n <= 1 {
			delete(c.many, h)
		}
		return
	}
	for i := range c.few {
		if c.few[i].hash == h {
			if c.few[i].n--; c.few[i].n == 0 {
				c.few[i] = c.few[len(c.few)-1]
				c.few = c.few[:len(c.few)-1]
			}
			return
		}
	}
}

// take removes h and returns how often it was there.
func (c *counted) take(h uint64) (n uint32) {
	if n = c.many[h]; n > 0 {
		delete(c.many, h)
		return n
	}
	for i, v := range c.few {
		if v.hash == h {
			c.few[i] = c.few[len(c.few)-1]
			c.few = c.few[:len(c.few)-1]
			return v.n
		}
	}
	return 0
}
