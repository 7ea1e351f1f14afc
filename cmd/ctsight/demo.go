package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/demo"
	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/view"
)

// envVM is set in the lab's virtual machines, where a limit may be changed:
// nobody else is there.
const envVM = "CTSIGHT_VM"

// vmLimit is the nf_conntrack_max of a demo in such a machine.
const vmLimit = 1000

type demoFlags struct {
	page  string
	limit int
}

func newDemo(g *globals) *cobra.Command {
	var d demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "a burst, a scan and a full table in namespaces of its own, traced and explained",
		Long: `Demo builds a client, a router and a server in network namespaces of its own
and plays: ordinary traffic, a burst, a port scan, a table driven full, and the
ledger with its balance against the kernel. It takes about half a minute,
changes nothing outside of its namespaces and removes them at the end.

The table is filled up to the machine's own limit (nf_conntrack_max, compared
with each namespace by itself) if that is at most 300000. --max sets another
limit while the demo runs: it then holds for the whole machine, and is put back
at the end, also after Ctrl-C, but not after kill -9.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context(), g) },
	}
	f := cmd.Flags()
	f.StringVar(&d.page, "html", "ctsight-demo.html", `write a page with pictures to this file ("" for none)`)
	f.IntVar(&d.limit, "max", 0, "set nf_conntrack_max, for all namespaces, while the demo runs")
	return cmd
}

func (d *demoFlags) run(ctx context.Context, g *globals) error {
	if err := g.check(); err != nil {
		return err
	}
	if d.limit != 0 && (d.limit < demo.MinFill || d.limit > demo.MaxFill) {
		return fmt.Errorf("%w: --max %d: from %d to %d", errUsage, d.limit, demo.MinFill, demo.MaxFill)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: the demo makes network namespaces and traces the kernel: run it as root (sudo ctsight demo)", os.ErrPermission)
	}
	if d.limit == 0 && os.Getenv(envVM) != "" {
		d.limit = vmLimit
	}
	page, err := newPage("--html", d.page)
	if err != nil {
		return err
	}
	defer page.discard()
	data, err := d.play(ctx, g)
	if err != nil {
		return err
	}
	if err := page.write(data.WritePage); err != nil {
		return err
	}
	if g.json() {
		return view.WriteLedgerJSON(g.stdout, data.Doc, view.LedgerOptions{})
	}
	return demo.Next(g.stdout, g.color(), d.page)
}

// play runs the demo; with -o json its story is not told.
func (d *demoFlags) play(ctx context.Context, g *globals) (*demo.Data, error) {
	clock, err := pipeline.NewClock()
	if err != nil {
		return nil, err
	}
	o := demo.Options{Out: g.stdout, Color: g.color(), Kernel: unameRM(), Clock: clock, Max: d.limit}
	if g.json() {
		o.Out, o.Color = io.Discard, false
	}
	o.Open = func(ctx context.Context, ns event.NetNS) (demo.Tracer, error) {
		f, err := filter.Parse("netns "+ns.String(), filter.Options{})
		if err != nil {
			return nil, err
		}
		p, err := g.open(ctx, pipeline.Config{Filter: f})
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return demo.Run(ctx, o)
}

// page is a file that appears under its name when it is complete.
type page struct {
	name string // "": none is wanted
	tmp  *os.File
}

// newPage makes sure beforehand that the file of a flag can be written.
func newPage(flag, name string) (*page, error) {
	p := &page{name: name}
	if name == "" {
		return p, nil
	}
	var err error
	if p.tmp, err = os.CreateTemp(filepath.Dir(name), ".ctsight-page-"); err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return p, nil
}

func (p *page) write(fn func(io.Writer) error) error {
	if p.tmp == nil {
		return nil
	}
	if err := fn(p.tmp); err != nil {
		return fmt.Errorf("write %s: %w", p.name, err)
	}
	if err := p.tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := p.tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(p.tmp.Name(), p.name); err != nil {
		return err
	}
	p.tmp = nil
	return nil
}

// discard removes what has not become the page.
func (p *page) discard() {
	if p.tmp != nil {
		p.tmp.Close()
		os.Remove(p.tmp.Name())
	}
}
