//go:build amd64 || arm64

package prefetch

// Lines asks for lines and does not wait for them.
//
//go:noescape
func Lines(at []Line)
