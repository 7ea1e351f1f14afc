# Nothing but the binary: make image builds it first.
FROM scratch
COPY bin/ctsight /ctsight
# Needs CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_SYSLOG and the
# host's pid namespace to see all network namespaces:
#   docker run --rm --privileged --pid=host ctsight:dev doctor
ENTRYPOINT ["/ctsight"]
