#!/bin/bash
# First process of the lab's guest: prepares a minimal system and lets report.sh do the rest.
# Kernel messages go to the first serial port. No conntrack module is loaded here.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security
ln -sf /proc/self/fd /dev/fd
ip link set lo up
hostname ctsight-lab

exec /lab/report
