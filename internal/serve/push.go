package serve

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"

	dto "github.com/prometheus/client_model/go"

	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/remotewrite"
)

// newRemote returns remote write with the receivers of the configuration.
func (s *server) newRemote(c *config.Config) (*remotewrite.Sender, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("remote write: name of this host: %w", err)
	}
	r := remotewrite.New(remotewrite.Options{Gather: s.scrape, Instance: host, Version: s.o.Version, Log: s.log})
	change, err := r.Hook(context.Background(), nil, c)
	if err != nil {
		return nil, err
	}
	change.Commit()
	return r, nil
}

// scrape is what a receiver of remote write gets: the same as who scrapes, with
// peaks of its own. What is no host and port is no other client.
func (s *server) scrape(receiver string) ([]*dto.MetricFamily, error) {
	return s.scrapes.Gather(&http.Request{RemoteAddr: "remote write to " + url.QueryEscape(receiver)})
}

// push writes to remote receivers once there is something to tell.
func (s *server) push(ctx context.Context) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
	}
	return s.remote.Run(ctx)
}
