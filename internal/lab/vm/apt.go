package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// apt runs apt against a private directory. The system's lists, cache and hooks are neither
// read nor written; only its Acquire settings (proxy, time-outs) are taken over.
type apt struct {
	dir      string
	progress io.Writer
}

// newApt prepares a private apt for one suite in dir.
func newApt(ctx context.Context, dir, suite string, m mirrors, progress io.Writer) (*apt, error) {
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("find Debian's keys, install debian-archive-keyring: %w", err)
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("prepare private apt: %w", err)
		}
	}
	settings, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("read apt configuration: %w", err)
	}
	files := map[string]string{"sources.list": sourcesList(suite, m), "apt.conf": aptConf(dir, string(settings))}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("prepare private apt: %w", err)
		}
	}
	return &apt{dir: dir, progress: progress}, nil
}

// sourcesList returns the lines for one suite. Backports have no security suite of their own.
func sourcesList(suite string, m mirrors) string {
	line := func(uri, suite string) string {
		return fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, uri, suite)
	}
	text := line(m.main, suite)
	if m.security != "" && !strings.HasSuffix(suite, "-backports") {
		text += line(m.security, suite+"-security")
	}
	return text
}

// aptConf returns a configuration that replaces the system's. It is read through APT_CONFIG,
// before the system's files, so it can switch those off, hooks included.
func aptConf(dir, dump string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		if keepSetting(line) {
			b.WriteString(line)
		}
	}
	for _, kv := range [][2]string{
		{"Dir::Etc::main", "/dev/null"},
		{"Dir::Etc::Parts", "/dev/null"},
		{"Dir::Etc::SourceList", filepath.Join(dir, "sources.list")},
		{"Dir::Etc::SourceParts", "/dev/null"},
		{"Dir::Etc::Preferences", "/dev/null"},
		{"Dir::Etc::PreferencesParts", "/dev/null"},
		{"Dir::State", dir},
		{"Dir::State::Lists", filepath.Join(dir, "lists")},
		{"Dir::State::status", "/dev/null"},
		{"Dir::Cache", filepath.Join(dir, "cache")},
		{"Dir::Log", dir},
		{"APT::Architecture", "amd64"},
		{"APT::Sandbox::User", "root"},
		{"APT::Update::Error-Mode", "any"},
		{"Acquire::Languages", "none"},
		{"Acquire::Retries", "3"},
	} {
		fmt.Fprintf(&b, "%s %q;\n", kv[0], kv[1])
	}
	return b.String()
}

// keepSetting reports whether a line of `apt-config dump` says how to reach the network.
func keepSetting(line string) bool {
	for _, p := range []string{"Acquire::http", "Acquire::Check-", "Acquire::ForceIP", "Acquire::Proxy"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

// update reads the package lists.
func (a *apt) update(ctx context.Context) error {
	return a.retry(ctx, "apt-get", "update", "-qq")
}

// show returns the record of a package's candidate version.
func (a *apt) show(ctx context.Context, pkg string) (map[string]string, error) {
	out, err := a.command(ctx, "apt-cache", "show", "--no-all-versions", pkg).Output()
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", pkg, explain(err))
	}
	st := parseStanzas(string(out))
	if len(st) == 0 {
		return nil, fmt.Errorf("look up %s: not in the lists", pkg)
	}
	return st[0], nil
}

// download fetches one package and returns the path of the .deb.
func (a *apt) download(ctx context.Context, pkg string) (string, error) {
	if err := a.retry(ctx, "apt-get", "download", "-qq", pkg); err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, pkg+"_*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download %s: got %d files: %w", pkg, len(debs), errors.Join(err, os.ErrNotExist))
	}
	return debs[0], nil
}

// retry runs a command that needs the network up to three times.
func (a *apt) retry(ctx context.Context, name string, args ...string) error {
	for wait := 2 * time.Second; ; wait *= 3 {
		_, err := a.command(ctx, name, args...).Output()
		if err == nil {
			return nil
		}
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), explain(err))
		if ctx.Err() != nil || wait > 10*time.Second || permanent(err) {
			return err
		}
		fmt.Fprintf(a.progress, "retry in %s: %v\n", wait, err)
		if e := sleep(ctx, wait); e != nil {
			return e
		}
	}
}

// permanent reports whether trying again cannot help.
func permanent(err error) bool {
	for _, s := range []string{"Unable to locate", "NO_PUBKEY", "does not have a Release file", "not found"} {
		if strings.Contains(err.Error(), s) {
			return true
		}
	}
	return false
}

// command prepares an apt tool with the private configuration.
func (a *apt) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

// explain adds what a command wrote to stderr to its error.
func explain(err error) error {
	var ee *exec.ExitError
	if !errors.As(err, &ee) || len(bytes.TrimSpace(ee.Stderr)) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", err, bytes.TrimSpace(ee.Stderr))
}
