package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/event"
	"github.com/ctsight/ctsight/internal/record"
	"github.com/ctsight/ctsight/internal/record/capture"
	"github.com/ctsight/ctsight/internal/record/export"
	"github.com/ctsight/ctsight/internal/view"
)

var exportForms = []string{"parquet", "jsonl", "ctr"}

type exportFlags struct {
	past
	to, out string
}

func newExport(g *globals) *cobra.Command {
	var x exportFlags
	cmd := &cobra.Command{
		Use:   "export FILE --to parquet|jsonl|ctr -o OUT [FILTER]",
		Short: "a recording for DuckDB, pandas, jq, or as text",
		Long: `What has happened in a capture, in a form of others: parquet, for DuckDB, pandas and
Spark; jsonl, the lines of trace -o json; ctr, the text that --from reads too, with inserts
and destroys only. It is read and written piece by piece, however large. OUT - is standard
output.`,
		Example: `  ctsight export night.ctsight --to parquet -o night.parquet
  duckdb -c "select src, count(*) n from 'night.parquet' where event = 'new' group by all order by n desc limit 10"
  ctsight export night.ctsight --to jsonl -o - 'drop' | jq -r .reason | sort | uniq -c`,
		RunE: func(cmd *cobra.Command, args []string) error { return x.run(cmd.Context(), g, args) },
	}
	f := cmd.Flags()
	x.within(f)
	f.StringVar(&x.to, "to", "", "the form: "+strings.Join(exportForms, ", "))
	f.StringVarP(&x.out, "output", "o", "", "the file, which must not be there yet; - is standard output")
	return cmd
}

func (x *exportFlags) check(args []string) error {
	switch {
	case len(args) == 0:
		return fmt.Errorf("%w: export which capture? ctsight export FILE --to parquet -o OUT", errUsage)
	case !slices.Contains(exportForms, x.to):
		return fmt.Errorf("%w: --to %q: one of %s", errUsage, x.to, strings.Join(exportForms, ", "))
	case x.out == "":
		return fmt.Errorf("%w: export needs -o OUT, - for standard output", errUsage)
	}
	return nil
}

func (x *exportFlags) run(ctx context.Context, g *globals, args []string) (err error) {
	if err := errors.Join(x.check(args), g.check()); err != nil {
		return err
	}
	in, err := g.openPart(&x.past, args[0], args[1:])
	if err != nil {
		return err
	}
	to := g.stdout
	if x.out != record.Stdin {
		f, err := capture.Fresh(x.out)
		if err != nil {
			in.Close()
			return err
		}
		defer func() {
			if err = errors.Join(err, f.Close()); err != nil {
				_ = os.Remove(x.out) // half a file is none
			}
		}()
		to = f
	}
	buf := bufio.NewWriterSize(to, 1<<16)
	w := x.writer(buf, in.Clock())
	n := uint64(0)
	err = in.Events(ctx, func(e *event.Event) error {
		if !in.filter.Match(e) {
			return nil
		}
		n++
		return w.Write(e)
	})
	if err == nil && ctx.Err() != nil {
		err = errors.New("interrupted: nothing was written")
	}
	if err = errors.Join(err, w.Close(), buf.Flush()); err != nil {
		return err
	}
	g.lacks(args[0], in)
	g.logger().Info("exported", "capture", args[0], "events", n-w.LeftOut(), "left out", w.LeftOut())
	return nil
}

func (x *exportFlags) writer(w io.Writer, clock event.Clock) export.Writer {
	switch x.to {
	case "parquet":
		return export.NewParquet(w, clock)
	case "ctr":
		return export.NewText(w, clock)
	}
	return jsonLines{view.NewEventWriter(w, view.EventOptions{JSON: true, Clock: clock})}
}

// jsonLines are those of trace -o json.
type jsonLines struct{ *view.EventWriter }

func (jsonLines) Close() error    { return nil }
func (jsonLines) LeftOut() uint64 { return 0 }
