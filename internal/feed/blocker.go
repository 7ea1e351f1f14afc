package feed

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ctsight/ctsight/internal/view"
)

// Modes of a Blocker.
const (
	Off = iota
	Dry // print what would be loaded
	On
)

// Blocker keeps our table of nftables as it should be, and removes it at the end: while
// nobody watches nobody is blocked.
type Blocker struct {
	// Want says what the table should have; it is called once a second.
	Want  func(now time.Time) (mode int, r *Ruleset)
	Print io.Writer // of a dry run
	Log   *slog.Logger

	table   *Table
	printed *Ruleset // the last dry run
	trouble string   // the last error
	errors  atomic.Uint64
	stats   atomic.Pointer[TableStats]
}

// every is how often the table is looked at.
const every = time.Second

// Run keeps it until ctx ends.
func (b *Blocker) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			b.say(b.off())
			return nil
		case <-tick.C:
			b.say(b.step(time.Now()))
		}
	}
}

// Stats is what the table has; its errors are attempts that failed.
func (b *Blocker) Stats() (s TableStats, failed uint64) {
	if p := b.stats.Load(); p != nil {
		s = *p
	}
	return s, b.errors.Load()
}

func (b *Blocker) step(now time.Time) error {
	mode, r := b.Want(now)
	switch mode {
	case On:
		b.printed = nil
		return b.on(r, now)
	case Dry:
		b.print(r, now)
	default:
		b.printed = nil
	}
	return b.off()
}

func (b *Blocker) on(r *Ruleset, now time.Time) error {
	if b.table == nil {
		t, err := NewTable(0)
		if err != nil {
			return err
		}
		b.table = t
	}
	before := b.table.Stats()
	healed, err := b.table.Sync(r, now)
	after := b.table.Stats()
	b.stats.Store(&after)
	if healed {
		b.Log.Warn("nftables: somebody has changed or removed table inet ctsight, it is loaded anew (feed.nft.enable: false and a reload end that)")
	}
	if (before.Elements == 0) != (after.Elements == 0) && err == nil {
		b.Log.Info("nftables: table inet ctsight", "blocked", after.Elements)
	}
	return err
}

// off removes the table and gives the lock back.
func (b *Blocker) off() error {
	if b.table == nil {
		return nil
	}
	if err := b.table.Remove(); err != nil {
		return err
	}
	stats := b.table.Stats()
	b.stats.Store(&stats)
	err := b.table.Close()
	b.table = nil
	return err
}

// print writes what would be loaded when it is something else than last time.
func (b *Blocker) print(r *Ruleset, now time.Time) {
	if p := b.printed; p != nil && sameShape(p, r) && slices.Equal(members(p, now), members(r, now)) {
		return
	}
	b.printed = r
	text := append([]byte("# ctsight dry run, "+millis(now)+"\n"), r.Text(now)...)
	if _, err := b.Print.Write(text); err != nil {
		b.Log.Warn("nftables: dry run", "answer", view.OneLine(err))
	}
}

func members(r *Ruleset, now time.Time) []string {
	var out []string
	for p := range maps.Keys(r.elements(now)) {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

// say tells of trouble when it is another than before.
func (b *Blocker) say(err error) {
	text := ""
	if err != nil {
		b.errors.Add(1)
		text = view.OneLine(err)
	}
	if text != b.trouble && text != "" {
		b.Log.Warn("nftables: the table cannot be kept, what it has ends with its lease", "answer", text)
	}
	if text == "" && b.trouble != "" {
		b.Log.Info("nftables: works again")
	}
	b.trouble = text
}
