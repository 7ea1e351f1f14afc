// Package tui is the live terminal view of top: the loop around
// view.TopScreen. It asks a Source for pictures, keeps what the user has chosen
// with keys, and leaves to view how all of it looks. It is the only package
// that knows bubbletea.
package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/sys/unix"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/view"
)

// Query is what the user wants to see.
type Query struct {
	By     agg.Dim
	Sort   agg.Column
	Rows   int    // at most; the rest is in Other
	Filter string // "" for all
}

// Source gives the pictures. One call at a time is made, never from the
// goroutine that draws, and what it returns is not changed any more. A filter
// that it refuses, such as one with a mistake in it, is an error.
type Source interface {
	Top(Query) (*agg.TopDoc, error)
	// Detail looks closely at a row of a Top by the same query.
	Detail(Query, agg.Key) (*view.Detail, error)
}

// Options say how the screen begins and looks.
type Options struct {
	Query
	Color bool
	ASCII bool // no block characters
	Names view.Names
	Every time.Duration // between pictures; default, and least, a quarter of a second
}

// fps is how often the screen is drawn, at most.
const fps = 4

// ErrNoTerminal says that there is nothing to draw on.
var ErrNoTerminal = errors.New("not a terminal: use --once or -o json")

// Terminal returns the terminal that out is. Without one, or where it cannot
// place a cursor as its type term says ("dumb"), it is ErrNoTerminal: bubbletea
// would write its sequences all the same.
func Terminal(out io.Writer, term string) (*os.File, error) {
	f, ok := out.(*os.File)
	if !ok || term == "" || term == "dumb" || !isTerminal(f) {
		return nil, ErrNoTerminal
	}
	return f, nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Run draws on a terminal until the user quits, the context ends, which are no
// errors, or the terminal is gone. Keys come from in, or if that is no terminal
// from the controlling one. No call to src is under way when it returns.
func Run(ctx context.Context, src Source, o Options, in, out *os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := newModel(src, o)
	defer m.gate.close()
	if !isTerminal(in) {
		tty, err := os.Open("/dev/tty")
		if err != nil {
			return ErrNoTerminal
		}
		defer tty.Close()
		in = tty
	}
	p := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(&terminal{out, cancel}),
		tea.WithFPS(fps), tea.WithoutSignalHandler())
	_, err := p.Run()
	var gone *goneError
	switch cause := context.Cause(ctx); {
	case errors.As(cause, &gone):
		return gone
	case cause != nil, errors.Is(err, tea.ErrInterrupted):
		return nil
	case err != nil:
		return fmt.Errorf("draw on the terminal: %w", err)
	}
	return nil
}

// terminal ends the program when nothing can be written any more: bubbletea
// would go on.
type terminal struct {
	*os.File
	cancel context.CancelCauseFunc
}

type goneError struct{ err error }

func (e *goneError) Error() string { return "write to the terminal: " + e.err.Error() }
func (e *goneError) Unwrap() error { return e.err }

func (t *terminal) Write(b []byte) (int, error) {
	n, err := t.File.Write(b)
	if err != nil {
		t.cancel(&goneError{err})
	}
	return n, err
}

// WriteString is Write: os.File's own would go past it.
func (t *terminal) WriteString(s string) (int, error) { return t.Write([]byte(s)) }
