package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/feed"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/serve"
)

func newServe(g *globals) *cobra.Command {
	var file string
	d := config.Default()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "the sidecar: Prometheus metrics, live page, JSON API, remote write, feeds, flight recorder",
		Long: `Trace for as long as it runs and serve what is known: metrics for Prometheus
at /metrics, a live page at /, JSON at /api/v1/, findings to feeds. It needs no file. With one,
SIGHUP or POST /-/reload reads it again; a file with a mistake changes nothing.
Once it traces, it gives up the privileges that it needs no more.`,
		Example: `  ctsight serve
  ctsight serve --web.listen-address 127.0.0.1:9781 --metrics.top-prefixes 10
  ctsight serve --config.file /etc/ctsight/ctsight.yml`,
		Args:        noArgs,
		Annotations: map[string]string{reloads: "SIGHUP"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.serve(cmd.Context(), file, config.Given(cmd.Flags()))
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "config.file", "", "YAML file with all that can be set, see docs/serve.md (default none)")
	f.StringSlice("web.listen-address", d.Web.Listen, "host:port or unix:/path to listen on, may be repeated")
	f.String("web.config.file", "", "file of exporter-toolkit with TLS and passwords (default none)")
	f.String("web.telemetry-path", d.Web.TelemetryPath, "path of the metrics")
	f.Int("metrics.top-prefixes", d.Metrics.TopPrefixes, "series of their own for so many source prefixes, which makes addresses labels")
	f.String("feed", "", "append findings to this file, - for standard output (default none)")
	f.String("feed-format", d.Feed.Format, "how: "+strings.Join(feed.Formats, ", "))
	f.Bool("feed-nft", false, "block the sources of confirmed attacks in a table of nftables of our own")
	f.String("flight.dir", "", "record what is traced to a ring of files in this directory, and keep what was around findings (default none)")
	f.StringArray("remote-write.url", nil, "receiver of Prometheus remote write, may be repeated; how to log in is for the file (default none)")
	return cmd
}

// serve joins file and flags; flags win.
func (g *globals) serve(ctx context.Context, file string, flags config.Lookup) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	load := func() (*config.Config, error) {
		c := config.Default()
		if file != "" {
			var err error
			if c, err = config.Load(file); err != nil {
				return nil, err
			}
		}
		return c.Override(flags)
	}
	c, err := load()
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	g.configure(c)
	flt, err := g.filter(nil)
	if err != nil {
		return err
	}
	saveMemory()
	return serve.Run(ctx, serve.Options{
		Load: load, ConfigFile: file, Filter: flt, Names: g.names().view(), Version: version(),
		Log: g.logger(), Level: &g.verbosity, Hangup: hangup,
		Attached: func(p *pipeline.Pipeline) { g.tell(p, false) },
	})
}

// configure takes what commands share from a configuration.
func (g *globals) configure(c *config.Config) {
	g.backend, g.netns, g.criSocket = c.Backend, c.NetNS, c.CRI.Socket
	g.logLevel, g.logFormat = c.Log.Level, c.Log.Format
}
