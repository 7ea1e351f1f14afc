package agg

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/ctsight/ctsight/internal/event"
)

// Holdings says what sort of entries hold a table.
type Holdings struct {
	N         uint64
	NAT       uint64 // with a translated source or destination
	Unreplied uint64 // nothing came back
	Assured   uint64 // never evicted by early_drop
	Expired   uint64 // waiting for the garbage collector
	by        map[HoldingKey]*Holding
}

// HoldingKey is a sort of entries.
type HoldingKey struct {
	Proto   uint8
	State   event.TCPState // TCPNone for others than TCP
	Replied bool
	Assured bool
}

// Holding is how many entries of a sort there are, and how long they have left:
// what they will hold if nothing touches them any more.
type Holding struct {
	HoldingKey
	N    uint64
	Left time.Duration // mean of the timeouts
	sum  time.Duration
}

// Add counts a live entry.
func (h *Holdings) Add(t *event.Tuple, st event.Status, s event.TCPState, left time.Duration) {
	k := HoldingKey{Proto: t.Proto, State: s, Replied: st&event.SeenReply != 0, Assured: st&event.Assured != 0}
	h.N++
	if st&(event.SrcNAT|event.DstNAT) != 0 {
		h.NAT++
	}
	if !k.Replied {
		h.Unreplied++
	}
	if k.Assured {
		h.Assured++
	}
	if left <= 0 {
		h.Expired++
	}
	if h.by == nil {
		h.by = map[HoldingKey]*Holding{}
	}
	x := h.by[k]
	if x == nil {
		x = &Holding{HoldingKey: k}
		h.by[k] = x
	}
	x.N++
	x.sum += max(0, left)
}

// Rows returns the sorts of entries, most first.
func (h *Holdings) Rows() []Holding {
	var out []Holding
	for x := range maps.Values(h.by) {
		y := *x
		y.Left, y.sum = x.sum/time.Duration(x.N), 0
		out = append(out, y)
	}
	slices.SortFunc(out, func(a, b Holding) int {
		return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.State, b.State),
			compareBool(a.Replied, b.Replied), compareBool(a.Assured, b.Assured))
	})
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// holdings is how a Holdings is stored.
type holdings struct {
	NAT     uint64    `json:"nat,omitempty"`
	Expired uint64    `json:"expired,omitempty"`
	Sorts   []holding `json:"sorts"`
}

type holding struct {
	Proto   uint8          `json:"proto"`
	State   event.TCPState `json:"state,omitempty"`
	Replied bool           `json:"replied,omitempty"`
	Assured bool           `json:"assured,omitempty"`
	N       uint64         `json:"n"`
	Sum     time.Duration  `json:"sum_ns"` // of what they have left
}

// MarshalJSON stores all of it.
func (h *Holdings) MarshalJSON() ([]byte, error) {
	out := holdings{NAT: h.NAT, Expired: h.Expired, Sorts: []holding{}}
	for _, x := range h.Rows() {
		out.Sorts = append(out.Sorts, holding{x.Proto, x.State, x.Replied, x.Assured, x.N, h.by[x.HoldingKey].sum})
	}
	return json.Marshal(out)
}

// UnmarshalJSON is the inverse; sorts without an entry are left out.
func (h *Holdings) UnmarshalJSON(b []byte) error {
	var in holdings
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*h = Holdings{NAT: in.NAT, Expired: in.Expired, by: map[HoldingKey]*Holding{}}
	for _, x := range in.Sorts {
		if x.N == 0 {
			continue
		}
		k := HoldingKey{x.Proto, x.State, x.Replied, x.Assured}
		h.by[k] = &Holding{HoldingKey: k, N: x.N, sum: x.Sum}
		if h.N += x.N; !x.Replied {
			h.Unreplied += x.N
		}
		if x.Assured {
			h.Assured += x.N
		}
	}
	return nil
}
