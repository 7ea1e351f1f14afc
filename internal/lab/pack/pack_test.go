// Package pack installs the packages in a guest with systemd, and removes them.
package pack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/ctsight/ctsight/internal/lab"
	"github.com/ctsight/ctsight/internal/lab/sidecar"
	"github.com/ctsight/ctsight/internal/sandbox"
)

// Where the guest has the packages.
const (
	deb = "/lab/ctsight.deb"
	rpm = "/lab/ctsight.rpm"
)

// quicker makes systemd impatient, so that the test need not wait.
const quicker = "[Service]\nWatchdogSec=10s\nTimeoutAbortSec=1s\n"

const (
	config = "/etc/ctsight/ctsight.yml"
	logs   = "/var/log/ctsight"
	state  = "/var/lib/ctsight"
	dropIn = "/run/systemd/system/ctsight.service.d/quicker.conf"
	addr   = "127.0.0.1:9781"
)

var served = &sidecar.Sidecar{URL: "http://" + addr}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func do(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, journal())
	}
	return strings.TrimSpace(string(out))
}

func journal() string {
	out, _ := exec.Command("journalctl", "--no-pager", "-n", "40", "-u", "ctsight").CombinedOutput()
	return string(out)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after two minutes still not: %s\n%s", what, journal())
		}
	}
}

func property(t *testing.T, name string) string {
	t.Helper()
	return do(t, "systemctl", "show", "--value", "-p", name, "ctsight")
}

func mainPID(t *testing.T) string { return property(t, "MainPID") }

func tracing(t *testing.T) {
	t.Helper()
	until(t, "it traces", func() bool { return served.Code("/-/ready") == 200 })
}

// restarted waits for another process than that one.
func restarted(t *testing.T, what, old string) {
	t.Helper()
	until(t, what, func() bool { p := mainPID(t); return p != "0" && p != old })
	tracing(t)
}

// TestDeb is the life of a package: installed, used, mistreated, removed.
func TestDeb(t *testing.T) {
	need(t, deb)
	before, booksBefore, objects := files(t), books(t), inKernel(t)

	do(t, "dpkg", "-i", deb)
	for what, want := range map[string]string{"is-active": "active", "is-enabled": "enabled"} {
		if got := do(t, "systemctl", what, "ctsight"); got != want {
			t.Errorf("%s: %s", what, got)
		}
	}
	tracing(t)
	privileges(t)
	traces(t)
	named(t)
	reload(t)
	feeds(t)
	flies(t)
	keeps(t)
	watchdog(t)

	end, pid := unnamed(t), mainPID(t)
	do(t, "kill", "-9", pid)
	restarted(t, "a start after kill -9", pid)
	until(t, "a namespace of a process", func() bool { return len(tables(t)) == 2 })
	end()

	pid = mainPID(t)
	do(t, "dpkg", "-i", deb) // an upgrade
	restarted(t, "a start after an upgrade", pid)

	do(t, "systemctl", "stop", "ctsight")
	gone(t, objects)
	do(t, "systemctl", "start", "ctsight")
	tracing(t)

	do(t, "dpkg", "-r", "ctsight")
	gone(t, objects)
	if _, err := os.Stat(config); err != nil {
		t.Errorf("remove takes the configuration: %v", err)
	}
	do(t, "dpkg", "--purge", "ctsight")
	if s, err := exec.Command("systemctl", "cat", "ctsight").CombinedOutput(); err == nil {
		t.Errorf("the unit stays:\n%s", s)
	}
	for _, dir := range []string{logs, state} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("purge leaves %s: %v", dir, err)
		}
	}
	if d := differences(booksBefore, books(t)); len(d) > 0 {
		t.Errorf("users: %s", d)
	}
	if d := differences(before, files(t)); len(d) > 0 {
		t.Errorf("files that stay, are gone or are others:\n%s", strings.Join(d, "\n"))
	}
}

// TestRPM is the same for the other kind, as far as Debian's rpm goes: it knows no
// package that dpkg has installed.
func TestRPM(t *testing.T) {
	need(t, rpm)
	do(t, "rpm", "--initdb")
	for _, d := range []string{"man/man1", "zsh/site-functions", "fish/vendor_completions.d"} { // Fedora's package filesystem has them
		if err := os.MkdirAll("/usr/share/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	before, objects := files(t), inKernel(t)
	do(t, "rpm", "-i", "--nodeps", rpm)
	if out, err := exec.Command("systemctl", "is-active", "ctsight").Output(); err == nil {
		t.Errorf("started by the installation: %s", out)
	}
	if got := do(t, "systemctl", "is-enabled", "ctsight"); got != "enabled" { // Debian's preset
		t.Errorf("preset: %s", got)
	}
	do(t, "systemctl", "start", "ctsight")
	tracing(t)
	pid := mainPID(t)
	do(t, "rpm", "-U", "--nodeps", "--replacepkgs", rpm)
	restarted(t, "a start after an upgrade", pid)
	do(t, "rpm", "-e", "ctsight")
	gone(t, objects)
	do(t, "userdel", "ctsight") // stays, as is the custom, and as does what it has recorded
	if files, err := filepath.Glob(state + "/flight/*.ctsight"); err != nil || len(files) < 2 {
		t.Errorf("recorded are %q, %v", files, err)
	}
	do(t, "rm", "-r", state)
	if d := differences(before, files(t)); len(d) > 0 {
		t.Errorf("files that stay, are gone or are others:\n%s", strings.Join(d, "\n"))
	}
}

// need skips outside of the guest, and makes conntrack work in it.
func need(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Stat(file); err != nil || !lab.InVM() {
		t.Skip("needs a guest with systemd and the packages: make test")
	}
	do(t, "modprobe", "nf_conntrack_netlink")
	do(t, "nft", "add table ip t; add chain ip t c { type filter hook input priority 0; }; flush chain ip t c; add rule ip t c ct state new accept")
}

// privileges looks at the process from outside.
func privileges(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile("/proc/" + mainPID(t) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(data)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ":")
		got[k] = strings.Join(strings.Fields(v), " ")
	}
	uid := do(t, "id", "-u", "ctsight")
	if got["Uid"] != strings.Join([]string{uid, uid, uid, uid}, " ") || uid == "0" || got["NoNewPrivs"] != "1" || got["Seccomp"] != "2" {
		t.Errorf("uid %s, no_new_privs %s, seccomp %s", got["Uid"], got["NoNewPrivs"], got["Seccomp"])
	}
	// CAP_NET_ADMIN 12, SYS_PTRACE 19, SYS_ADMIN 21, SYS_NICE 23, SYSLOG 34, PERFMON 38, BPF 39
	const keep = "000000c400a81000"
	if got["CapEff"] != keep || got["CapBnd"] != keep || got["CapAmb"] != "0000000000000000" || len(sandbox.Needs()) != 7 {
		t.Errorf("effective %s, bounding %s, ambient %s", got["CapEff"], got["CapBnd"], got["CapAmb"])
	}
	t.Logf("%s resident, %s", got["VmRSS"], property(t, "StatusText"))
}

// traces makes connections and wants them counted, by a backend that is exact.
func traces(t *testing.T) {
	t.Helper()
	was := served.Values(t)
	if was["hook_attached{backend=fentry,hook=__nf_conntrack_confirm}"] != 1 {
		t.Errorf("not attached by fentry: %v\n%s", was, journal())
	}
	const n = 20
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	until(t, "new connections are counted", func() bool {
		return served.Values(t)["new_connections_total{family=ipv4,proto=tcp}"] >= was["new_connections_total{family=ipv4,proto=tcp}"]+n
	})
}

// tables are the namespaces whose tables are told.
func tables(t *testing.T) (names []string) {
	t.Helper()
	for k := range served.Values(t) {
		if name, ok := strings.CutPrefix(k, "table_entries{netns="); ok {
			names = append(names, strings.TrimSuffix(name, "}"))
		}
	}
	return names
}

// named is a namespace with a file, which the sandbox sees and does not hold.
func named(t *testing.T) {
	t.Helper()
	do(t, "ip", "netns", "add", "blue")
	until(t, "a namespace is seen", func() bool { return slices.Contains(tables(t), "blue") })
	do(t, "ip", "netns", "del", "blue")
	until(t, "a namespace is gone", func() bool { return len(tables(t)) == 1 })
	mounts, err := os.ReadFile("/proc/" + mainPID(t) + "/mountinfo")
	if err != nil || strings.Contains(string(mounts), "/netns/blue") {
		t.Errorf("the sandbox holds a namespace: %v\n%s", err, mounts)
	}
}

// unnamed starts a process of another user in a namespace that nothing else has. It is
// to be there when ctsight starts, which is what keeps Landlock off.
func unnamed(t *testing.T) (end func()) {
	t.Helper()
	cmd := exec.Command("unshare", "-n", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "another user's process", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		return err == nil && string(name) == "sleep\n"
	})
	return func() { _, _ = cmd.Process.Kill(), cmd.Wait() }
}

// reload takes a good file and refuses a bad one.
func reload(t *testing.T) {
	t.Helper()
	pid := mainPID(t)
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	const at = "config_last_reload_success_timestamp_seconds"
	was := served.Values(t)[at]
	do(t, "systemctl", "reload", "ctsight")
	until(t, "a reload", func() bool { return served.Values(t)[at] > was })
	if err := os.WriteFile(config, []byte("web: {listn: x}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	do(t, "systemctl", "reload", "ctsight")
	until(t, "a refusal", func() bool { return served.Values(t)["config_last_reload_successful"] == 0 })
	if mainPID(t) != pid || served.Code("/-/ready") != 200 {
		t.Error("a bad file ended it")
	}
	if err := os.WriteFile(config, good, 0o644); err != nil {
		t.Fatal(err)
	}
}

// feeds has it write findings where the unit lets it.
func feeds(t *testing.T) {
	t.Helper()
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, append(good, "\nfeed: {file: "+logs+"/feed.log}\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	do(t, "systemctl", "restart", "ctsight")
	tracing(t)
	if _, err := os.Stat(logs + "/feed.log"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(config, good, 0o644); err != nil {
		t.Fatal(err)
	}
}

// flies wants the flight recorder to record, as the file of the packages has it, into a
// directory that is its own in one that is not.
func flies(t *testing.T) {
	t.Helper()
	do(t, "systemctl", "restart", "ctsight") // the configuration was another
	tracing(t)
	until(t, "it records", func() bool { return served.Values(t)["flight_recorder_segments"] > 0 })
	if v := served.Values(t); v["flight_recorder_failing"] != 0 || v["flight_recorder_bytes"] == 0 {
		t.Errorf("failing %v, %v bytes", v["flight_recorder_failing"], v["flight_recorder_bytes"])
	}
	for dir, want := range map[string]string{state: "root 755", state + "/flight": "ctsight 750"} {
		if got := do(t, "stat", "-c", "%U %a", dir); got != want {
			t.Errorf("%s: %s, want %s", dir, got, want)
		}
	}
}

// keeps fills the table, and wants what was around that kept by the service, as it is in
// the packages but for the time that it waits, and readable.
func keeps(t *testing.T) {
	t.Helper()
	good, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, bytes.Replace(good, []byte("#  after: 2m\n"), []byte("  after: 10s\n"), 1), 0o644))
	do(t, "systemctl", "restart", "ctsight")
	tracing(t)
	const n = 60
	for range n { // which stay for two minutes
		c, err := net.Dial("tcp", addr)
		must(t, err)
		c.Close()
	}
	const limit = "net.netfilter.nf_conntrack_max"
	was, entries := do(t, "sysctl", "-n", limit), 0
	_, err = fmt.Sscan(do(t, "sysctl", "-n", "net.netfilter.nf_conntrack_count"), &entries)
	must(t, err)
	if entries < n {
		t.Fatalf("%d entries", entries)
	}
	do(t, "sysctl", "-w", fmt.Sprintf("%s=%d", limit, entries*100/90))
	var kept []string
	until(t, "it keeps what was around the crossing", func() bool {
		kept, err = filepath.Glob(state + "/flight/kept/*")
		must(t, err)
		return len(kept) == 1 && served.Values(t)["flight_recorder_kept"] == 1
	})
	do(t, "sysctl", "-w", limit+"="+was)
	why, err := os.ReadFile(kept[0] + "/why.txt")
	if err != nil || !strings.Contains(string(why), fmt.Sprintf("of %d entries", entries*100/90)) {
		t.Errorf("why: %q, %v", why, err)
	}
	type table struct{ Entries, Max int }
	until(t, "what is kept tells of the table", func() bool {
		var top struct{ Table []table }
		out, err := exec.Command("ctsight", "top", "--from", kept[0], "-o", "json").Output()
		must(t, errors.Join(err, json.Unmarshal(out, &top)))
		return slices.ContainsFunc(top.Table, func(x table) bool { return x.Max == entries*100/90 && x.Entries >= n })
	})
	must(t, os.WriteFile(config, good, 0o644))
	do(t, "systemctl", "restart", "ctsight")
	tracing(t)
}

// watchdog stops the process: nobody answers systemd any more.
func watchdog(t *testing.T) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(dropIn), 0o755), os.WriteFile(dropIn, []byte(quicker), 0o644)); err != nil {
		t.Fatal(err)
	}
	do(t, "systemctl", "daemon-reload")
	do(t, "systemctl", "restart", "ctsight")
	tracing(t)
	pid, was := mainPID(t), property(t, "WatchdogTimestampMonotonic")
	until(t, "it answers the watchdog", func() bool { return property(t, "WatchdogTimestampMonotonic") != was })
	do(t, "kill", "-STOP", pid)
	restarted(t, "a start by the watchdog", pid)
	if err := os.RemoveAll(filepath.Dir(dropIn)); err != nil {
		t.Fatal(err)
	}
	do(t, "systemctl", "daemon-reload")
}

// gone wants no process, nothing on the port and nothing in the kernel.
func gone(t *testing.T, objects int) {
	t.Helper()
	if pid := mainPID(t); pid != "0" && pid != "" {
		t.Errorf("process %s runs", pid)
	}
	if exec.Command("ps", "-C", "ctsight").Run() == nil {
		t.Error("a process runs")
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Errorf("somebody listens on %s", addr)
	}
	// The kernel frees maps after a while.
	until(t, "nothing is left in the kernel", func() bool { return inKernel(t) == objects })
}

// inKernel counts BPF programs, maps and links. Those of systemd itself (cgroups) come
// and go with its services, so programs of cgroups do not count.
func inKernel(t *testing.T) (n int) {
	t.Helper()
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		p, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone
		}
		if k := p.Type(); k != ebpf.CGroupSKB && k != ebpf.CGroupDevice && k != ebpf.CGroupSock {
			n++
		}
		p.Close()
	}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		n++
	}
	return n
}

// files describes all files of the root file system that a package could leave.
func files(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range []string{"/etc", "/usr", "/var", "/opt", "/home", "/root", "/srv", "/run/systemd/system", "/tmp"} {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || keptByOthers(p) {
				return err
			}
			st, err := d.Info()
			if err != nil {
				return err
			}
			out[p] = fmt.Sprint(st.Mode())
			if !d.IsDir() {
				out[p] += fmt.Sprint(" ", st.Size(), " ", st.ModTime())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// keptByOthers says which files dpkg, passwd and systemd write for themselves.
func keptByOthers(p string) bool {
	for _, prefix := range []string{"/var/lib/dpkg/", "/var/lib/rpm/", "/root/.rpmdb/", "/var/log/", "/tmp/", "/var/tmp/systemd-private-"} {
		if strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return slices.Contains([]string{"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow",
		"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock"}, p)
}

// books are the users and groups, by line.
func books(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, f := range []string{"passwd", "group", "shadow", "gshadow"} {
		data, err := os.ReadFile("/etc/" + f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			out[f+" "+strings.TrimSpace(line)] = ""
		}
	}
	return out
}

func differences(before, after map[string]string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if was, ok := before[k]; !ok || was != after[k] {
			out = append(out, fmt.Sprintf("+ %s %s (was %s)", k, after[k], was))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[k]; !ok {
			out = append(out, "- "+k)
		}
	}
	return out
}
