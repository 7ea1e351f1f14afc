package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/view"
)

const (
	ackTimeout    = 5 * time.Second // of a stream that says nothing
	reconnectWait = 2 * time.Second
)

// NATS publishes tellings into a JetStream, each to SUBJECT.CLASS. The stream belongs to
// the operator: it is neither made nor changed. A telling that arrives twice, since its
// first answer was lost, has the same id and is dropped by the server.
type NATS struct {
	cfg    config.NATS
	format Format
	host   string
	js     jetstream.JetStream
	nc     *nats.Conn
	buf    []byte
}

// NewNATS returns a sink that connects in the background, and again whenever it has to.
// A file that it cannot read is an error now.
func NewNATS(c config.NATS, format Format, host string, log *slog.Logger) (*NATS, error) {
	s := &NATS{cfg: c, format: format, host: host}
	o, err := s.options(log)
	if err != nil {
		return nil, fmt.Errorf("feed: nats: %w", err)
	}
	if s.nc, err = nats.Connect(c.URL, o...); err != nil {
		return nil, fmt.Errorf("feed: nats: %w", err)
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return nil, errors.Join(fmt.Errorf("feed: nats: %w", err), s.Close())
	}
	return s, nil
}

// options do without the library's own buffer: ours has a bound and an account.
func (s *NATS) options(log *slog.Logger) ([]nats.Option, error) {
	o := []nats.Option{
		nats.Name("ctsight on " + s.host), nats.Timeout(2 * time.Second), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait/2, reconnectWait/2), nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(),    // a password may be mended
		nats.IgnoreDiscoveredServers(), // a sandbox knows the ports that were written
		nats.NoCallbacksAfterClientClose(),
		nats.ConnectHandler(func(*nats.Conn) { log.Info("feed: nats: connected") }),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("feed: nats: connected again") }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("feed: nats: the connection has ended", "answer", view.OneLine(err))
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("feed: nats", "answer", view.OneLine(err))
		}),
	}
	for _, f := range []string{s.cfg.CredentialsFile, s.cfg.BasicAuth.PasswordFile, s.cfg.TLS.CAFile} {
		if f == "" {
			continue
		}
		if _, err := os.ReadFile(f); err != nil {
			return nil, err
		}
	}
	if f := s.cfg.CredentialsFile; f != "" {
		o = append(o, nats.UserCredentials(f))
	}
	if b := s.cfg.BasicAuth; b.Username != "" {
		o = append(o, nats.UserInfoHandler(func() (string, string) {
			text, err := os.ReadFile(b.PasswordFile) // it may have changed
			if err != nil {
				log.Warn("feed: nats", "answer", view.OneLine(err))
			}
			return b.Username, strings.TrimRight(string(text), "\r\n")
		}))
	}
	if f := s.cfg.TLS.CAFile; f != "" {
		o = append(o, nats.RootCAs(f))
	}
	if s.cfg.TLS.InsecureSkipVerify {
		o = append(o, insecure)
	}
	return o, nil
}

// insecure is a server that nobody verifies: the configuration allows it only where no
// secret goes there.
func insecure(o *nats.Options) error {
	if err := nats.Secure()(o); err != nil {
		return err
	}
	o.TLSConfig.InsecureSkipVerify = true
	return nil
}

// Write publishes one telling and waits until the stream has it.
func (s *NATS) Write(ctx context.Context, t Telling) error {
	var err error
	if s.buf, err = s.format(s.buf[:0], t); err != nil {
		return Lost{err}
	}
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	m := nats.NewMsg(s.cfg.Subject + "." + token(t.Class))
	m.Data = s.buf
	m.Header.Set("Ctsight-Host", token(s.host))
	if _, err = s.js.PublishMsg(ctx, m, jetstream.WithMsgID(s.id(t)), jetstream.WithRetryAttempts(0)); err != nil {
		err = fmt.Errorf("feed: nats: %w", err)
		if errors.Is(err, nats.ErrMaxPayload) {
			return Lost{err}
		}
	}
	return err
}

// id is the same for the same telling: the finding, which of its tellings, and since
// streams gather from many hosts, the host. The time counts tellings; two at a time differ in their state.
func (s *NATS) id(t Telling) string {
	return strings.Join([]string{token(s.host), token(t.ID), strconv.FormatInt(t.Time.UnixNano(), 10), token(t.State)}, "/")
}

// token is a part of a subject or a header, whatever it is made of.
func token(s string) string {
	return cmp.Or(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, s), "_")
}

// Close closes the connection.
func (s *NATS) Close() error {
	s.nc.Close()
	return nil
}
