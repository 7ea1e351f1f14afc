package capture

import (
	"encoding/binary"
	"errors"

	"github.com/ctsight/ctsight/internal/event"
)

// Events lie column by column. A column is the same field of all of them; one that is 0
// everywhere is left out. A number is stored with as many bytes as the greatest of its
// column needs, first the lowest bytes of all, then the next ones: what is alike lies
// together, which is what zstd can make small.

// form is how the numbers of a column are stored.
type form uint8

const (
	formConst form = 1 // one number for all: a uvarint
	formPlain form = 2 // a byte with the width, then the planes
	formDelta form = 3 // the same, of the differences to the one before, zigzag
)

// Addresses and names are numbers in the columns: their places in two lists that come
// before, from 1 on. 0 is none.
const (
	colNetNS = 4
	colZone  = 5
	colFlags = 9
	colPtr   = 34
	colRef   = 60
	colAddrs = 254
	colNames = 255
)

// column is a field.
type column struct {
	id   uint8
	form form
	of   group
	set  func(*batchReader, *event.Event, uint64)
}

// group is what columns are of that are all 0 where it has nothing, for most events
// have nothing of most of them.
type group uint8

const (
	ofAll group = 1 << iota
	ofReply
	ofEnd
	ofBy
	ofTask
	ofDrop
	ofRef
)

// own are columns that a destroy which refers to its insert has no value of.
func (c *column) own() bool {
	return c.id == colNetNS || c.id == colZone || c.id >= 10 && c.id < 30 || c.id == colPtr
}

// addr says whether its values are numbers of addresses.
func (c *column) addr() bool {
	switch c.id {
	case 11, 12, 21, 22, 41, 42:
		return true
	}
	return false
}

// Flags of an event.
const (
	hasLifetime = 1 << iota
	byUser
	replyOnly
	hasTCPFlags
	bestEffort
	replyIsInverse // of orig: no NAT
	sinceInsert    // the lifetime is the time since the insert that it refers to
)

// columns are all that there are. What a number means never changes; a new field gets
// a new one, which older readers leave out.
var columns = []column{
	{colRef, formPlain, ofRef, func(_ *batchReader, _ *event.Event, _ uint64) {}},
	{1, formDelta, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Time = event.Ktime(v) }},
	{2, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Kind = event.Kind(v) }},
	{3, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.CPU = uint16(v) }},
	{colNetNS, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.NetNS = event.NetNS(v) }},
	{colZone, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Zone = uint16(v) }},
	{6, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Mark = uint32(v) }},
	{7, formPlain, ofDrop, func(_ *batchReader, e *event.Event, v uint64) { e.Reason = event.Reason(v) }},
	{8, formPlain, ofEnd, func(_ *batchReader, e *event.Event, v uint64) { e.Cause = event.Cause(v) }},
	{colFlags, formPlain, ofAll, func(r *batchReader, e *event.Event, v uint64) { r.flags(e, v) }},

	{10, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Orig.Proto = uint8(v) }},
	{11, formPlain, ofAll, func(r *batchReader, e *event.Event, v uint64) { e.Orig.Src = r.addr(v) }},
	{12, formPlain, ofAll, func(r *batchReader, e *event.Event, v uint64) { e.Orig.Dst = r.addr(v) }},
	{13, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Orig.Sport = uint16(v) }},
	{14, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Orig.Dport = uint16(v) }},

	{20, formPlain, ofReply, func(_ *batchReader, e *event.Event, v uint64) { e.Reply.Proto = uint8(v) }},
	{21, formPlain, ofReply, func(r *batchReader, e *event.Event, v uint64) { e.Reply.Src = r.addr(v) }},
	{22, formPlain, ofReply, func(r *batchReader, e *event.Event, v uint64) { e.Reply.Dst = r.addr(v) }},
	{23, formPlain, ofReply, func(_ *batchReader, e *event.Event, v uint64) { e.Reply.Sport = uint16(v) }},
	{24, formPlain, ofReply, func(_ *batchReader, e *event.Event, v uint64) { e.Reply.Dport = uint16(v) }},

	{30, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Status = event.Status(v) }},
	{31, formPlain, ofEnd, func(_ *batchReader, e *event.Event, v uint64) { e.TCPState = event.TCPState(v) }},
	{32, formPlain, ofEnd, func(_ *batchReader, e *event.Event, v uint64) { e.Lifetime = durationOf(v) }},
	{33, formPlain, ofEnd, func(_ *batchReader, e *event.Event, v uint64) { e.Timeout = durationOf(v) }},
	{colPtr, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Ptr = v }},

	{40, formPlain, ofBy, func(_ *batchReader, e *event.Event, v uint64) { e.By.Proto = uint8(v) }},
	{41, formPlain, ofBy, func(r *batchReader, e *event.Event, v uint64) { e.By.Src = r.addr(v) }},
	{42, formPlain, ofBy, func(r *batchReader, e *event.Event, v uint64) { e.By.Dst = r.addr(v) }},
	{43, formPlain, ofBy, func(_ *batchReader, e *event.Event, v uint64) { e.By.Sport = uint16(v) }},
	{44, formPlain, ofBy, func(_ *batchReader, e *event.Event, v uint64) { e.By.Dport = uint16(v) }},

	{50, formPlain, ofTask, func(_ *batchReader, e *event.Event, v uint64) { e.Task.PID = uint32(v) }},
	{51, formPlain, ofTask, func(r *batchReader, e *event.Event, v uint64) { e.Task.Comm = r.name(v) }},
	{52, formPlain, ofTask, func(_ *batchReader, e *event.Event, v uint64) { e.Task.Cgroup = v }},
	{53, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.IIf = uint32(v) }},
	{54, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.OIf = uint32(v) }},
	{55, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Hook = event.Hook(v) }},
	{56, formPlain, ofDrop, func(_ *batchReader, e *event.Event, v uint64) { e.TCPFlags = event.TCPFlags(v) }},
	{57, formPlain, ofDrop, func(_ *batchReader, e *event.Event, v uint64) { e.KfreeReason = uint32(v) }},
	{58, formPlain, ofDrop, func(_ *batchReader, e *event.Event, v uint64) { e.Location = v }},
	{59, formPlain, ofAll, func(_ *batchReader, e *event.Event, v uint64) { e.Sample = uint32(v) }},
}

// zigzag makes small numbers of those around 0.
func zigzag(v uint64) uint64 { return v<<1 ^ uint64(int64(v)>>63) }

func unzigzag(v uint64) uint64 { return v>>1 ^ -(v & 1) }

var errShort = errors.New("it ends too early")

// readColumn reads n numbers into v and returns what follows.
func readColumn(b []byte, f form, v []uint64) (rest []byte, err error) {
	switch f {
	case formConst:
		x, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errShort
		}
		for i := range v {
			v[i] = x
		}
		return b[n:], nil
	case formPlain, formDelta:
	default:
		return nil, errors.New("a form of column that this ctsight does not know")
	}
	if len(b) < 1 {
		return nil, errShort
	}
	width := int(b[0])
	if b = b[1:]; width < 1 || width > 8 || len(b) < width*len(v) {
		return nil, errShort
	}
	for i, x := range b[:len(v)] {
		v[i] = uint64(x)
	}
	for k := 1; k < width; k++ {
		for i, x := range b[k*len(v):][:len(v)] {
			v[i] |= uint64(x) << (8 * k)
		}
	}
	if f == formDelta {
		before := uint64(0)
		for i, x := range v {
			before += unzigzag(x)
			v[i] = before
		}
	}
	return b[width*len(v):], nil
}
