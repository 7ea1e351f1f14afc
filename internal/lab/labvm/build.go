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

// pkg is what `go list -json` says about a package.
type pkg struct {
	ImportPath   string
	Dir          string
	TestImports  []string
	XTestImports []string

	bin string // its compiled tests
}

// name returns the import path without the module.
func (p pkg) name() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// needsKernel reports whether a test file imports the lab or one of its helpers. Package vm
// and labvm are the lab's outside, their tests run on the host; captures, certificates
// and a Prometheus that receives need no kernel.
func (p pkg) needsKernel() bool {
	const lab = module + "/internal/lab"
	return slices.ContainsFunc(slices.Concat(p.TestImports, p.XTestImports), func(i string) bool {
		return i == lab || strings.HasPrefix(i, lab+"/") && i != lab+"/vm" && i != lab+"/ctreplay" && i != lab+"/prom" && i != lab+"/cert" && !strings.HasPrefix(i, lab+"/eval/") && i != lab+"/pcapct"
	})
}

// listPackages returns the packages matching patterns whose tests need a kernel.
func listPackages(ctx context.Context, patterns []string) ([]pkg, error) {
	args := append([]string{"list", "-e", "-json=ImportPath,Dir,TestImports,XTestImports"}, patterns...)
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
	return goBuild(ctx, "test", "-c", "-ldflags=-s -w", "-o", out, p.ImportPath)
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
