package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestImageDependency(t *testing.T) {
	for _, tt := range []struct{ depends, want string }{
		{"linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)", "linux-image-6.1.0-56-cloud-amd64"},
		{"foo, linux-image-cloud-amd64, linux-image-7.3.4+deb13-cloud-amd64 | bar", "linux-image-7.3.4+deb13-cloud-amd64"},
		{"kmod", ""},
		{"", ""},
	} {
		if got := imageDependency(tt.depends); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.depends, got, tt.want)
		}
	}
}

func TestPartDependencies(t *testing.T) {
	const release = "7.3.4+deb13-cloud-amd64"
	const depends = "dracut | initramfs-tools (>= 0.120+deb8u2), linux-base-" + release + " (= 7.3.4-1~bpo13+1), " +
		"linux-binary-" + release + " (= 7.3.4-1~bpo13+1), linux-modules-" + release + " (= 7.3.4-1~bpo13+1)"
	want := []string{"linux-base-" + release, "linux-binary-" + release, "linux-modules-" + release}
	if got := partDependencies(depends, release); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := partDependencies("kmod, linux-base (>= 4.3~)", "6.1.0-56-cloud-amd64"); got != nil {
		t.Errorf("a kernel in one package has parts: %v", got)
	}
}

func TestParseStanzas(t *testing.T) {
	const text = "Package: a\nVersion: 1:2-3\nDescription: first\n second\n\n\n# c\nPackage: b\n"
	got := parseStanzas(text)
	if len(got) != 2 || got[0]["version"] != "1:2-3" || got[0]["description"] != "first second" || got[1]["package"] != "b" {
		t.Errorf("got %q", got)
	}
}

func TestSourcesList(t *testing.T) {
	m := mirrors{"http://m.example/debian", "http://m.example/debian-security"}
	got := sourcesList("trixie", m)
	if !strings.Contains(got, "m.example/debian trixie main\n") || !strings.Contains(got, " trixie-security main\n") {
		t.Errorf("trixie: got %q", got)
	}
	if got := sourcesList("trixie-backports", m); strings.Contains(got, "security") {
		t.Errorf("backports have no security suite: %q", got)
	}
}

func TestAptConfKeepsOnlyNetworkSettings(t *testing.T) {
	const dump = "APT::Update::Post-Invoke:: \"rm x\";\nAcquire::http::Proxy \"http://p.example\";\nDir::Cache \"var/cache/apt\";\n"
	got := aptConf("/private", dump)
	if !strings.Contains(got, "p.example") || strings.Contains(got, "Post-Invoke") || strings.Contains(got, "var/cache") {
		t.Errorf("got %s", got)
	}
	if !strings.Contains(got, `Dir::Cache "/private/cache";`) {
		t.Errorf("no private cache in %s", got)
	}
}

func TestArrangeAndPublish(t *testing.T) {
	for _, tt := range []struct{ name, vmlinuz, modules string }{
		{"classic", "boot/vmlinuz-R", "lib/modules/R"},
		{"merged", "boot/vmlinuz-R", "usr/lib/modules/R"},
		{"split", "usr/lib/modules/R/vmlinuz", "usr/lib/modules/R"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cache := t.TempDir()
			t.Setenv("CTSIGHT_LAB_CACHE", cache)
			k := Kernel{Name: "6.1"}
			root := filepath.Join(cache, "root")
			mustWrite(t, filepath.Join(root, tt.vmlinuz), "kernel")
			mustWrite(t, filepath.Join(root, tt.modules, "kernel/net/a.ko"), "module")
			img := Image{Kernel: k, Version: "1:2", Release: "R", Format: imageFormat, Dir: filepath.Join(cache, "6.1", "tmp")}
			if err := arrange(root, img); err != nil {
				t.Fatal(err)
			}
			if _, err := publish(cache, img); err != nil {
				t.Fatal(err)
			}
			got, err := Fetch(t.Context(), k, &bytes.Buffer{}) // from the cache, without network
			if err != nil || got.Release != "R" {
				t.Fatalf("got %+v, %v", got, err)
			}
			for _, p := range []string{got.vmlinuz(), filepath.Join(got.modules(), "kernel/net/a.ko")} {
				if _, err := os.Stat(p); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestCachedImageOfOtherFormat(t *testing.T) {
	cache := t.TempDir()
	mustWrite(t, filepath.Join(cache, "6.1/current"), "v\n")
	mustWrite(t, filepath.Join(cache, "6.1/v/image.json"), `{"format": 0}`)
	if _, err := cachedImage(cache, Kernel{Name: "6.1"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want not exist", err)
	}
}

func TestLockExcludesAndObeysContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "lock")
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: got %v, want a deadline", err)
	}
	unlock()
	unlock, err = lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
