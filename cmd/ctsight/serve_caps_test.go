package main

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/lab/trace"
	"github.com/ctsight/ctsight/internal/sandbox"
)

// behind runs serve by way of a program that ends in it.
func behind(t *testing.T, program string, args ...string) *sidecar.Sidecar {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("no %s: apt-get install util-linux", program)
	}
	cmd := ctsight(t)
	cmd.Args = append(append([]string{path}, args...), cmd.Args...)
	cmd.Path = path
	return sidecar.Launch(t, cmd)
}

// settles waits until serve traces and has given up privileges, or has ended, and
// wants what is traced to be counted then.
func settles(t *testing.T, s *sidecar.Sidecar) (works bool) {
	t.Helper()
	eventually(t, "serve traces or ends", func() bool {
		works = s.Code("/-/ready") == http.StatusOK && strings.Contains(s.Said(), "msg=tracing")
		return works || s.Ended()
	})
	if works && hooked(s) { // every namespace is traced from its first packet on
		brief(t, 3)
		eventually(t, "three connections are counted", func() bool { return sidecar.Sum(s.Values(t), "new_connections_total") == 3 })
	}
	return works
}

// hooked says whether serve has hooked functions.
func hooked(s *sidecar.Sidecar) bool {
	return strings.Contains(s.Said(), "backend=fentry") || strings.Contains(s.Said(), "backend=kprobe")
}

// R17: without any one of the capabilities that are kept serve works and says what is
// missing for want of it, or ends and names it. All others it does not need.
func TestServeCapabilities(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules()
	enough := "-all"
	for _, n := range sandbox.Needs() {
		name := strings.TrimPrefix(n.Name, "cap_")
		enough += ",+" + name
		if lab.InVM() && lab.KernelName() != "6.12" && name != "sys_admin" {
			continue // what each is for is the same, and emulated it takes long
		}
		t.Run("without "+n.Name, func(t *testing.T) {
			s := behind(t, "setpriv", "--bounding-set=-"+name, "--inh-caps=-"+name, "--")
			works := settles(t, s)
			var about []string
			for line := range strings.Lines(s.Said()) {
				if strings.Contains(strings.ToLower(line), n.Name) && (!works || strings.Contains(line, "level=WARN")) {
					about = append(about, line)
				}
			}
			if len(about) == 0 {
				t.Errorf("works: %v, but nothing says what is missing:\n%s", works, s.Said())
			}
			t.Logf("works: %v; %s", works, strings.Join(about, ""))
		})
	}
	t.Run("those alone", func(t *testing.T) {
		if lab.KernelName() == "5.10" {
			enough += ",+sys_resource" // to raise the limit of locked memory, before 5.11
		}
		s := behind(t, "setpriv", "--bounding-set="+enough, "--inh-caps="+enough, "--")
		if !settles(t, s) || strings.Contains(s.Said(), "capability is missing") {
			t.Error(s.Said())
		}
	})
}

// Nothing is written anywhere: the root may be read-only.
func TestServeReadOnlyRoot(t *testing.T) {
	lab.NeedRoot(t)
	trace.LoadModules()
	s := behind(t, "unshare", "--mount", "--", "sh", "-ec", `
		awk '{ print $5 }' /proc/self/mountinfo | while read -r m; do
			case $m in /proc*|/sys*|/dev*) ;; *) mount -o remount,bind,ro "$m" 2>/dev/null || true ;; esac
		done
		! touch /read-only /tmp/read-only 2>/dev/null || exit 9
		exec "$@"`, "sh")
	if !settles(t, s) {
		t.Error(s.Said())
	}
}
