// Package deploy has no code: what is packed, and tests of it on this machine. The
// packages are installed in a guest with systemd by internal/lab/pack.
package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctsight/ctsight/internal/config"
	"github.com/ctsight/ctsight/internal/sandbox"
)

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// need skips where a program is not installed.
func need(t *testing.T, name, pkg string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s: install %s", name, pkg)
	}
}

// say runs a program and returns what it says, which must not fail.
func say(t *testing.T, name string, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", name, err, out, errs.String())
	}
	return string(out)
}

// needs are the capabilities that serve keeps, without cap_.
func needs() []string {
	var out []string
	for _, n := range sandbox.Needs() {
		out = append(out, strings.ToUpper(strings.TrimPrefix(n.Name, "cap_")))
	}
	slices.Sort(out)
	return out
}

// The unit gives what serve keeps, and nothing else.
func TestUnitCapabilities(t *testing.T) {
	for line := range strings.Lines(read(t, "systemd/ctsight.service")) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key != "CapabilityBoundingSet" && key != "AmbientCapabilities" {
			continue
		}
		got := strings.Fields(strings.ReplaceAll(value, "CAP_", ""))
		slices.Sort(got)
		if d := cmp.Diff(needs(), got); d != "" {
			t.Errorf("%s: %s", key, d)
		}
	}
}

// docs/relief.md says that neither the unit nor a pod writes sysctls, and that a pod does
// not see the journal unless it is mounted.
func TestSysctlsReadOnly(t *testing.T) {
	dir := config.Default().Relief.Dir
	unit := read(t, "systemd/ctsight.service")
	for _, line := range []string{"ReadOnlyPaths=/proc/sys /sys\n", "User=ctsight\n", "ProtectSystem=strict\n"} {
		if !strings.Contains(unit, "\n"+line) {
			t.Errorf("the unit has no %s", line)
		}
	}
	if strings.Contains(unit, "ReadWritePaths=") {
		t.Error("the unit writes something that docs/relief.md knows nothing of")
	}
	for _, file := range []string{"kubernetes/daemonset.yaml", "helm/ctsight/templates/daemonset.yaml"} {
		if s := read(t, file); strings.Contains(s, dir) || strings.Contains(s, "privileged: true") || strings.Contains(s, "/proc") && strings.Contains(s, "procMount") {
			t.Errorf("%s mounts the journal or may write sysctls", file)
		}
	}
}

// exposure is the score of the unit, times ten: 0 is best, 100 worst. Of it 2.6 are
// what the job takes: capabilities, the host's network, processes and /proc.
const exposure = "34"

func TestUnit(t *testing.T) {
	need(t, "systemd-analyze", "systemd")
	// The program it starts is not installed here.
	unit := filepath.Join(t.TempDir(), "ctsight.service")
	text := strings.Replace(read(t, "systemd/ctsight.service"), "ExecStart=/usr/bin/ctsight", "ExecStart=/bin/true", 1)
	if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
	if about := regexp.MustCompile(`(?m)^.*ctsight.*$`).Find(out); err != nil || about != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	table := say(t, "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+exposure, unit)
	t.Log(strings.TrimSpace(table[strings.LastIndex(table, "Overall"):]))
}

// uncommented turns settings that stand behind a # into settings.
var uncommented = regexp.MustCompile(`(?m)^#( {2,}|[a-z])`)

// flightDir is the one setting of the file of the packages: the unit makes it.
const flightDir = "/var/lib/ctsight/flight"

// The file of the packages changes nothing but where the flight recorder is, and neither do
// the defaults it shows when they are taken out of their comments.
func TestConfigFile(t *testing.T) {
	text := read(t, "ctsight.yml")
	c, err := config.Parse("ctsight.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Flight.Dir = flightDir
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
	if unit := read(t, "systemd/ctsight.service"); !strings.Contains(unit, "\nStateDirectory="+strings.TrimPrefix(flightDir, "/var/lib/")+"\n") {
		t.Error("the unit does not make the directory")
	}
	shown := uncommented.ReplaceAllString(strings.ReplaceAll(text, "#     ", "##    "), "$1")
	c, err = config.Parse("ctsight.yml", []byte(shown))
	if err != nil {
		t.Fatalf("%v\n%s", err, shown)
	}
	c.RemoteWrite, c.Detect.Allow = nil, nil
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
	// The examples too.
	c, err = config.Parse("ctsight.yml", []byte("remote_write:\n"+example(text, "#remote_write:")+"detect:\n  allow:\n"+example(text, "#  allow:")))
	if err != nil || len(c.RemoteWrite) != 1 || len(c.Detect.Allow) != 1 {
		t.Errorf("%v\n%+v", err, c)
	}
	for _, key := range []string{"backend", "netns", "web", "listen", "config_file", "telemetry_path", "max_connections", "enable_reload",
		"top_prefixes", "sources", "live", "memory", "remote_write", "allow", "file", "blocklist", "size", "age", "kept", "before", "after", "enable", "dry_run", "hook", "action", "url", "subject", "capabilities", "landlock", "socket", "level", "format"} {
		if !regexp.MustCompile(`(?m)^ *` + key + `:`).MatchString(shown) {
			t.Errorf("%s is not shown", key)
		}
	}
}

// example is the last one before a line of the file.
func example(text, before string) string {
	text, _, _ = strings.Cut(text, "\n"+before)
	all := regexp.MustCompile(`(?m)(^#     .*\n)+`).FindAllString(text, -1)
	return strings.ReplaceAll(all[len(all)-1], "#     ", "    ")
}

// built is a package that `make package` has made.
func built(t *testing.T, pattern string) string {
	t.Helper()
	all, err := filepath.Glob("../bin/packages/" + pattern)
	if err != nil || len(all) != 1 {
		t.Skip("no packages here: make package")
	}
	return all[0]
}

// common is what both kinds of package have.
var common = []string{
	"/etc/ctsight/ctsight.yml",
	"/usr/bin/ctsight",
	"/usr/lib/systemd/system/ctsight.service",
	"/usr/lib/sysusers.d/ctsight.conf",
	"/usr/share/bash-completion/completions/ctsight",
	"/usr/share/doc/ctsight/changelog.gz",
	"/usr/share/doc/ctsight/copyright",
	"/usr/share/doc/ctsight/docs/metrics.md",
	"/usr/share/doc/ctsight/docs/runbook.md",
	"/usr/share/doc/ctsight/examples/prometheus/alerts.yml",
	"/usr/share/doc/ctsight/licences.gz",
	"/usr/share/fish/vendor_completions.d/ctsight.fish",
	"/usr/share/man/man1/ctsight-serve.1.gz",
	"/usr/share/man/man1/ctsight.1.gz",
}

func hasAll(t *testing.T, list string, more ...string) {
	t.Helper()
	for _, f := range append(slices.Clone(common), more...) {
		if !slices.Contains(strings.Split(list, "\n"), f) {
			t.Errorf("%s is missing", f)
		}
	}
}

func TestDeb(t *testing.T) {
	deb := built(t, "*.deb")
	need(t, "dpkg-deb", "dpkg")
	list := say(t, "dpkg-deb", "-c", deb)
	for line := range strings.Lines(list) {
		if !strings.Contains(line, " root/root ") {
			t.Errorf("not root's: %s", line)
		}
		if f := strings.Fields(line); f[0][0] == '-' && (f[0] != "-rw-r--r--") != (f[5] == "./usr/bin/ctsight") {
			t.Errorf("mode: %s", line)
		}
	}
	hasAll(t, regexp.MustCompile(`(?m)^.* \.(/.*?)/?$`).ReplaceAllString(list, "$1"), "/usr/share/zsh/vendor-completions/_ctsight")
	dir := t.TempDir()
	say(t, "dpkg-deb", "-e", deb, dir)
	if got := read(t, dir+"/conffiles"); got != "/etc/ctsight/ctsight.yml\n" {
		t.Errorf("conffiles: %q", got)
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		say(t, "sh", "-n", filepath.Join(dir, script))
	}
}

func TestRPM(t *testing.T) {
	file := built(t, "*.rpm")
	need(t, "rpm", "rpm")
	hasAll(t, say(t, "rpm", "-qlp", file), "/usr/share/zsh/site-functions/_ctsight")
	if got := say(t, "rpm", "-qp", "--configfiles", file); got != "/etc/ctsight/ctsight.yml\n" {
		t.Errorf("configuration: %q", got)
	}
	owners := say(t, "rpm", "-qp", "--qf", "[%{FILEUSERNAME}:%{FILEGROUPNAME}\n]", file)
	if strings.ReplaceAll(owners, "root:root\n", "") != "" {
		t.Errorf("not root's: %s", owners)
	}
	for _, script := range []string{"post", "preun", "postun"} {
		say(t, "sh", "-n", filepath.Join("nfpm/rpm", script))
	}
}

// A root without rpm's scripts run gets the files, and loses them again.
func TestRPMInstall(t *testing.T) {
	file := built(t, "*.rpm")
	need(t, "rpm", "rpm")
	if os.Geteuid() != 0 {
		t.Skip("needs root: rpm changes the root directory")
	}
	root := t.TempDir()
	say(t, "rpm", "--root", root, "--noscripts", "--nodeps", "-i", file)
	for _, f := range common {
		if _, err := os.Stat(root + f); err != nil {
			t.Error(err)
		}
	}
	say(t, "rpm", "--root", root, "--noscripts", "-e", "ctsight")
	for _, d := range []string{"/etc/ctsight", "/usr/bin/ctsight", "/usr/share/doc/ctsight"} {
		if _, err := os.Stat(root + d); err == nil {
			t.Errorf("%s stays", d)
		}
	}
}
