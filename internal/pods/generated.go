package pods

import "strings"

// Generated says that a name under /run/netns was made up by a container runtime:
// cni-UUID by containerd, UUID by CRI-O, netns-UUID by podman. It names nothing that
// an operator has seen elsewhere.
func Generated(name string) bool {
	for _, prefix := range []string{"cni-", "netns-"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return isUUID(rest)
		}
	}
	return isUUID(name)
}
