// Package export writes recordings in forms of others: rows of Parquet for DuckDB and
// pandas, and lines of ctreplay for whatever reads captures in text. Memory is bounded:
// nothing of a recording is kept but the group of rows, or the ids of live entries.
package export

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/ctsight/ctsight/internal/event"
)

// Writer takes events in the order of their time. What it leaves out it counts.
type Writer interface {
	Write(e *event.Event) error
	Close() error
	// LeftOut is how many events the form has no place for.
	LeftOut() uint64
}

// Row is an event as a row of Parquet. What does not apply or is not known is null.
type Row struct {
	Time     int64    `parquet:"time,timestamp(nanosecond:local),delta"`
	Event    string   `parquet:"event,dict"`
	Reason   *string  `parquet:"reason,optional,dict"`
	Cause    *string  `parquet:"cause,optional,dict"`
	NetNS    uint32   `parquet:"netns,dict"`
	Zone     int32    `parquet:"zone"`
	Mark     uint32   `parquet:"mark,optional"`
	Proto    string   `parquet:"proto,dict"`
	Src      string   `parquet:"src,dict"`
	Dst      string   `parquet:"dst,dict"`
	Sport    *int32   `parquet:"sport,optional"` // null for ICMP
	Dport    *int32   `parquet:"dport,optional"`
	ICMPType *int32   `parquet:"icmp_type,optional"`
	ICMPCode *int32   `parquet:"icmp_code,optional"`
	ICMPID   *int32   `parquet:"icmp_id,optional"`
	ReplySrc *string  `parquet:"reply_src,optional,dict"`
	ReplyDst *string  `parquet:"reply_dst,optional,dict"`
	ReplySpt *int32   `parquet:"reply_sport,optional"`
	ReplyDpt *int32   `parquet:"reply_dport,optional"`
	NAT      *string  `parquet:"nat,optional,dict"`
	Status   []string `parquet:"status,list"`
	TCPState *string  `parquet:"tcp_state,optional,dict"`
	Lifetime *int64   `parquet:"lifetime_ns,optional"`
	BySrc    *string  `parquet:"by_src,optional,dict"`
	ByDst    *string  `parquet:"by_dst,optional,dict"`
	ByProto  *string  `parquet:"by_proto,optional,dict"`
	BySport  *int32   `parquet:"by_sport,optional"`
	ByDport  *int32   `parquet:"by_dport,optional"`
	PID      uint32   `parquet:"pid,optional"`
	Comm     *string  `parquet:"comm,optional,dict"`
	Cgroup   uint64   `parquet:"cgroup,optional"`
	IIf      uint32   `parquet:"iif,optional"`
	OIf      uint32   `parquet:"oif,optional"`
	Hook     *string  `parquet:"hook,optional,dict"`
	TCPFlags *string  `parquet:"tcp_flags,optional,dict"`
	Sample   uint32   `parquet:"sample"` // stands for so many
	Best     bool     `parquet:"best_effort"`
}

const (
	rowsAtOnce  = 1024
	rowsOfGroup = 1 << 17
)

type table struct {
	w     *parquet.GenericWriter[Row]
	clock event.Clock
	rows  []Row
	nums  []int32 // what the pointers of rows point to
	ages  []int64
	names map[event.Status][]string
	addrs map[netip.Addr]string
}

// NewParquet writes Parquet, compressed with zstd. It cannot be read before Close.
func NewParquet(w io.Writer, clock event.Clock) Writer {
	return &table{clock: clock, rows: make([]Row, 0, rowsAtOnce), names: map[event.Status][]string{}, addrs: map[netip.Addr]string{},
		nums: make([]int32, 0, 9*rowsAtOnce), ages: make([]int64, 0, rowsAtOnce),
		w: parquet.NewGenericWriter[Row](w, parquet.Compression(&zstd.Codec{}), parquet.MaxRowsPerRowGroup(rowsOfGroup), parquet.CreatedBy("ctsight", "", ""))}
}

func (t *table) LeftOut() uint64 { return 0 }

func (t *table) num(n uint32) *int32 {
	t.nums = append(t.nums, int32(n))
	return &t.nums[len(t.nums)-1]
}

// word points to a string, nil for an empty one: the library (0.32) takes some empty
// strings of an optional column for values.
func (t *table) word(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

const addrsKept = 1 << 16

func (t *table) addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	s, ok := t.addrs[a]
	if !ok {
		if len(t.addrs) >= addrsKept {
			clear(t.addrs)
		}
		s = a.String()
		t.addrs[a] = s
	}
	return s
}

func (t *table) status(s event.Status) []string {
	n, ok := t.names[s]
	if !ok {
		n = s.Names()
		t.names[s] = n
	}
	return n
}

func (t *table) Write(e *event.Event) error {
	r := Row{Time: t.clock.At(e.Time).UnixNano(), Event: e.Kind.String(), NetNS: uint32(e.NetNS), Zone: int32(e.Zone), Mark: e.Mark, Proto: event.ProtoName(e.Orig.Proto),
		Src: t.addr(e.Orig.Src), Dst: t.addr(e.Orig.Dst), NAT: t.word(e.NAT()), Status: t.status(e.Status), PID: e.Task.PID, Comm: t.word(e.Task.Comm), Cgroup: e.Task.Cgroup,
		IIf: e.IIf, OIf: e.OIf, Sample: max(1, e.Sample), Best: e.BestEffort}
	if e.Orig.IsICMP() {
		typ, code, id := e.Orig.ICMP()
		r.ICMPType, r.ICMPCode, r.ICMPID = t.num(uint32(typ)), t.num(uint32(code)), t.num(uint32(id))
	} else {
		r.Sport, r.Dport = t.num(uint32(e.Orig.Sport)), t.num(uint32(e.Orig.Dport))
	}
	if !e.Reply.IsZero() {
		r.ReplySrc, r.ReplyDst = t.word(t.addr(e.Reply.Src)), t.word(t.addr(e.Reply.Dst))
		if !e.Reply.IsICMP() {
			r.ReplySpt, r.ReplyDpt = t.num(uint32(e.Reply.Sport)), t.num(uint32(e.Reply.Dport))
		}
	}
	if !e.By.IsZero() {
		r.BySrc, r.ByDst, r.ByProto = t.word(t.addr(e.By.Src)), t.word(t.addr(e.By.Dst)), t.word(event.ProtoName(e.By.Proto))
		r.BySport, r.ByDport = t.num(uint32(e.By.Sport)), t.num(uint32(e.By.Dport))
	}
	switch e.Kind {
	case event.Destroy:
		r.Cause = t.word(e.Cause.String())
		if e.TCPState != event.TCPNone {
			r.TCPState = t.word(e.TCPState.String())
		}
	case event.Drop, event.Note, event.Invalid:
		r.Reason = t.word(e.Reason.String())
	}
	if e.HasLifetime {
		t.ages = append(t.ages, int64(e.Lifetime))
		r.Lifetime = &t.ages[len(t.ages)-1]
	}
	if e.Hook != 0 {
		r.Hook = t.word(e.Hook.String())
	}
	if e.HasTCPFlags {
		r.TCPFlags = t.word(e.TCPFlags.String())
	}
	if t.rows = append(t.rows, r); len(t.rows) == rowsAtOnce {
		return t.flush()
	}
	return nil
}

func (t *table) flush() error {
	_, err := t.w.Write(t.rows)
	t.rows, t.nums, t.ages = t.rows[:0], t.nums[:0], t.ages[:0]
	return err
}

func (t *table) Close() error { return errors.Join(t.flush(), t.w.Close()) }

// lines writes ctreplay v1.
type lines struct {
	w       io.Writer
	clock   event.Clock
	ids     map[entry]uint64 // of entries that live
	next    uint64
	leftOut uint64
	buf     []byte
	begun   bool
}

// entry says which one it is: by its address, or where that is not known by its tuple.
type entry struct {
	ptr   uint64
	netns event.NetNS
	zone  uint16
	orig  event.Tuple
}

// idsMost bounds the entries that are remembered; beyond it their ends are of unknown
// entries.
const idsMost = 4 << 20

// NewText writes lines of ctreplay v1 (package record): inserts and destroys. When an
// answer came between is not in a recording, and for drops there is no line.
func NewText(w io.Writer, clock event.Clock) Writer {
	return &lines{w: w, clock: clock, ids: map[entry]uint64{}}
}

func (l *lines) LeftOut() uint64 { return l.leftOut }

func (l *lines) Write(e *event.Event) error {
	if e.Kind != event.New && e.Kind != event.Destroy {
		l.leftOut++
		return nil
	}
	b := l.buf[:0]
	if !l.begun {
		l.begun = true
		b = append(b, "# ctreplay v1: t_ns ev id proto src sport dst dport status cause life_ns opkts rpkts\n"...)
	}
	k := entry{ptr: e.Ptr}
	if e.Ptr == 0 {
		k = entry{netns: e.NetNS, zone: e.Zone, orig: e.Orig}
	}
	id, known := l.ids[k]
	if e.Kind == event.New || !known {
		l.next++
		id = l.next
	}
	if e.Kind == event.New && len(l.ids) < idsMost {
		l.ids[k] = id
	} else {
		delete(l.ids, k)
	}
	what := byte('N')
	if e.Kind == event.Destroy {
		what = 'D'
	}
	sport, dport := e.Orig.Sport, e.Orig.Dport
	if e.Orig.IsICMP() { // as Zeek has it, and so the captures: the id is not in them
		typ, code, _ := e.Orig.ICMP()
		sport, dport = uint16(typ), uint16(code)
	}
	b = strconv.AppendInt(b, l.clock.At(e.Time).UnixNano(), 10)
	b = append(b, '\t', what, '\t')
	b = strconv.AppendUint(b, id, 10)
	b = append(append(b, '\t'), event.ProtoName(e.Orig.Proto)...)
	b = e.Orig.Src.AppendTo(append(b, '\t'))
	b = strconv.AppendUint(append(b, '\t'), uint64(sport), 10)
	b = e.Orig.Dst.AppendTo(append(b, '\t'))
	b = strconv.AppendUint(append(b, '\t'), uint64(dport), 10)
	b = append(b, '\t')
	b = l.end(b, e)
	b = append(b, "\t-\t-\n"...)
	l.buf = b
	_, err := l.w.Write(b)
	return err
}

// end appends status, cause and lifetime.
func (l *lines) end(b []byte, e *event.Event) []byte {
	if e.Kind != event.Destroy {
		return append(b, "-\t-\t-"...)
	}
	switch {
	case e.Status&event.Assured != 0:
		b = append(b, 'A')
	case e.Status&event.SeenReply != 0:
		b = append(b, 'R')
	default:
		b = append(b, 'U')
	}
	b = append(b, '\t')
	switch e.Cause {
	case event.CauseUnknown:
		b = append(b, '-')
	case event.TCPRstUnreplied:
		b = append(b, "rst"...)
	default:
		b = append(b, e.Cause.String()...)
	}
	b = append(b, '\t')
	if !e.HasLifetime {
		return append(b, "-1"...)
	}
	return strconv.AppendInt(b, int64(e.Lifetime), 10)
}

func (l *lines) Close() error {
	if !l.begun {
		_, err := fmt.Fprintln(l.w, "# ctreplay v1: t_ns ev id proto src sport dst dport status cause life_ns opkts rpkts")
		return err
	}
	return nil
}
