#!/bin/bash
# First process of a guest with systemd. Services have mount namespaces of their own, which
# they enter with pivot_root; that does not take the root an initramfs was unpacked into, but
# it takes the same files mounted over it.
mount --bind / /mnt
cd /mnt
mount --move . /
exec chroot . /lib/systemd/systemd
