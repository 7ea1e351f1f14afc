package serve

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ctsight/ctsight/internal/agg"
	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/page"
	"github.com/ctsight/ctsight/internal/pipeline"
	"github.com/ctsight/ctsight/internal/web"
)

// source is what the web server shows.
type source struct {
	*pipeline.Keeper
	*server
}

// Status implements web.Source.
func (s source) Status() *agg.Status {
	status := s.Keeper.Status()
	status.Reliefs = s.reliefs.now()
	return status
}

// Top implements web.Source.
func (s source) Top(by agg.Dim, c agg.Column, n int) (*agg.TopDoc, error) {
	if !slices.Contains(dims, by) {
		var kept []string
		for _, d := range dims {
			kept = append(kept, d.String())
		}
		return nil, web.RequestError(fmt.Sprintf("serve keeps no rows by %s, only by %s: use ctsight top", by, strings.Join(kept, ", ")))
	}
	return s.Keeper.Top(by, c, n)
}

func (s *server) newWeb(c *config.Config) (*web.Server, error) {
	src := source{s.keeper, s}
	return web.New(web.Options{
		Listen: c.Web.Listen, ConfigFile: c.Web.ConfigFile, TelemetryPath: c.Web.TelemetryPath,
		MaxConnections: c.Web.MaxConnections, EnableReload: c.Web.EnableReload,
		Metrics: s.scrapes,
		Source:  src, Names: s.o.Names, Log: s.log,
		Page:   page.New(page.Options{Names: s.o.Names, Version: s.o.Version, Metrics: c.Web.TelemetryPath}).Write,
		Assets: assets(), Blocklist: s.blocklist(),
	})
}

// assets are what the page refers to.
func assets() map[string]web.Asset {
	out := map[string]web.Asset{}
	for _, f := range page.Files() {
		out[f.Path] = web.Asset{Type: f.Type, Bytes: f.Body}
	}
	return out
}
