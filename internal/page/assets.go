package page

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/ctsight/ctsight/internal/markup"
)

//go:embed page.css
var style []byte

//go:embed page.js
var script []byte

//go:embed icon.svg
var icon []byte

// File is what the document refers to. Its name changes with its bytes.
type File struct {
	Path string // as served, from the root
	Type string // of content
	Body []byte
}

var (
	styleFile  = newFile("page.css", "text/css; charset=utf-8", slices.Concat([]byte(markup.Base), style))
	scriptFile = newFile("page.js", "text/javascript; charset=utf-8", script)
	iconFile   = newFile("icon.svg", "image/svg+xml", icon)
)

// Files are all that a document refers to.
func Files() []File { return []File{styleFile, scriptFile, iconFile} }

func newFile(name, contentType string, body []byte) File {
	sum := sha256.Sum256(body)
	base, ext, _ := strings.Cut(name, ".")
	return File{"/static/" + base + "-" + hex.EncodeToString(sum[:6]) + "." + ext, contentType, body}
}
