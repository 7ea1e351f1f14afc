package feed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ctsight/ctsight/internal/config"
)

// natsServer is a real one, in here. port -1 is any.
func natsServer(t *testing.T, dir string, port int) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
		Username: "ctsight", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	return s
}

// stream is one of the operator, and who reads it.
func stream(t *testing.T, url string) (jetstream.Stream, *nats.Conn) {
	t.Helper()
	nc, err := nats.Connect(url, nats.UserInfo("ctsight", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateOrUpdateStream(context.Background(), jetstream.StreamConfig{Name: "CTSIGHT", Subjects: []string{"ctsight.findings.>"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return s, nc
}

func natsSink(t *testing.T, url string, log *slog.Logger) *NATS {
	t.Helper()
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	form, _ := NewFormat("json", Options{})
	s, err := NewNATS(config.NATS{URL: url, Subject: "ctsight.findings", BasicAuth: config.BasicAuth{Username: "ctsight", PasswordFile: password}}, form, "gw 1", log)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// got are the ids of findings in a stream, in its order, and their subjects.
func got(t *testing.T, s jetstream.Stream) (ids, subjects []string) {
	t.Helper()
	info, err := s.Info(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for n := info.State.FirstSeq; n <= info.State.LastSeq && n > 0; n++ {
		m, err := s.GetMsg(context.Background(), n)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct{ ID string }
		if err := json.Unmarshal(m.Data, &doc); err != nil {
			t.Fatalf("%v: %s", err, m.Data)
		}
		ids, subjects = append(ids, doc.ID), append(subjects, m.Subject)
	}
	return ids, subjects
}

// What is told arrives once, however often it is sent, and under the subject of its class.
func TestNATS(t *testing.T) {
	srv := natsServer(t, t.TempDir(), -1)
	s, _ := stream(t, srv.ClientURL())
	sink := natsSink(t, srv.ClientURL(), slog.New(slog.DiscardHandler))
	o := quick(sink, nil)
	stop := run(t, o)
	a, b := telling("a"), telling("b")
	b.Class = "table filling.>\r\n*"
	again := telling("a")
	again.Time = again.Time.Add(1)
	confirmed := telling("a")
	confirmed.State = "suspect"
	for i, tell := range []Telling{a, b, a, again, confirmed, a} {
		o.Tell(tell)
		until(t, func() bool { return o.Account().Written == uint64(i+1) })
	}
	stop()
	ids, subjects := got(t, s)
	if fmt.Sprint(ids) != "[a b a a]" || subjects[0] != "ctsight.findings.scan" || subjects[1] != "ctsight.findings.table_filling_____" {
		t.Error(ids, subjects)
	}
}

// The server is away at the start, ends in between, and comes back: everything arrives,
// once, and whoever tells is not held up.
func TestNATSComesAndGoes(t *testing.T) {
	dir := t.TempDir()
	first := natsServer(t, dir, -1)
	url := first.ClientURL()
	_, port, _ := strings.Cut(strings.TrimPrefix(url, "nats://"), ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(url, err)
	}
	st, nc := stream(t, url)
	_ = st
	nc.Close()
	first.Shutdown()
	first.WaitForShutdown()

	var log syncBuffer
	sink := natsSink(t, url, slog.New(slog.NewTextHandler(&log, nil)))
	o := quick(sink, slog.New(slog.NewTextHandler(&log, nil)))
	o.limits.queue = 1000
	stop := run(t, o)
	tell := func(from, to int) {
		for i := from; i < to; i++ {
			o.Tell(telling(fmt.Sprint(i)))
		}
	}
	tell(0, 50)
	until(t, func() bool { return o.Account().Errors > 0 })
	second := natsServer(t, dir, n)
	until(t, func() bool { return o.Account().Written == 50 })
	second.Shutdown()
	second.WaitForShutdown()
	tell(50, 100)
	third := natsServer(t, dir, n)
	until(t, func() bool { return o.Account().Written == 100 })
	stop()
	s, _ := stream(t, third.ClientURL())
	ids, _ := got(t, s)
	for i, id := range ids {
		if id != fmt.Sprint(i) {
			t.Fatalf("%d is %s", i, id)
		}
	}
	if a := o.Account(); len(ids) != 100 || a.Dropped+a.Failed != 0 {
		t.Errorf("%d arrived, %+v", len(ids), a)
	}
	if strings.Contains(log.String(), "secret") {
		t.Error("the password is in the log")
	}
}

// Without a stream for the subject nothing is lost: it waits for the operator.
func TestNATSWithoutStream(t *testing.T) {
	srv := natsServer(t, t.TempDir(), -1)
	o := quick(natsSink(t, srv.ClientURL(), slog.New(slog.DiscardHandler)), nil)
	run(t, o)
	o.Tell(telling("a"))
	until(t, func() bool { return o.Account().Errors > 1 })
	s, _ := stream(t, srv.ClientURL())
	until(t, func() bool { return o.Account().Written == 1 })
	if ids, _ := got(t, s); len(ids) != 1 {
		t.Error(ids)
	}
}

func TestNATSRefuses(t *testing.T) {
	form, _ := NewFormat("json", Options{})
	for _, c := range []config.NATS{{URL: "nats://127.0.0.1:1", CredentialsFile: "/absent"}, {URL: "tls://127.0.0.1:1", TLS: config.TLS{CAFile: "/absent"}}} {
		if s, err := NewNATS(c, form, "h", slog.New(slog.DiscardHandler)); err == nil {
			s.Close()
			t.Errorf("%+v was taken", c)
		}
	}
}

// syncBuffer is for a log that several write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }
