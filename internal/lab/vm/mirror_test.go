package vm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestFindMirrors(t *testing.T) {
	const deb822 = `# a comment
Types: deb
# URIs: http://old.example/debian
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
`
	const vendor = "Types: deb\nURIs: https://vendor.example/node\nSuites: nodistro\nComponents: main\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  mirrors
		err   error
	}{
		{"deb822", map[string]string{"sources.list.d/debian.sources": deb822, "sources.list.d/a.sources": vendor},
			mirrors{"http://mirror.example/debian", "http://mirror.example/debian-security"}, nil},
		{"one line", map[string]string{"sources.list": "# deb http://no.example/debian x main\n" +
			"deb [arch=amd64 signed-by=/k] http://one.example/debian/ bookworm main\n" +
			"deb http://one.example/debian-security bookworm-security main\ndeb-src http://src.example/debian x main\n"},
			mirrors{"http://one.example/debian/", "http://one.example/debian-security"}, nil},
		{"no security", map[string]string{"sources.list": "deb http://one.example/mirror bookworm main\n"},
			mirrors{main: "http://one.example/mirror"}, nil},
		{"none", nil, mirrors{}, ErrNoMirror},
	} {
		t.Run(tt.name, func(t *testing.T) {
			etc := t.TempDir()
			for name, text := range tt.files {
				mustWrite(t, filepath.Join(etc, name), text)
			}
			got, err := findMirrors(etc)
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Errorf("got %+v, %v, want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestFindMirrorsFromEnvironment(t *testing.T) {
	t.Setenv(EnvMirror, "http://env.example/debian")
	got, err := findMirrors(t.TempDir())
	if want := (mirrors{main: "http://env.example/debian"}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
