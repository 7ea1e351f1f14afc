package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// moduleTrees are the parts of lib/modules/<release>/kernel that the guest gets: the whole
// network stack and what it leans on, but of the drivers only virtual devices.
var moduleTrees = []string{
	"net", "lib", "crypto", "arch/x86/crypto", "arch/x86/lib",
	"drivers/net/veth", "drivers/net/dummy", "drivers/net/tun", "drivers/net/ifb",
	"drivers/net/macvlan", "drivers/net/vrf", "drivers/net/nlmon", "drivers/net/bonding", "drivers/net/vxlan",
	"drivers/net/wireguard",
}

// modulesLayer returns the archive with an image's modules, decompressed and indexed.
func modulesLayer(ctx context.Context, img Image) (string, error) {
	path := filepath.Join(img.Dir, fmt.Sprintf("modules-%d.cpio", layerFormat))
	return cachedLayer(ctx, path, func(c *cpioWriter) error {
		stage, err := os.MkdirTemp(img.Dir, "stage-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(stage)
		if err := stageModules(ctx, img, stage); err != nil {
			return err
		}
		return c.tree("usr/lib/modules", filepath.Join(stage, "usr/lib/modules"))
	})
}

// stageModules makes a small root with the wanted modules. depmod looks in lib or usr/lib,
// depending on its version; a link serves both.
func stageModules(ctx context.Context, img Image, stage string) error {
	home := filepath.Join(stage, "usr/lib/modules", img.Release)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("usr/lib", filepath.Join(stage, "lib")); err != nil {
		return err
	}
	packed, err := copyModules(img.modules(), home)
	if err != nil {
		return err
	}
	if err := decompress(ctx, packed); err != nil {
		return err
	}
	depmod, err := locate("depmod")
	if err != nil {
		return fmt.Errorf("index modules, install kmod: %w", err)
	}
	cmd := exec.CommandContext(ctx, depmod, "-b", stage, img.Release)
	cmd.Args[0] = "depmod" // locate resolved the link to kmod, which goes by its name
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("index modules: %w: %s", err, out)
	}
	return nil
}

// copyModules copies the wanted modules and the lists depmod reads. It returns the copies
// that are still compressed.
func copyModules(from, to string) (packed []string, err error) {
	err = filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil || !wantedModule(rel) {
			return err
		}
		dst := filepath.Join(to, rel)
		if ext := filepath.Ext(rel); ext == ".xz" || ext == ".zst" {
			packed = append(packed, dst)
		}
		return copyFile(p, dst)
	})
	return packed, err
}

// wantedModule tells by the path below lib/modules/<release>.
func wantedModule(rel string) bool {
	if strings.HasPrefix(rel, "modules.builtin") || rel == "modules.order" {
		return true
	}
	rest, ok := strings.CutPrefix(rel, "kernel/")
	return ok && slices.ContainsFunc(moduleTrees, func(t string) bool {
		return strings.HasPrefix(rest, t+"/") || strings.HasPrefix(rest, t+".ko")
	})
}

// copyFile copies one file and makes its directory.
func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// decompress unpacks module files in place, many per process.
func decompress(ctx context.Context, files []string) error {
	for cmd, ext := range map[string]string{"xz": ".xz", "zstd": ".zst"} {
		mine := slices.DeleteFunc(slices.Clone(files), func(f string) bool { return filepath.Ext(f) != ext })
		for chunk := range slices.Chunk(mine, 200) {
			args := append([]string{"-d", "-q", "-f"}, chunk...)
			if cmd == "zstd" {
				args = append([]string{"--rm"}, args...)
			}
			if out, err := exec.CommandContext(ctx, cmd, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("decompress modules with %s: %w: %s", cmd, err, out)
			}
		}
	}
	return nil
}
