package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ctsight/ctsight/internal/lab/vm"
)

// runExec runs a command in each chosen kernel. With several kernels a heading on stderr says
// whose output follows, and the first code other than 0 is returned.
func runExec(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	fs := newFlagSet("labvm", stderr)
	g := guestFlags{ // 6.12: has every kind of hook and is in a stable release
		kernels: kernelFlag(vm.Kernels()[2:3]),
	}
	g.register(fs, 5*time.Minute)
	withBinary := fs.Bool("ctsight", false, "build ctsight and put it into the guest")
	out := fs.String("out", "", "directory that gets the guest's /out, in one subdirectory per kernel")
	if err := fs.Parse(args); err != nil {
		return codeUsage, err
	}
	if fs.NArg() == 0 {
		return codeUsage, errors.New("no command: labvm -kernel all -- uname -a")
	}
	spec := vm.Spec{Files: g.add, Env: g.env, Command: fs.Args(), Systemd: g.systemd}
	if *withBinary {
		tmp, err := os.MkdirTemp("", "labvm-")
		if err != nil {
			return codeFailed, err
		}
		defer os.RemoveAll(tmp)
		bin := filepath.Join(tmp, "ctsight")
		if err := buildBinary(ctx, bin); err != nil {
			return codeFailed, err
		}
		spec.Files = append(spec.Files, vm.File{Host: bin, Guest: guestBinary})
	}
	return execAll(ctx, g, spec, *out, stdout, stderr)
}

// execAll boots one kernel after the other.
func execAll(ctx context.Context, g guestFlags, spec vm.Spec, out string, stdout, stderr io.Writer) (code int, err error) {
	for _, k := range g.kernels {
		if len(g.kernels) > 1 {
			fmt.Fprintf(stderr, "== %s\n", k.Name)
		}
		o := g.options(stderr)
		o.Stdout = stdout
		if out != "" {
			o.Out = filepath.Join(out, k.Name)
		}
		c, e := execOne(ctx, k, spec, o, g.verbose, stderr)
		if code == 0 {
			code = c
		}
		if ctx.Err() != nil {
			return codeVM, ctx.Err()
		}
		err = errors.Join(err, e)
	}
	return code, err
}

// execOne boots one kernel.
func execOne(ctx context.Context, k vm.Kernel, spec vm.Spec, o vm.Options, verbose bool, stderr io.Writer) (int, error) {
	img, err := vm.Fetch(ctx, k, stderr)
	if err != nil {
		return codeVM, err
	}
	res, err := vm.Run(ctx, img, spec, o)
	if err != nil {
		return codeVM, err
	}
	if verbose {
		fmt.Fprintf(stderr, "%s (%s): boot %.1fs, command %.1fs, exit code %d\n",
			k.Name, img.Release, res.Boot.Seconds(), res.Elapsed.Seconds(), res.Code)
	}
	for _, s := range res.Splats() {
		fmt.Fprintf(stderr, "%s kernel log: %s\n", k.Name, s)
	}
	return res.Code, nil
}

// runFetch fills the cache.
func runFetch(ctx context.Context, args []string, stderr io.Writer) (int, error) {
	fs := newFlagSet("labvm fetch", stderr)
	kernels := kernelFlag(vm.Kernels())
	fs.Var(&kernels, "kernel", "comma-separated kernels to fetch, or all")
	refresh := fs.Bool("refresh", false, "ask the mirror for newer versions")
	if err := fs.Parse(args); err != nil {
		return codeUsage, err
	}
	fetch := vm.Fetch
	if *refresh {
		fetch = vm.Refresh
	}
	for _, k := range kernels {
		img, err := fetch(ctx, k, stderr)
		if err != nil {
			return codeFailed, err
		}
		fmt.Fprintf(stderr, "%-6s ready: %s in %s\n", k.Name, img.Release, img.Dir)
	}
	return 0, nil
}
