#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The same random file operations on a mount and on a host folder: the same results, then the same trees, also after
# a new mount, a clean e2fsck, and what the kernel's own driver reads where it can be asked.
. "$VHDKIT_SRCDIR/tests/e2e/mount-lib.sh" || exit 1

kernel_skipped=

# round SEED COUNT RUN MKFS...
round() {
	local seed=$1 count=$2 run=$3
	shift 3
	rm -rf h && mkdir h
	rm -f d.vhd
	image d.vhd 300M dos "$@"
	vhd-mount d.vhd m || fail "vhd-mount ($*)"
	"$exercise" "$run" "$seed" "$count" m h
	case $? in
	0) ;;
	77) skip 'the temporary folder has no extended attributes' ;;
	*) fail "operations differ ($*, seed $seed)" ;;
	esac
	vhd-umount m || fail "vhd-umount ($*)"
	sound d.vhd
	vhd-mount -r d.vhd m || fail "vhd-mount -r ($*)"
	"$exercise" compare m h || fail "trees differ after a new mount ($*, seed $seed)"
	vhd-umount m || fail "vhd-umount after -r ($*)"
	if [ "$(id -u)" -ne 0 ]; then
		kernel_skipped='only root can mount with a loop device'
	elif ! mount -o loop,ro part.raw m 2> loop.log; then
		kernel_skipped=$(cat loop.log)
	else
		"$exercise" compare m h || fail "the kernel reads another tree ($*, seed $seed)"
		umount m
	fi
}

round 1 4000 run mkfs.ext4 -q
round 2 4000 run mkfs.ext2 -q
round 3 2000 run mkfs.ext3 -q -b 1024 -O ^dir_index
round 4 2000 run-old-times mkfs.ext4 -q -b 2048 -I 128
round 5 2000 run mkfs.ext4 -q -b 4096 -O ^metadata_csum,^64bit,^flex_bg
[ -z "$kernel_skipped" ] || printf 'not compared with what the kernel reads: %s\n' "$kernel_skipped" >&2
