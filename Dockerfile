# Nothing but the binary, which is static: make image builds it first.
#
#   docker run --rm --pid=host --network=host --read-only \
#     --cap-drop=ALL --cap-add=SYS_ADMIN --cap-add=NET_ADMIN --cap-add=SYS_PTRACE --cap-add=SYSLOG \
#     --cap-add=SYS_NICE --cap-add=BPF --cap-add=PERFMON --security-opt=apparmor=unconfined \
#     -v /run/netns:/run/netns:ro,rslave ctsight:dev
#
# Why each of these: docs/install.md. Without a firewall's rules or NAT on the host
# nothing has loaded nf_conntrack, and it waits.
FROM scratch
ARG VERSION=devel
ARG REVISION=
LABEL org.opencontainers.image.title="ctsight" \
      org.opencontainers.image.description="tracer for the Linux connection tracking table" \
      org.opencontainers.image.source="https://github.com/ctsight/ctsight" \
      org.opencontainers.image.documentation="https://github.com/ctsight/ctsight/blob/main/docs/install.md" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY bin/ctsight /ctsight
# No USER: runtimes give capabilities to root only, since the kernel has ambient ones
# and they do not set them. File capabilities would do, if it were not for
# no_new_privs, which the binary sets and pods often have. Root here has no other
# capability than those above, ctsight gives up what is not among them, and no file
# is written.
EXPOSE 9781
STOPSIGNAL SIGTERM
ENTRYPOINT ["/ctsight"]
CMD ["serve"]
