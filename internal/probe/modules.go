package probe

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// moduleLoads tells one load of a module from the next: a module may come back
// at the address where it was, but its directory in sysfs is a new one.
func moduleLoads() map[string]uint64 {
	out := map[string]uint64{}
	for _, m := range hookModules {
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/sys/module", m), &st) == nil {
			out[m] = st.Ino
		}
	}
	return out
}
