package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Fetch returns a kernel's image from the cache, and downloads it when there is none.
// It writes one line per downloaded package to progress.
func Fetch(ctx context.Context, k Kernel, progress io.Writer) (Image, error) {
	return fetch(ctx, k, progress, false)
}

// Refresh is Fetch, but asks the mirror for a newer version even when the cache has an image.
func Refresh(ctx context.Context, k Kernel, progress io.Writer) (Image, error) {
	return fetch(ctx, k, progress, true)
}

func fetch(ctx context.Context, k Kernel, progress io.Writer, refresh bool) (Image, error) {
	cache, err := CacheDir()
	if err != nil {
		return Image{}, err
	}
	unlock, err := lock(ctx, filepath.Join(cache, k.Name, "lock"))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if !refresh {
		img, err := cachedImage(cache, k)
		if !errors.Is(err, os.ErrNotExist) {
			return img, err
		}
	}
	img, err := fetchInto(ctx, cache, k, progress)
	if err != nil {
		return Image{}, fmt.Errorf("fetch kernel %s: %w", k.Name, err)
	}
	return img, nil
}

// fetchInto downloads and unpacks a kernel into the cache. All is done in a directory beside
// the final place, which is renamed when complete.
func fetchInto(ctx context.Context, cache string, k Kernel, progress io.Writer) (Image, error) {
	m, err := findMirrors("/etc/apt")
	if err != nil {
		return Image{}, err
	}
	removeStale(filepath.Join(cache, k.Name))
	tmp, err := os.MkdirTemp(filepath.Join(cache, k.Name), "fetch-")
	if err != nil {
		return Image{}, fmt.Errorf("make work directory: %w", err)
	}
	defer os.RemoveAll(tmp)
	a, err := newApt(ctx, filepath.Join(tmp, "apt"), k.Suite, m, progress)
	if err != nil {
		return Image{}, err
	}
	if err := a.update(ctx); err != nil {
		return Image{}, err
	}
	img, pkgs, err := resolve(ctx, a, k)
	if err != nil {
		return Image{}, err
	}
	if old, err := cachedImage(cache, k); err == nil && old.Version == img.Version {
		fmt.Fprintf(progress, "%-6s %s %s is current\n", k.Name, old.Package, old.Version)
		return old, nil
	}
	for _, p := range pkgs {
		if err := unpack(ctx, a, k, p, filepath.Join(tmp, "root")); err != nil {
			return Image{}, err
		}
	}
	img.Dir = filepath.Join(tmp, "image")
	if err := arrange(filepath.Join(tmp, "root"), img); err != nil {
		return Image{}, err
	}
	return publish(cache, img)
}

// removeStale clears what a killed run left. The caller holds the lock.
func removeStale(home string) {
	dirs, _ := filepath.Glob(filepath.Join(home, "fetch-*"))
	for _, d := range dirs {
		os.RemoveAll(d)
	}
}

// resolve finds the image package behind the meta-package, and all packages to download.
func resolve(ctx context.Context, a *apt, k Kernel) (Image, []string, error) {
	meta, err := a.show(ctx, k.Package)
	if err != nil {
		return Image{}, nil, err
	}
	name := imageDependency(meta["depends"])
	if name == "" {
		return Image{}, nil, fmt.Errorf("%s depends on no image: %q", k.Package, meta["depends"])
	}
	rec, err := a.show(ctx, name)
	if err != nil {
		return Image{}, nil, err
	}
	release := strings.TrimPrefix(name, "linux-image-")
	img := Image{Kernel: k, Package: name, Version: rec["version"], Release: release, Format: imageFormat}
	return img, append([]string{name}, partDependencies(rec["depends"], release)...), nil
}

// imageName matches an image package; the release starts with a digit, which meta-packages' do not.
var imageName = regexp.MustCompile(`^linux-image-[0-9]`)

// imageDependency returns the first image package in a Depends field.
func imageDependency(depends string) string {
	for _, name := range dependencies(depends) {
		if imageName.MatchString(name) {
			return name
		}
	}
	return ""
}

// partDependencies returns the packages a split kernel consists of. Since 7.x vmlinuz is in
// linux-binary-*, the modules in linux-modules-* and modules.builtin in linux-base-*.
func partDependencies(depends, release string) []string {
	var parts []string
	for _, name := range dependencies(depends) {
		if strings.HasPrefix(name, "linux-") && strings.HasSuffix(name, "-"+release) {
			parts = append(parts, name)
		}
	}
	return parts
}

// dependencies returns the names in a Depends field; of alternatives, the first.
func dependencies(depends string) []string {
	var names []string
	for d := range strings.SplitSeq(depends, ",") {
		if f := strings.Fields(d); len(f) > 0 {
			name, _, _ := strings.Cut(f[0], ":")
			names = append(names, name)
		}
	}
	return names
}

// unpack downloads one package and extracts it over root.
func unpack(ctx context.Context, a *apt, k Kernel, pkg, root string) error {
	deb, err := a.download(ctx, pkg)
	if err != nil {
		return err
	}
	st, err := os.Stat(deb)
	if err != nil {
		return fmt.Errorf("download %s: %w", pkg, err)
	}
	if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
		return fmt.Errorf("unpack %s: %w: %s", pkg, err, out)
	}
	fmt.Fprintf(a.progress, "%-6s %s %.1f MB\n", k.Name, filepath.Base(deb), float64(st.Size())/1e6)
	return os.Remove(deb)
}

// arrange moves the parts of an unpacked kernel to fixed places in img.Dir. Packages differ:
// vmlinuz in /boot or beside the modules, those in /lib or /usr/lib.
func arrange(root string, img Image) error {
	if err := os.MkdirAll(filepath.Dir(img.modules()), 0o755); err != nil {
		return fmt.Errorf("arrange image: %w", err)
	}
	r := img.Release
	if err := moveFirst(root, img.vmlinuz(), "boot/vmlinuz-"+r, "usr/lib/modules/"+r+"/vmlinuz", "lib/modules/"+r+"/vmlinuz"); err != nil {
		return err
	}
	if err := moveFirst(root, img.modules(), "usr/lib/modules/"+r, "lib/modules/"+r); err != nil {
		return err
	}
	err := moveFirst(root, filepath.Join(img.Dir, "config"), "boot/config-"+r, "usr/lib/modules/"+r+"/config")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return saveImage(img)
}

// moveFirst moves the first of the candidates that exists.
func moveFirst(root, to string, candidates ...string) error {
	for _, c := range candidates {
		err := os.Rename(filepath.Join(root, c), to)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("find %s in the package: %w", strings.Join(candidates, " or "), os.ErrNotExist)
}
