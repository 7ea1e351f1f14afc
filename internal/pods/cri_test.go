package pods

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeRuntime is a container runtime of which a test sets what it answers.
type fakeRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	mu     sync.Mutex
	boxes  []*cri.PodSandbox
	status map[string]*cri.PodSandboxStatusResponse
	err    error
	delay  time.Duration
	lists  atomic.Int32
	asked  atomic.Int32 // for status
	filter *cri.PodSandboxFilter
}

func (f *fakeRuntime) set(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

func (f *fakeRuntime) ListPodSandbox(ctx context.Context, r *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	f.lists.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.filter = r.GetFilter()
	return &cri.ListPodSandboxResponse{Items: f.boxes}, f.answer(ctx)
}

func (f *fakeRuntime) PodSandboxStatus(ctx context.Context, r *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	f.asked.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status[r.PodSandboxId]
	if s == nil || !r.Verbose {
		return nil, errors.New("not found")
	}
	return s, f.answer(ctx)
}

func (f *fakeRuntime) answer(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-time.After(f.delay):
	}
	return f.err
}

func (f *fakeRuntime) serve(t *testing.T, socket string) *grpc.Server {
	t.Helper()
	l, err := net.Listen("unix", socket)
	must(t, err)
	s := grpc.NewServer()
	cri.RegisterRuntimeServiceServer(s, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }() // ends by Stop
	t.Cleanup(func() { s.Stop(); <-done })
	return s
}

// warnings collects what a user is told.
type warnings struct {
	mu   sync.Mutex
	said []string
}

func (w *warnings) add(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, err.Error())
}

func (w *warnings) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.said...)
}

// newCRI is one that ends with the test, and leaves nothing.
func newCRI(t *testing.T, socket, root string) (*CRI, *warnings) {
	t.Helper()
	w := &warnings{}
	c := NewCRI(socket, root, w.add)
	t.Cleanup(c.Close)
	return c, w
}

func newSocket(t *testing.T) string {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) }) // first in, last out
	dir, err := os.MkdirTemp("", "cri")        // not t.TempDir: a socket's path has 107 bytes
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func box(id, uid, namespace, name string) *cri.PodSandbox {
	return &cri.PodSandbox{Id: id, State: cri.PodSandboxState_SANDBOX_READY, Metadata: &cri.PodSandboxMetadata{Uid: uid, Namespace: namespace, Name: name}}
}

// eventually waits for the background, with the times of a user who asks again.
func eventually(t *testing.T, what string, ok func(now time.Time) bool) {
	t.Helper()
	for i := range 500 {
		if ok(start.Add(time.Duration(i) * time.Second)) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not after 5 s: %s", what)
}

// The runtime's name takes the place of the UID, for a pod that comes later too.
func TestCRINames(t *testing.T) {
	socket := newSocket(t)
	f := &fakeRuntime{boxes: []*cri.PodSandbox{box("a", uid, "kube-system", "coredns-5d78c9869d-abcde")}}
	f.serve(t, socket)
	p := newProc(t)
	p.add(20, podNS, podCgroup(uid, idA))
	p.add(30, hostNS, podCgroup(uid, idB))
	c, w := newCRI(t, "unix://"+socket, p.root)
	x := NewIndex(p.root, c)
	c.Refresh(start)
	wantName(t, x, podNS, start, "kube-system/coredns-5d78c9869d-abcde")
	wantName(t, x, hostNS, start, "")
	if f.filter.GetState().GetState() != cri.PodSandboxState_SANDBOX_READY || f.filter.State == nil {
		t.Errorf("filter %v: sandboxes that have ended are asked for too", f.filter)
	}

	other := "00000000-16b7-4a49-bb9e-8ec1f1f4e27f"
	p.add(40, podNS+1, podCgroup(other, idB))
	f.set(func() { f.boxes = append(f.boxes, box("b", other, "default", "web-0")) })
	eventually(t, "the new pod has its name", func(now time.Time) bool { return x.Name(podNS+1, now) == "default/web-0" })
	if said := w.all(); len(said) > 0 {
		t.Errorf("warned: %q", said)
	}
}

// Whoever makes cgroups, inside of a container or below the manager of a user, does
// not get the name of another pod.
func TestCRINotForged(t *testing.T) {
	socket := newSocket(t)
	f := &fakeRuntime{boxes: []*cri.PodSandbox{box("a", uid, "kube-system", "victim")}}
	f.serve(t, socket)
	forged := "/kubepods/pod" + uid + "/" + idA + "\n"
	p := newProc(t)
	p.add(20, podNS, "0::/docker/"+idB+forged)
	p.add(30, podNS+1, "0::/user.slice/user-1000.slice/user@1000.service"+forged)
	c, _ := newCRI(t, socket, p.root)
	c.Refresh(start)
	x := NewIndex(p.root, c)
	wantName(t, x, podNS, start, "docker:0f99ad5f4516/"+podName)
	wantName(t, x, podNS+1, start, "user@1000/"+podName)
}

// verboseInfo is what containerd answers, shortened.
func verboseInfo(pid int, path string) map[string]string {
	return map[string]string{"info": fmt.Sprintf(`{"pid":%d,"processStatus":"running","netNamespaceClosed":false,"image":"registry.k8s.io/pause:3.8",
"runtimeSpec":{"ociVersion":"1.1.0","linux":{"namespaces":[{"type":"pid"},{"type":"network","path":%q}]}}}`, pid, path)}
}

// Where cgroups tell nothing, the runtime tells whose a namespace is: by its bind
// mount, or by the sandbox's process. A pod of the host's network has none.
func TestCRINamespaces(t *testing.T) {
	socket := newSocket(t)
	own := proc("/proc").netns(os.Getpid())
	node := &cri.PodSandboxStatus{Linux: &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}}}
	f := &fakeRuntime{
		boxes: []*cri.PodSandbox{box("pid", "u1", "default", "by-pid"), box("mount", "u2", "default", "by-mount"), box("host", "u3", "default", "by-host"), box("none", "u4", "default", "none"), box("old", "u5", "default", "does-not-say")},
		status: map[string]*cri.PodSandboxStatusResponse{
			"pid":   {Info: verboseInfo(20, "/nowhere/cni")},
			"mount": {Info: verboseInfo(0, "/proc/self/ns/net")},
			"host":  {Info: verboseInfo(21, ""), Status: node},
			"old":   {Info: verboseInfo(1, "")},
			"none":  {Info: map[string]string{"info": "{"}},
		}}
	f.serve(t, socket)
	p := newProc(t)
	p.add(20, podNS, "0::/system.slice/containerd.service\n")
	p.add(21, podNS+1, "0::/\n")
	c, _ := newCRI(t, socket, p.root)
	c.Refresh(start)
	x := NewIndex(p.root, c)
	wantName(t, x, podNS, start, "default/by-pid")
	wantName(t, x, own, start, "default/by-mount") // no process of the fake /proc is in it
	wantName(t, x, podNS+1, start, "")
	wantName(t, x, hostNS, start, "")
	n := f.asked.Load()
	c.Refresh(sec(100))
	if f.lists.Load() < 2 || f.asked.Load() != n {
		t.Errorf("%d status calls for sandboxes that are known", f.asked.Load()-n)
	}
}

// A socket that is missing is said once and asked ever more rarely; the pods are
// found when the runtime comes, and its next end is said again.
func TestCRIMissing(t *testing.T) {
	socket := newSocket(t)
	p := newProc(t)
	p.add(20, podNS, podCgroup(uid, idA))
	c, w := newCRI(t, socket, p.root)
	x := NewIndex(p.root, c)
	for s := range 300 {
		c.Refresh(sec(float64(s)))
		wantName(t, x, podNS, sec(float64(s)), podName)
	}
	said := w.all()
	if len(said) != 1 || !strings.Contains(said[0], "no such file") || !strings.Contains(said[0], "--cri.socket") || strings.ContainsAny(said[0], "\n") {
		t.Fatalf("said %q, want one line with the remedy", said)
	}
	f := &fakeRuntime{boxes: []*cri.PodSandbox{box("a", uid, "default", "web-0")}}
	srv := f.serve(t, socket)
	c.Refresh(sec(1000))
	wantName(t, x, podNS, sec(1000), "default/web-0")
	srv.Stop()
	c.Refresh(sec(2000))
	wantName(t, x, podNS, sec(2000), "default/web-0") // what is known stays
	if said := w.all(); len(said) != 2 {
		t.Errorf("said %q", said)
	}
}

func TestCRIBacksOff(t *testing.T) {
	socket := newSocket(t)
	f := &fakeRuntime{err: errors.New("no")}
	f.serve(t, socket)
	for name, tc := range map[string]struct {
		err      error
		from, to int32
	}{"failing": {errors.New("no"), 10, 20}, "nothing new": {nil, 30, 50}} {
		t.Run(name, func(t *testing.T) {
			c, _ := newCRI(t, socket, "/nowhere")
			f.set(func() { f.err = tc.err })
			f.lists.Store(0)
			for s := range 600 {
				c.Refresh(sec(float64(s)))
			}
			if n := f.lists.Load(); n < tc.from || n > tc.to {
				t.Errorf("asked %d times in 10 minutes, want %d to %d", n, tc.from, tc.to)
			}
		})
	}
}
