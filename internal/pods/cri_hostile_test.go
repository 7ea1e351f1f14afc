package pods

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/ctsight/ctsight/internal/event"
)

// A runtime that hangs costs two seconds at the start and nothing later: whoever
// asks for a name does not wait.
func TestCRISlow(t *testing.T) {
	socket := newSocket(t)
	f := &fakeRuntime{delay: time.Minute}
	f.serve(t, socket)
	p := newProc(t)
	p.add(20, podNS, podCgroup(uid, idA))
	c, w := newCRI(t, socket, p.root)
	x := NewIndex(p.root, c)
	begun := time.Now()
	c.Refresh(start)
	if d := time.Since(begun); d < askFor || d > 2*askFor {
		t.Errorf("gave up after %v, want %v", d, askFor)
	}
	begun = time.Now()
	for s := range 100 {
		wantName(t, x, podNS, sec(100+float64(s)), podName)
	}
	if d := time.Since(begun); d > askFor/2 {
		t.Errorf("100 questions took %v", d)
	}
	if said := w.all(); len(said) != 1 || !strings.Contains(said[0], "deadlineexceeded") {
		t.Errorf("said %q", said)
	}
}

// Names that Kubernetes does not make, an answer without end, and something that
// is no runtime at all.
func TestCRIHostile(t *testing.T) {
	long := strings.Repeat("x", 300)
	wrong := []*cri.PodSandbox{{}, {Id: "a"}, box("b", uid, "default", "\x1b[2J"), box("c", uid, "a\nb", "web"), box("d", uid, "", "web"),
		box("e", uid, "default", long), box("f", uid, long, "web"), box("g", long, "default", "web"), box(long, uid, "default", "web"), box("h", "", "default", "web"), box("i", uid, "a/b", "web")}
	many := make([]*cri.PodSandbox, 3*maxSandboxes)
	for i := range many {
		many[i] = box(fmt.Sprint(i), fmt.Sprintf("u%d", i), "default", "web")
	}
	huge := box("a", uid, "default", "web")
	huge.Annotations = map[string]string{"x": strings.Repeat("y", maxAnswer)}
	large := box("a", uid, "default", "web") // more than gRPC takes by itself
	large.Annotations = map[string]string{"x": strings.Repeat("y", maxAnswer/2)}
	for name, tc := range map[string]struct {
		boxes []*cri.PodSandbox
		err   error
		most  int
		warns string
	}{
		"wrong names": {boxes: wrong},
		"too many":    {boxes: many, most: maxSandboxes},
		"large":       {boxes: []*cri.PodSandbox{large}, most: 1},
		"huge":        {boxes: []*cri.PodSandbox{huge}, warns: "resourceexhausted"},
		"long error":  {err: errors.New(strings.Repeat("\x1b[2J\n", 1000)), warns: "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			socket := newSocket(t)
			f := &fakeRuntime{boxes: tc.boxes, err: tc.err}
			f.serve(t, socket)
			c, w := newCRI(t, socket, "/nowhere")
			c.Refresh(start)
			if n := len(c.names.byUID); n != tc.most {
				t.Errorf("%d names, want %d", n, tc.most)
			}
			said := w.all()
			if (tc.warns != "") != (len(said) == 1) || (tc.warns != "" && (!strings.Contains(said[0], tc.warns) || len(said[0]) > 1000 || strings.Contains(said[0], "\n"))) {
				t.Errorf("said %.300q", said)
			}
		})
	}
	t.Run("not gRPC", func(t *testing.T) {
		socket := newSocket(t)
		l, err := net.Listen("unix", socket)
		must(t, err)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
				_, _ = conn.Write(bytes.Repeat([]byte("220 ready\r\n"), 1000)) // it hangs up
				_ = conn.Close()
			}
		}()
		t.Cleanup(func() { _ = l.Close(); <-done })
		c, w := newCRI(t, socket, "/nowhere")
		c.Refresh(start)
		if len(w.all()) != 1 {
			t.Errorf("said %q", w.all())
		}
	})
}

// What a runtime tells of namespaces is looked at with care.
func TestCRIVerbose(t *testing.T) {
	p := newProc(t)
	p.add(20, podNS, "0::/\n")
	plain := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(plain, nil, 0o644))
	c, _ := newCRI(t, "", p.root)
	for info, want := range map[string]event.NetNS{
		"": 0, "null": 0, "[]": 0, `{"pid":"20"}`: 0, `{"pid":-1}`: 0, `{"pid":99999999}`: 0, `{"pid":20}`: podNS,
		strings.Repeat("[", 1<<20):                                0,
		verboseInfo(20, plain)["info"]:                            podNS,
		verboseInfo(20, "/proc/self/status")["info"]:              podNS,
		verboseInfo(20, "/run/../etc/passwd")["info"]:             podNS,
		verboseInfo(0, "/proc/"+strings.Repeat("a", 1e5))["info"]: 0,
	} {
		if got := c.netns(info); got != want {
			t.Errorf("%.80q: %v, want %v", info, got, want)
		}
	}
}

// Close ends a conversation that hangs.
func TestCRIClose(t *testing.T) {
	socket := newSocket(t)
	f := &fakeRuntime{delay: time.Minute}
	f.serve(t, socket)
	c, w := newCRI(t, socket, "/nowhere")
	c.want("x", start)
	eventually(t, "the runtime is asked", func(time.Time) bool { return f.lists.Load() > 0 })
	begun := time.Now()
	c.Close()
	c.Close()
	if d := time.Since(begun); d > askFor/2 {
		t.Errorf("took %v", d)
	}
	c.Refresh(sec(1000)) // asks nothing any more
	if f.lists.Load() != 1 || len(w.all()) != 0 {
		t.Errorf("%d questions, said %q", f.lists.Load(), w.all())
	}
}
