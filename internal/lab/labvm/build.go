package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	module      = "github.com/ctsight/ctsight"
	guestBinary = "/usr/local/bin/ctsight"
)

// pkg is what `go list -test -json` says about a package's test binary.
type pkg struct {
	ImportPath string // with .test behind it
	Dir        string
	Deps       []string

	bin string // its compiled tests
}

// testBinary ends the import path of the program that go test makes of a package.
const testBinary = ".test"

// path returns the import path of the package that is tested.
func (p pkg) path() string { return strings.TrimSuffix(p.ImportPath, testBinary) }

// name returns the import path without the module.
func (p pkg) name() string { return strings.TrimPrefix(strings.TrimPrefix(p.path(), module), "/") }

// needsKernel reports whether tests know that they are in a guest: package lab says so, and
// whoever needs none of it, nor a helper that does, has no test of a kernel.
func (p pkg) needsKernel() bool {
	const lab = module + "/internal/lab"
	return strings.HasSuffix(p.ImportPath, testBinary) &&
		(p.path() == lab || slices.Contains(p.Deps, lab))
}

// listPackages returns the packages matching patterns whose tests need a kernel.
func listPackages(ctx context.Context, patterns []string) ([]pkg, error) {
	args := append([]string{"list", "-e", "-test", "-json=ImportPath,Dir,Deps"}, patterns...)
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", withStderr(err))
	}
	return parsePackages(bytes.NewReader(out))
}

// parsePackages reads the stream of JSON objects.
func parsePackages(r io.Reader) ([]pkg, error) {
	var all []pkg
	for dec := json.NewDecoder(r); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse package list: %w", err)
		}
		if p.needsKernel() {
			all = append(all, p)
		}
	}
}

// buildTest compiles a package's tests to a static binary.
func buildTest(ctx context.Context, p pkg, out string) error {
	return goBuild(ctx, "test", "-c", "-ldflags=-s -w", "-o", out, p.path())
}

// buildBinary compiles ctsight itself.
func buildBinary(ctx context.Context, out string) error {
	return goBuild(ctx, "build", "-ldflags=-s -w", "-o", out, module+"/cmd/ctsight")
}

// goBuild runs the go tool without cgo, so that the result needs no library in the guest.
func goBuild(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if _, err := cmd.Output(); err != nil {
		return fmt.Errorf("go %s: %w", args[0], withStderr(err))
	}
	return nil
}

// withStderr adds what a command wrote to stderr to its error.
func withStderr(err error) error {
	var ee *exec.ExitError
	if errors.As(err, &ee) && len(ee.Stderr) > 0 {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(ee.Stderr))
	}
	return err
}

// moduleRoot returns the directory of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module: %w", withStderr(err))
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("find module: run labvm inside the checkout")
	}
	return filepath.Dir(mod), nil
}
