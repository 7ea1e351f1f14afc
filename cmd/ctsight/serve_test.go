package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/sandbox"
)

// eventually waits for what takes long on an emulated machine.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o600))
}

// What is wrong is one line that says where, and nothing runs.
func TestServeMistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yml")
	write(t, file, "web:\n  listen: [\":9781\"]\n  lisen: x\n")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	for _, c := range []struct {
		args  []string
		code  int
		words []string
	}{
		{[]string{"--config.file", file}, exitUsage, []string{"c.yml:3:3", "lisen"}},
		{[]string{"--config.file", filepath.Join(dir, "none.yml")}, exitUsage, []string{"none.yml", "no such file"}},
		{[]string{"--metrics.top-prefixes", "1000"}, exitUsage, []string{"--metrics.top-prefixes", "100"}},
		{[]string{"--web.listen-address", "9781"}, exitUsage, []string{"--web.listen-address", "host:port"}},
		{[]string{"--remote-write.url", "ftp://x"}, exitUsage, []string{"--remote-write.url"}},
		{[]string{"--web.listen-address", taken.Addr().String()}, exitFailed, []string{taken.Addr().String(), "in use"}},
		{[]string{"--web.config.file", filepath.Join(dir, "web.yml")}, exitFailed, []string{"web.yml"}},
		{[]string{"--netns", "nonsense"}, exitUsage, []string{"nonsense"}},
		{[]string{"more"}, exitUsage, []string{"more"}},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			oneError(t, runCmd(t, ctsight(t, append([]string{"serve"}, c.args...)...)), c.code, c.words...)
		})
	}
}

// A reload takes a good file, keeps what runs when the file is not, and says so in
// the answer, in the log and in the metrics. Requests are answered all the while.
func TestServeReload(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules() // or it waits for them
	file := filepath.Join(t.TempDir(), "c.yml")
	write(t, file, "log: {level: info}\n")
	s := sidecar.Start(t, ctsight(t), "--config.file", file)
	good := func() bool { return s.Values(t)["config_last_reload_successful"] == 1 }
	if !good() {
		t.Error("the start was no success")
	}
	hup := func() { must(t, s.Cmd.Process.Signal(syscall.SIGHUP)) }
	write(t, file, "log: {level: debug}\nweb: [\n")
	hup()
	eventually(t, "the refusal", func() bool { return !good() })
	if said := s.Said(); !strings.Contains(said, "the configuration stays as it was") || !strings.Contains(said, "c.yml:") {
		t.Error(said)
	}
	write(t, file, "log: {level: debug}\nweb: {telemetry_path: /else}\n")
	hup()
	eventually(t, "the reload", good)
	if said := s.Said(); !strings.Contains(said, "changed=log.level") || !strings.Contains(said, "keys=web.telemetry_path") {
		t.Error(said)
	}
	write(t, file, "nonsense: 1\n")
	r, err := http.Post(s.URL+"/-/reload", "", nil)
	must(t, err)
	must(t, r.Body.Close())
	if r.StatusCode != http.StatusInternalServerError {
		t.Errorf("/-/reload of nonsense: %s", r.Status)
	}
	eventually(t, "the refusal of nonsense", func() bool { return !good() })
	write(t, file, "")
	r, err = http.Post(s.URL+"/-/reload", "", nil)
	must(t, err)
	must(t, r.Body.Close())
	if r.StatusCode != http.StatusOK {
		t.Errorf("/-/reload: %s", r.Status)
	}
	eventually(t, "the reload over HTTP", good)
}

// The page is there, and all that it refers to.
func TestServePage(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules() // or it waits for them
	s := sidecar.Start(t, ctsight(t)).Tracing(t)
	doc := string(s.Get(t, "/"))
	for _, want := range []string{"<h1>ctsight</h1>", "New connections", "counts since"} {
		if !strings.Contains(doc, want) {
			t.Errorf("does not say %q", want)
		}
	}
	links := regexp.MustCompile(`(?:src|href)="([^"#h][^"]*)"`).FindAllStringSubmatch(doc, -1)
	for _, l := range links {
		s.Get(t, "/"+l[1])
	}
	if len(links) < 8 {
		t.Errorf("links %q", links)
	}
}

// systemd is told of the start, of reloads, that it is alive, and of the end.
func TestServeNotifies(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules() // or it waits for them
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer l.Close()
	told := make(chan string, 1000)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				close(told)
				return
			}
			told <- string(b[:n])
		}
	}()
	wait := func(what string) {
		t.Helper()
		for end := time.After(patience); ; {
			select {
			case m := <-told:
				if strings.Contains(m, what) {
					return
				}
			case <-end:
				t.Fatalf("never told: %s", what)
			}
		}
	}
	cmd := ctsight(t)
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=1000000")
	var args []string
	if sandbox.RestrictsPorts() { // with Landlock too, which knows sockets since ABI 9
		file := filepath.Join(t.TempDir(), "c.yml")
		write(t, file, "sandbox: {landlock: on}\n")
		args = []string{"--config.file", file}
	}
	s := sidecar.Start(t, cmd, args...)
	wait("READY=1")
	wait("WATCHDOG=1")
	wait("WATCHDOG=1")
	must(t, s.Cmd.Process.Signal(syscall.SIGHUP))
	wait("RELOADING=1")
	wait("READY=1")
	s.Stop(t)
	wait("STOPPING=1")
}
