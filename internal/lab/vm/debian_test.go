package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A package lands where the merged /usr has it, modes and all, and dpkg's books say
// what the package says.
func TestDebianRoot(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("needs dpkg-deb: install dpkg")
	}
	dir := t.TempDir()
	mustWrite(t, filepath.Join(dir, "a/DEBIAN/control"), "Package: a\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\nMaintainer: x <x@x>\nDescription: x\n")
	mustWrite(t, filepath.Join(dir, "a/bin/tool"), "tool")
	mustWrite(t, filepath.Join(dir, "a/usr/share/doc/a/copyright"), "left out")
	mustWrite(t, filepath.Join(dir, "a/usr/share/base-passwd/passwd.master"), "root:*:0:0::/root:/bin/sh\n")
	if err := os.Chmod(filepath.Join(dir, "a/bin/tool"), 0o4755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(dir, "a.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", filepath.Join(dir, "a"), deb).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var buf bytes.Buffer
	if err := archive(&buf, func(c *cpioWriter) error { return writeDebian(t.Context(), c, []string{deb}) }); err != nil {
		t.Fatal(err)
	}
	all, _ := readCPIO(t, buf.Bytes())
	got := map[string]member{}
	for _, m := range all {
		got[m.name] = m
	}
	if m := got["usr/bin/tool"]; m.body != "tool" || m.mode != modeRegular|0o4755 {
		t.Errorf("tool: %o %q", m.mode, m.body)
	}
	if m := got["bin"]; m.mode != modeSymlink|0o777 || m.body != "usr/bin" {
		t.Errorf("bin: %o %q", m.mode, m.body)
	}
	if _, ok := got["usr/share/doc/a/copyright"]; ok {
		t.Error("documentation is there")
	}
	if m := got["etc/passwd"]; !strings.HasPrefix(m.body, "root:") {
		t.Errorf("passwd: %q", m.body)
	}
	if m := got["var/lib/dpkg/info/a:amd64.list"]; !strings.HasPrefix(m.body, "/.\n") || !strings.Contains(m.body, "\n/bin/tool\n") || !strings.Contains(m.body, "\n/usr/share/doc/a/copyright\n") {
		t.Errorf("list: %q", m.body)
	}
	if m := got["var/lib/dpkg/status"]; !strings.Contains(m.body, "Package: a\n") || !strings.HasSuffix(m.body, "\nStatus: install ok installed\n\n") {
		t.Errorf("status: %q", m.body)
	}
}
