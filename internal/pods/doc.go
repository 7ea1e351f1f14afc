// Package pods names network namespaces after whom they belong to: a Kubernetes
// pod, a container or a systemd unit. It asks neither the API server nor anything
// else on the network: the cgroup of a process inside a namespace tells the UID of
// the pod and the id of the container, and the socket of the container runtime, if
// it is given, what people call that pod. Everything read here was named by others
// and is data: its length is bounded and its shape is checked; escaping it is for
// whoever prints it.
package pods
