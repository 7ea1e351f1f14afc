// Package vm fetches Debian kernels, packs a small guest around them and boots it under QEMU.
//
//	Fetch -> Image -> BuildInitramfs(Image, Spec) -> Run -> Result
//
// It knows nothing of Go tests: which binaries run in the guest and what their output means
// is left to internal/lab/labvm.
package vm

import (
	"fmt"
	"slices"
	"strings"
)

// Kernel is one row of the matrix: where a kernel line comes from.
type Kernel struct {
	Name    string `json:"name"`    // what users and tests call it
	Suite   string `json:"suite"`   // Debian suite
	Package string `json:"package"` // meta-package that depends on the current image
}

const metaPackage = "linux-image-cloud-amd64"

// Kernels returns the kernels tests run on, oldest first.
func Kernels() []Kernel {
	return []Kernel{
		{Name: "5.10", Suite: "bullseye", Package: metaPackage},
		{Name: "6.1", Suite: "bookworm", Package: metaPackage},
		{Name: "6.12", Suite: "trixie", Package: metaPackage},
		{Name: "newest", Suite: "trixie-backports", Package: metaPackage},
	}
}

// SelectKernels returns the kernels of a comma-separated list of names, in matrix order;
// "all" stands for every one.
func SelectKernels(list string) ([]Kernel, error) {
	all := Kernels()
	if list == "all" {
		return all, nil
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if !slices.ContainsFunc(all, func(k Kernel) bool { return k.Name == n }) {
			return nil, fmt.Errorf("kernel %q is not one of %s", n, kernelNames(all))
		}
	}
	return slices.DeleteFunc(all, func(k Kernel) bool { return !slices.Contains(names, k.Name) }), nil
}

// kernelNames joins the names for messages.
func kernelNames(ks []Kernel) string {
	var names []string
	for _, k := range ks {
		names = append(names, k.Name)
	}
	return strings.Join(append(names, "all"), ", ")
}
