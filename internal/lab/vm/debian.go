package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// systemdInit is the first process of a guest with systemd, until that takes over.
//
//go:embed systemd.sh
var systemdInit []byte

// debianRecipe is part of the name of the cached archive; raise it when its making changes.
const debianRecipe = 3

// debianSuite is what a guest with systemd is made of.
const debianSuite = "bookworm"

// debianPackages are Debian's essential ones, systemd, and what tests ask. They are unpacked
// and never configured: apart from what debianFiles has, an image need not have more.
var debianPackages = []string{
	"base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg", "findutils", "grep",
	"gzip", "hostname", "init-system-helpers", "libc-bin", "login", "mawk", "mount", "ncurses-base", "passwd", "perl-base",
	"sed", "sysvinit-utils", "tar", "util-linux", "systemd-sysv", "kmod", "iproute2", "nftables", "procps", "rpm",
}

// debianFiles are settings that the packages' scripts would make, and the lab's own.
var debianFiles = map[string]string{
	"etc/machine-id":                 "0123456789abcdef0123456789abcdef\n",
	"etc/hostname":                   "ctsight-lab\n",
	"etc/hosts":                      etcFiles["etc/hosts"],
	"etc/systemd/system/lab.service": "[Service]\nType=exec\nExecStart=/lab/report\n",
}

// debianLinks likewise; what leads to /dev/null does not run.
var debianLinks = map[string]string{
	"usr/bin/sh":                        "dash",
	"usr/bin/awk":                       "mawk",
	"etc/systemd/system/default.target": "/lib/systemd/system/multi-user.target",
	"etc/systemd/system/multi-user.target.wants/lab.service": "/etc/systemd/system/lab.service",
	"etc/systemd/system/getty.target":                        "/dev/null",
	"etc/systemd/system/systemd-logind.service":              "/dev/null",
}

// debianLeftOut are parts of packages that nothing reads. Perl's base is elsewhere.
var debianLeftOut = []string{"usr/share/doc/", "usr/share/locale/", "usr/share/i18n/", "usr/share/info/", "usr/share/man/",
	"usr/share/zoneinfo/", "usr/lib/x86_64-linux-gnu/gconv/", "usr/lib/udev/hwdb.d/",
	"usr/share/perl/", "usr/lib/x86_64-linux-gnu/perl/", "usr/lib/file/"}

// debianLayer returns the archive with a Debian that has systemd and an honest dpkg.
func debianLayer(ctx context.Context, cache string) (string, error) {
	sum := sha256.Sum256(fmt.Append(nil, layerFormat, debianSuite, debianRecipe, debianPackages, debianFiles, debianLinks, debianLeftOut))
	path := filepath.Join(cache, "debian", fmt.Sprintf("%s-%x.cpio", debianSuite, sum[:6]))
	return cachedLayer(ctx, path, func(c *cpioWriter) error {
		tmp, err := os.MkdirTemp(filepath.Dir(path), "fetch-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		debs, err := fetchDebian(ctx, tmp)
		if err != nil {
			return err
		}
		return writeDebian(ctx, c, debs)
	})
}

// fetchDebian downloads the packages and all they depend on.
func fetchDebian(ctx context.Context, dir string) ([]string, error) {
	m, err := findMirrors("/etc/apt")
	if err != nil {
		return nil, err
	}
	a, err := newApt(ctx, dir, debianSuite, m, io.Discard)
	if err != nil {
		return nil, err
	}
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	args := append([]string{"install", "-qq", "-y", "--download-only", "--no-install-recommends", "-o", "Debug::NoLocking=1"}, debianPackages...)
	if err := a.retry(ctx, "apt-get", args...); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "cache/archives/*.deb"))
}

// debianRoot is an archive in the making.
type debianRoot struct {
	*cpioWriter
	status  bytes.Buffer      // of dpkg
	masters map[string][]byte // of base-passwd, by name
}

func writeDebian(ctx context.Context, c *cpioWriter, debs []string) error {
	r := debianRoot{cpioWriter: c, masters: map[string][]byte{}}
	var errs []error
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		errs = append(errs, c.dir(mergedDirs[link], 0o755), c.symlink(link, mergedDirs[link]))
	}
	for name, target := range debianLinks {
		errs = append(errs, c.symlink(name, target))
	}
	for name, text := range debianFiles {
		errs = append(errs, c.bytes(name, 0o644, []byte(text)))
	}
	for _, deb := range debs {
		errs = append(errs, r.add(ctx, deb))
	}
	for _, d := range []string{"lab", "out", "mnt", "usr/share/doc", "usr/share/man", "var/lib/dpkg/updates"} {
		errs = append(errs, c.dir(d, 0o755))
	}
	errs = append(errs, c.bytes("var/lib/dpkg/status", 0o644, r.status.Bytes()),
		c.bytes("etc/passwd", 0o644, r.masters["passwd.master"]), c.bytes("etc/group", 0o644, r.masters["group.master"]),
		c.node("dev/console", 0o600, 5, 1), c.node("dev/null", 0o666, 1, 3))
	return errors.Join(errs...)
}

// add unpacks one package and enters it into dpkg's books.
func (r *debianRoot) add(ctx context.Context, deb string) error {
	control, err := exec.CommandContext(ctx, "dpkg-deb", "-f", deb).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(deb), explain(err))
	}
	data, err := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(deb), explain(err))
	}
	fmt.Fprintf(&r.status, "%sStatus: install ok installed\n\n", control)
	list, err := r.unpack(tar.NewReader(bytes.NewReader(data)))
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(deb), err)
	}
	f := parseStanzas(string(control))[0]
	name := f["package"]
	if f["multi-arch"] == "same" {
		name += ":" + f["architecture"]
	}
	return r.bytes("var/lib/dpkg/info/"+name+".list", 0o644, list)
}

// unpack returns the names.
func (r *debianRoot) unpack(t *tar.Reader) (list []byte, err error) {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		name := guestName(h.Name)
		if name == "" {
			list = append(list, "/.\n"...)
			continue
		}
		list = fmt.Appendf(list, "%s\n", path.Clean("/"+h.Name))
		if slices.ContainsFunc(debianLeftOut, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		if err := r.member(name, h, t); err != nil {
			return nil, err
		}
	}
}

// member writes one; owners other than root, and devices, are not needed.
func (r *debianRoot) member(name string, h *tar.Header, content io.Reader) error {
	perm := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeDir:
		return r.dir(name, perm)
	case tar.TypeSymlink:
		return r.symlink(name, h.Linkname)
	case tar.TypeLink:
		return r.symlink(name, "/"+guestName(h.Linkname))
	case tar.TypeReg:
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		if filepath.Dir(name) == "usr/share/base-passwd" {
			r.masters[filepath.Base(name)] = data
		}
		return r.bytes(name, perm, data)
	}
	return nil
}
