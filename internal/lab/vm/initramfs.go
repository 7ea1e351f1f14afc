package vm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// guestInit is the guest's first process, guestReport what it runs in the end.
//
//go:embed init.sh
var guestInit []byte

//go:embed report.sh
var guestReport []byte

// File is something to put into the guest: a file or a whole directory of this machine, or
// the bytes of Content.
type File struct {
	Host    string // path on this machine; empty to use Content
	Content []byte
	Mode    uint32 // permissions of Content, 0644 when zero
	Guest   string // absolute path in the guest
}

// Spec says what runs in the guest. Env is added to a small default environment; Dir is the
// working directory, /root when empty. Files of /out come back to the host.
type Spec struct {
	Files   []File
	Env     []string // "NAME=value"
	Dir     string
	Command []string
	// Systemd makes the guest a Debian in which systemd runs the command as a service,
	// in place of a few tools.
	Systemd bool
}

// BuildInitramfs writes an initramfs and returns its path; the caller removes it. Tools and
// modules come from cached archives, to which the files of spec are appended. Nothing is
// compressed: under emulation the guest would take longer to unpack than the host to copy.
func BuildInitramfs(ctx context.Context, img Image, spec Spec) (string, error) {
	if len(spec.Command) == 0 {
		return "", errors.New("build initramfs: no command")
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	base := toolsLayer
	if spec.Systemd {
		base = debianLayer
	}
	tools, err := base(ctx, cache)
	if err != nil {
		return "", err
	}
	modules, err := modulesLayer(ctx, img)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp("", "ctsight-initramfs-")
	if err != nil {
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	err = concat(f, tools, modules)
	if err == nil {
		err = archive(f, func(c *cpioWriter) error { return spec.write(c, img.Kernel.Name) })
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("build initramfs: %w", err)
	}
	return f.Name(), nil
}

// concat appends whole files to w.
func concat(w io.Writer, paths ...string) error {
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// write archives the part of the guest that differs from run to run.
func (s Spec) write(c *cpioWriter, kernel string) error {
	first := guestInit
	if s.Systemd {
		first = systemdInit
	}
	err := errors.Join(c.bytes("init", 0o755, first), c.bytes("lab/report", 0o755, guestReport),
		c.bytes("lab/run", 0o755, []byte(s.script(kernel))))
	if err != nil {
		return err
	}
	for _, f := range s.Files {
		if err := f.write(c); err != nil {
			return fmt.Errorf("add %s: %w", f.Guest, err)
		}
	}
	return nil
}

// write archives one file or directory.
func (f File) write(c *cpioWriter) error {
	if !filepath.IsAbs(f.Guest) {
		return errors.New("guest path is not absolute")
	}
	name := guestName(f.Guest)
	if f.Host == "" {
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		return c.bytes(name, mode, f.Content)
	}
	return c.host(name, f.Host)
}

// script returns the shell script that init runs: environment, directory, command.
func (s Spec) script(kernel string) string {
	var b strings.Builder
	b.WriteString("#!/bin/bash\n")
	env := append([]string{"HOME=/root", "TERM=dumb", "LC_ALL=C", "TMPDIR=/tmp", "CTSIGHT_VM=" + kernel}, s.Env...)
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		fmt.Fprintf(&b, "export %s=%s\n", name, Quote(value))
	}
	dir := s.Dir
	if dir == "" {
		dir = "/root"
	}
	fmt.Fprintf(&b, "cd %s || exit 127\nexec", Quote(dir))
	for _, a := range s.Command {
		b.WriteString(" " + Quote(a))
	}
	return b.String() + "\n"
}

// Quote makes a string one word for the shell.
func Quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
