package uplot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sums are those of the files of the npm package.
var sums = map[string]string{
	"dist/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
	"dist/uPlot.min.css":     "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
	"LICENSE":                "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}

var ours = map[string]*string{"dist/uPlot.iife.min.js": &Script, "dist/uPlot.min.css": &Style, "LICENSE": &License}

// The files are those of the version that is said, unchanged.
func TestUnchanged(t *testing.T) {
	for name, want := range sums {
		sum := sha256.Sum256([]byte(*ours[name]))
		if got := hex.EncodeToString(sum[:]); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if !strings.Contains(Script[:100], "(v"+Version+")") {
		t.Errorf("the script says %.100q", Script)
	}
}

// They are equal to those of the npm package (make deps-uplot), byte for byte.
func TestPackage(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "bin", "uplot", "node_modules", "uplot")
	b, err := os.ReadFile(filepath.Join(dir, "package.json"))
	if err != nil {
		t.Skip("needs the npm package of uPlot: make deps-uplot")
	}
	var p struct{ Version, License string }
	if err := json.Unmarshal(b, &p); err != nil || p.Version != Version || p.License != "MIT" {
		t.Errorf("package %+v %v, want %s under MIT", p, err, Version)
	}
	for name, is := range ours {
		b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil || string(b) != *is {
			t.Errorf("%s differs from the package's (%v)", name, err)
		}
	}
}
