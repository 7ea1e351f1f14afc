package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/relief"
	"github.com/ctsight/ctsight/internal/view"
)

type reliefFlags struct {
	dir    string
	limit  time.Duration
	reason string
	share  string
	force  bool
	yes    bool
	all    bool
}

func newRelief(g *globals) *cobra.Command {
	var r reliefFlags
	cmd := &cobra.Command{
		Use:   "relief",
		Short: "temporary changes of conntrack's sysctls, which go back by themselves",
		Long: `Raise a limit or shorten a timeout for a while, without forgetting it. What was
found is in a journal before anything is changed, and goes back when the time is over:
by systemd, by a running ctsight serve, or at the next start of either. Where somebody
else has written meanwhile, theirs stays.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&r.dir, "dir", config.Default().Relief.Dir, "directory of the journal")
	cmd.AddCommand(r.newSet(g), r.newList(g), r.newRevert(g), r.newExpire(g))
	return cmd
}

func (r *reliefFlags) newSet(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set SYSCTL=VALUE...",
		Short: "change sysctls for a while",
		Long: `Change sysctls for a while. Without --yes it says what it would do and does nothing.
nf_conntrack_max and nf_conntrack_buckets are only ever raised; they are one for all
namespaces and are set on the host. Timeouts are of a namespace, and in seconds.`,
		Example: `  ctsight relief set nf_conntrack_max=524288 --for 2h --reason INC-42
  ctsight relief set udp_timeout=10 --netns router --for 30m --reason INC-42 --yes`,
		RunE: func(cmd *cobra.Command, args []string) error { return asUsage(r.set(cmd.Context(), g, args)) },
	}
	f := cmd.Flags()
	f.DurationVar(&r.limit, "for", 0, "how long it holds, as 30m or 2h (required)")
	f.StringVar(&r.reason, "reason", "", "why, as a ticket (required)")
	f.StringVar(&r.share, "share", "25%", "how much of all memory a full table may take")
	f.BoolVar(&r.force, "force", false, "more memory than that")
	f.BoolVar(&r.yes, "yes", false, "do it, without it nothing is changed")
	return cmd
}

func (r *reliefFlags) newList(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "changes that are open, and those closed within a day",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return r.list(g) },
	}
	cmd.Flags().BoolVar(&r.all, "all", false, "also those closed before")
	return cmd
}

func (r *reliefFlags) newRevert(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "revert [ID|SYSCTL...]",
		Short: "take changes back now, also where the table has more entries than fit then",
		Example: `  ctsight relief revert 3f9c12ab
  ctsight relief revert udp_timeout --netns router
  ctsight relief revert --all`,
		RunE: func(_ *cobra.Command, args []string) error {
			if r.all == (len(args) > 0) {
				return fmt.Errorf("%w: relief revert: the ids (ctsight relief list) or sysctls, or --all", errUsage)
			}
			if r.all {
				args = nil
			}
			in := event.NetNS(0)
			if g.netns != "" {
				ns, err := g.oneNetNS()
				if err != nil {
					return err
				}
				in = ns.Inode
			}
			return asUsage(r.close(g, func(b *relief.Book) ([]*relief.Change, error) { return b.Revert(args, in) }))
		},
	}
	cmd.Flags().BoolVar(&r.all, "all", false, "all that are open")
	return cmd
}

func (r *reliefFlags) newExpire(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "expire",
		Short: "take back what is over; for timers and cron",
		Long: `Take back what is over, and nothing else. Exit code 1 while something that is over
cannot go back, as with more entries than would fit: come again.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return r.close(g, (*relief.Book).Expire) },
	}
}

// asUsage gives what was asked for in the wrong way the exit code for that.
func asUsage(err error) error {
	if errors.Is(err, relief.ErrUsage) {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return err
}

func (r *reliefFlags) book() (*relief.Book, error) {
	h, err := relief.ThisHost()
	return &relief.Book{Disk: relief.Dir(r.dir), Kernel: relief.Proc{Sees: relief.SeesAll()}, Host: h, Jitter: relief.Jitter}, err
}

func (r *reliefFlags) set(ctx context.Context, g *globals, args []string) error {
	if err := g.check(); err != nil {
		return err
	}
	b, err := r.book()
	if err != nil {
		return err
	}
	req, err := r.request(g, args)
	if err != nil {
		return err
	}
	s := view.ReliefSet{DryRun: !r.yes, For: r.limit, Ends: "then systemd takes it back, or ctsight serve, or ctsight relief expire"}
	var plan *relief.Plan
	if r.yes {
		b.Arm = func(id string, after time.Duration) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return relief.Timer(ctx, id, after, self, "relief", "expire", "--dir", r.dir)
		}
		plan, err = b.Set(*req)
	} else {
		if plan, err = b.Plan(*req); err == nil && plan.TooMuch != "" && !r.force {
			err = fmt.Errorf("%w: %s; --force does it all the same", relief.ErrTooMuch, plan.TooMuch)
		}
	}
	if plan == nil || err != nil && !errors.Is(err, relief.ErrTooMuch) {
		return err
	}
	if plan.Warning != "" {
		s.Warning = plan.Warning + ": only a running ctsight serve takes it back, or ctsight relief expire (cron)"
		s.Ends = "ctsight serve takes it back, or ctsight relief expire"
	}
	s.DryRun, s.TooMuch = s.DryRun || err != nil, plan.TooMuch
	if werr := g.writeRelief(told(plan, req, &s)); werr != nil {
		return werr
	}
	if s.Warning != "" {
		g.logger().Warn(s.Warning)
	}
	return err
}

// request is what the command line asks for.
func (r *reliefFlags) request(g *globals, args []string) (*relief.Request, error) {
	req := &relief.Request{For: r.limit, Reason: r.reason, Who: whoami(), Force: r.force}
	for _, a := range args {
		ask, err := relief.ParseAsk(a)
		if err != nil {
			return nil, err
		}
		req.Asks = append(req.Asks, ask)
	}
	var err error
	if req.Share, err = percentage(r.share); err != nil {
		return nil, err
	}
	ns, err := g.oneNetNS()
	if err != nil {
		return nil, err
	}
	if req.Place, err = relief.PlaceOf(ns); err != nil {
		return nil, err
	}
	req.Memory, err = relief.ReadMemory(pipeline.EntrySize())
	return req, err
}

// oneNetNS is that of --netns, else our own. It finds those too that nothing but a
// descriptor holds.
func (g *globals) oneNetNS() (ctnl.NS, error) {
	all, err := ctnl.ListAllNetNS()
	if err != nil {
		return ctnl.NS{}, err
	}
	if g.netns == "" {
		return all[0], nil
	}
	is := func(n ctnl.NS) bool { return n.Name == g.netns || n.Inode.String() == g.netns }
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i], nil
	}
	inode, err := g.resolveNetNS(g.netns)
	if err != nil {
		return ctnl.NS{}, err
	}
	i := slices.IndexFunc(all, func(n ctnl.NS) bool { return n.Inode == inode })
	if i < 0 {
		return ctnl.NS{}, fmt.Errorf("%w: --netns %q has just gone", errUsage, g.netns)
	}
	return all[i], nil
}

func percentage(s string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || math.IsNaN(v) || !strings.HasSuffix(s, "%") {
		return 0, fmt.Errorf("%w: --share %q: a percentage, as 25%%", errUsage, s)
	}
	return v / 100, nil
}

// noLogin is the login uid of what nobody logged in for.
const noLogin = "4294967295"

// whoami is the user, and who that was before sudo.
func whoami() relief.Who {
	w := relief.Who{UID: os.Getuid(), PID: os.Getpid()}
	id := strconv.Itoa(w.UID)
	if b, err := os.ReadFile("/proc/self/loginuid"); err == nil && strings.TrimSpace(string(b)) != noLogin {
		id = strings.TrimSpace(string(b))
	}
	if u, err := user.LookupId(id); err == nil {
		w.Login = u.Username
	}
	return w
}

// told is a plan as it is shown.
func told(p *relief.Plan, req *relief.Request, s *view.ReliefSet) *view.ReliefDoc {
	d := &view.ReliefDoc{At: time.Now().UTC(), Set: s}
	if m := p.RAM; m != nil {
		s.Memory = &view.ReliefMemory{Before: m.Before, After: m.After, Total: m.Total, Available: m.Available, Entry: m.Entry,
			MaxBefore: m.MaxBefore, MaxAfter: m.MaxAfter, BucketsBefore: m.BucketsBefore, BucketsAfter: m.BucketsAt}
	}
	for i := range p.Steps {
		step := &p.Steps[i]
		s.Entries = max(s.Entries, step.Entries)
		c := agg.Relief{ID: step.ID, Open: !s.DryRun, Sysctl: step.Sysctl, NetNS: step.Place.NetNS, NetNSName: step.Place.Name,
			Found: step.Found, Set: step.Value, Present: &step.Present, Reason: req.Reason, Who: req.Who.String(), Expires: p.Expires}
		if !s.DryRun {
			c.State, c.At, c.Present = string(relief.Applied), d.At, &step.Value
		}
		if a := step.Again; a != nil {
			c.Notes = append(c.Notes, agg.ReliefNote{At: d.At, Text: fmt.Sprintf("%s is open already, %d until %s (%s): it is made anew, and %d stays what comes back",
				a.ID, a.Set, a.Expires.Format(time.RFC3339), a.Reason, a.Found)})
		}
		d.Changes = append(d.Changes, c)
	}
	return d
}

// recent is how long what was closed is listed.
const recent = 24 * time.Hour

func (r *reliefFlags) list(g *globals) error {
	if err := g.check(); err != nil {
		return err
	}
	b, err := r.book()
	if err != nil {
		return err
	}
	all, err := b.List()
	now := time.Now().UTC()
	all = slices.DeleteFunc(all, func(c agg.Relief) bool { return !r.all && !c.Open && now.Sub(c.Closed) > recent })
	return errors.Join(g.writeRelief(&view.ReliefDoc{At: now, Changes: all}), err)
}

// close takes changes back and tells of them; an error is of those that stay.
func (r *reliefFlags) close(g *globals, do func(*relief.Book) ([]*relief.Change, error)) error {
	if err := g.check(); err != nil {
		return err
	}
	b, err := r.book()
	if err != nil {
		return err
	}
	closed, err := do(b)
	if errors.Is(err, relief.ErrUsage) && len(closed) == 0 {
		return err
	}
	d := &view.ReliefDoc{At: time.Now().UTC()}
	for _, c := range closed {
		d.Changes = append(d.Changes, b.Tell(c))
	}
	return errors.Join(g.writeRelief(d), err)
}

func (g *globals) writeRelief(d *view.ReliefDoc) error {
	if g.json() {
		return view.WriteReliefJSON(g.stdout, d, g.names().view())
	}
	return view.WriteReliefText(g.stdout, d, g.names().view(), g.color())
}
