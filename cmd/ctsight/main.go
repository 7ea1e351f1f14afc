// Command ctsight traces the Linux connection tracking table: every new
// connection, every destroy with its cause, every lost packet with its reason,
// and a ledger that is checked against the kernel's own counters.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/ctnl"
	"github.com/ctsight/ctsight/internal/filter"
	"github.com/ctsight/ctsight/internal/probe"
	"github.com/ctsight/ctsight/internal/view"
)

// Exit codes of the contract.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitCannot = 3 // not possible on this kernel or without this privilege
)

// errUsage marks mistakes of the command line.
var errUsage = errors.New("usage")

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without the process around it.
func run(args []string, stdout, stderr io.Writer) int {
	// A closed pipe is an error to return from, with everything detached, and
	// not a signal to die of.
	signal.Ignore(syscall.SIGPIPE)
	cmd := newRoot(stdout, stderr)
	cmd.SetArgs(args)
	ctx, stop := signal.NotifyContext(context.Background(), ends(cmd, args)...)
	defer stop()
	err := cmd.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		fmt.Fprintf(stderr, "ctsight: %s\n", oneLine(err))
	}
	return exitCode(err)
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	g := &globals{stdout: stdout, stderr: stderr}
	root := &cobra.Command{
		Use:           "ctsight",
		Short:         "trace the Linux connection tracking table",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetVersionTemplate("ctsight {{.Version}}\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	g.flags(root.PersistentFlags())
	root.SetHelpCommand(newHelp(root))
	root.AddCommand(newTrace(g), newTop(g), newTriage(g), newDrops(g), newDetect(g), newExplain(g), newPlan(g), newRecord(g), newExport(g), newDoctor(g), newServe(g), newReport(g), newDemo(g), newReasons(g))
	root.AddCommand(newRelief(g))
	return root
}

// reloads marks commands for which SIGHUP is not the end.
const reloads = "reloads"

// ends are the signals that end the command chosen by args.
func ends(root *cobra.Command, args []string) []os.Signal {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if cmd, _, err := root.Find(args); err != nil || cmd.Annotations[reloads] == "" {
		signals = append(signals, syscall.SIGHUP)
	}
	return signals
}

// noArgs is cobra.NoArgs with our exit code.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasParent() {
		return fmt.Errorf("%w: unknown command %q, see ctsight help", errUsage, args[0])
	}
	return fmt.Errorf("%w: %s takes no arguments, got %q", errUsage, cmd.CommandPath(), args[0])
}

// newHelp is cobra's help command, except that an unknown topic is an error.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "help about a command; `help reasons` explains every reason and cause",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return fmt.Errorf("%w: no help on %q, see ctsight help", errUsage, strings.Join(args, " "))
			}
			return cmd.Help()
		},
	}
}

// exitCode maps an error to the contract's codes.
func exitCode(err error) int {
	var syntax *filter.SyntaxError
	switch {
	case err == nil, errors.Is(err, syscall.EPIPE):
		return exitDone
	case errors.Is(err, errUsage), errors.As(err, &syntax):
		return exitUsage
	case errors.Is(err, probe.ErrNotPossible), errors.Is(err, probe.ErrNotLoaded), errors.Is(err, ctnl.ErrPermission),
		errors.Is(err, ctnl.ErrNotLoaded), errors.Is(err, os.ErrPermission):
		return exitCannot
	}
	return exitFailed
}

// oneLine is an error as one line.
func oneLine(err error) string { return strings.TrimPrefix(view.OneLine(err), "usage: ") }
