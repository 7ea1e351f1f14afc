package main

import (
	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/view"
)

// newReasons makes `ctsight help reasons` print the closed lists: help finds
// commands by name, and this one's help is its output.
func newReasons(g *globals) *cobra.Command {
	print := func() error {
		if err := g.check(); err != nil {
			return err
		}
		if g.json() {
			return view.WriteReasonsJSON(g.stdout)
		}
		return view.WriteReasonsText(g.stdout, g.color())
	}
	cmd := &cobra.Command{
		Use:   "reasons",
		Short: "every reason and cause: what the kernel did, its counter, what to do",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return print() },
	}
	cmd.SetHelpFunc(func(*cobra.Command, []string) { _ = print() })
	return cmd
}
