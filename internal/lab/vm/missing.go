package vm

import (
	"os"
	"slices"
)

// MissingPackages returns the Debian packages that this machine lacks to fetch and boot a
// kernel, sorted; none when everything is there.
func MissingPackages() []string {
	var missing []string
	lack := func(pkg string) {
		if !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	need := append([]tool{{qemu, "qemu-system-x86"}, {"busybox", "busybox-static"}, {"dpkg-deb", "dpkg"}, {"apt-get", "apt"}}, tools...)
	for _, t := range need {
		if t.pkg == "" {
			continue
		}
		if path, err := locate(t.name); err != nil || t.name == "busybox" && dynamic(path) {
			lack(t.pkg)
		}
	}
	if _, err := os.Stat(keyring); err != nil {
		lack("debian-archive-keyring")
	}
	slices.Sort(missing)
	return missing
}
