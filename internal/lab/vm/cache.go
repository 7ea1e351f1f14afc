package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// imageFormat is part of the cache's layout; raise it when an Image's directory changes.
const imageFormat = 1

// Image is an unpacked kernel in the cache. Its directory holds vmlinuz, config (where the
// package has one) and lib/modules/<release>.
type Image struct {
	Kernel  Kernel `json:"kernel"`
	Package string `json:"package"` // for instance linux-image-6.1.0-56-cloud-amd64
	Version string `json:"version"` // Debian version of the package
	Release string `json:"release"` // what uname -r says
	Format  int    `json:"format"`
	Dir     string `json:"-"`
}

func (i Image) vmlinuz() string { return filepath.Join(i.Dir, "vmlinuz") }
func (i Image) modules() string { return filepath.Join(i.Dir, "lib/modules", i.Release) }

// CacheDir returns the directory that holds kernels and initramfs layers between runs.
func CacheDir() (string, error) {
	if d := os.Getenv("CTSIGHT_LAB_CACHE"); d != "" {
		return filepath.Abs(d)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory, set CTSIGHT_LAB_CACHE: %w", err)
	}
	return filepath.Join(base, "ctsight", "lab"), nil
}

// cachedImage returns the current image of a kernel; fs.ErrNotExist when there is none.
func cachedImage(cache string, k Kernel) (Image, error) {
	version, err := os.ReadFile(filepath.Join(cache, k.Name, "current"))
	if err != nil {
		return Image{}, fmt.Errorf("read cache: %w", err)
	}
	return loadImage(filepath.Join(cache, k.Name, strings.TrimSpace(string(version))))
}

// loadImage reads a cached image's description. It is written last, so where it exists the
// directory is complete.
func loadImage(dir string) (Image, error) {
	b, err := os.ReadFile(filepath.Join(dir, "image.json"))
	if err != nil {
		return Image{}, fmt.Errorf("read cache: %w", err)
	}
	img := Image{Dir: dir}
	if err := json.Unmarshal(b, &img); err != nil {
		return Image{}, fmt.Errorf("read %s/image.json: %w", dir, err)
	}
	if img.Format != imageFormat {
		return Image{}, fmt.Errorf("%s has format %d, not %d: %w", dir, img.Format, imageFormat, os.ErrNotExist)
	}
	return img, nil
}

// saveImage describes img in its directory.
func saveImage(img Image) error {
	b, err := json.MarshalIndent(img, "", "\t")
	if err != nil {
		return fmt.Errorf("describe image: %w", err)
	}
	return os.WriteFile(filepath.Join(img.Dir, "image.json"), append(b, '\n'), 0o644)
}

// publish moves a finished image to its place in the cache and makes it the current one.
func publish(cache string, img Image) (Image, error) {
	home := filepath.Join(cache, img.Kernel.Name)
	final := filepath.Join(home, strings.ReplaceAll(img.Version, ":", "%3a"))
	if err := os.RemoveAll(final); err != nil { // an incomplete or older layout
		return Image{}, fmt.Errorf("clear cache: %w", err)
	}
	if err := os.Rename(img.Dir, final); err != nil {
		return Image{}, fmt.Errorf("publish image: %w", err)
	}
	img.Dir = final
	return img, setCurrent(home, filepath.Base(final))
}

// setCurrent records which version of a kernel is used, in one atomic step.
func setCurrent(home, version string) error {
	tmp := filepath.Join(home, "current.tmp")
	if err := os.WriteFile(tmp, []byte(version+"\n"), 0o644); err != nil {
		return fmt.Errorf("record current version: %w", err)
	}
	return os.Rename(tmp, filepath.Join(home, "current"))
}

// lock takes an exclusive lock on a file, so that two runs do not fill the cache at once.
// It polls because a blocked flock cannot be interrupted by ctx.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			f.Close()
			return nil, fmt.Errorf("wait for %s: %w", path, err)
		}
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
