package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Package returns the directory into which a package of a Debian suite is unpacked,
// alone: what it depends on must be on this machine. It comes from the cache, or from
// the mirror once.
func Package(ctx context.Context, suite, name string, progress io.Writer) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "packages", suite, name)
	unlock, err := lock(ctx, filepath.Join(home, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	version, err := os.ReadFile(filepath.Join(home, "current"))
	if err == nil {
		return filepath.Join(home, strings.TrimSpace(string(version))), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read cache: %w", err)
	}
	dir, err := fetchPackage(ctx, home, suite, name, progress)
	if err != nil {
		return "", fmt.Errorf("fetch %s of %s: %w", name, suite, err)
	}
	return dir, nil
}

func fetchPackage(ctx context.Context, home, suite, name string, progress io.Writer) (string, error) {
	m, err := findMirrors("/etc/apt")
	if err != nil {
		return "", err
	}
	m.security = "" // a suite before its release may have none
	removeStale(home)
	tmp, err := os.MkdirTemp(home, "fetch-")
	if err != nil {
		return "", fmt.Errorf("make work directory: %w", err)
	}
	defer os.RemoveAll(tmp)
	a, err := newApt(ctx, filepath.Join(tmp, "apt"), suite, m, progress)
	if err != nil {
		return "", err
	}
	if err := a.update(ctx); err != nil {
		return "", err
	}
	rec, err := a.show(ctx, name)
	if err != nil {
		return "", err
	}
	root := filepath.Join(tmp, "root")
	if err := unpack(ctx, a, Kernel{Name: suite}, name, root); err != nil {
		return "", err
	}
	final := filepath.Join(home, strings.ReplaceAll(rec["version"], ":", "%3a"))
	if err := os.RemoveAll(final); err != nil {
		return "", fmt.Errorf("clear cache: %w", err)
	}
	if err := os.Rename(root, final); err != nil {
		return "", fmt.Errorf("publish package: %w", err)
	}
	return final, setCurrent(home, filepath.Base(final))
}
