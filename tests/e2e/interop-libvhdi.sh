#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# libvhdi reads what we make: vhdiinfo its size and identifier, vhdimount its content where FUSE is to be had.
# libvhdi misreads a differencing disk's bitmap bytes that are neither 00 nor ff, and its tools take no parent: whole
# 4 KiB are written, and chains are compared after the child covers what it changes by whole blocks.
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
# shellcheck source=tests/lib/images.sh
. "$srcdir/tests/lib/images.sh"
command -v vhdiinfo >/dev/null || skip "vhdiinfo is not installed (Debian, Ubuntu: libvhdi-utils)"

dir=$(mktemp -d)
unmount() {
	fusermount3 -u "$dir/mnt" 2>/dev/null || fusermount -u "$dir/mnt" 2>/dev/null || umount "$dir/mnt" 2>/dev/null
}
trap 'unmount; rm -rf "$dir"' EXIT
mkdir "$dir/mnt"
cd "$dir" || exit 1

info_check() { # FILE SIZE TYPE
	local said
	said=$(vhdiinfo "$1" 2>&1)
	if [[ $said == *"($2 bytes)"* && $said == *"$3"* && $said == *"$(vhd info --json "$1" | json_value uuid)"* ]]; then
		passed=$((passed + 1))
	else
		fail "$1: size $2, type $3 or identifier not in what vhdiinfo says: $said"
	fi
}

mounts=yes
content_check_by_mount() { # FILE RAW
	[ $mounts = yes ] || return 0
	if ! vhdimount "$1" mnt >said 2>&1; then
		if grep -qi 'fuse\|mount' said && [ "$passed_mounts" = 0 ]; then
			mounts=no
			echo "vhdimount does not work here, so no content is compared: $(tail -n 1 said)" >&2
			return 0
		fi
		fail "vhdimount refuses $1: $(cat said)"
		return 1
	fi
	passed_mounts=$((passed_mounts + 1))
	if cmp "$2" mnt/vhdi1; then passed=$((passed + 1)); else fail "$1: vhdimount shows another content"; fi
	unmount
}
passed_mounts=0

for size in 4096 3145728 34091008 268435456; do
	for type in dynamic fixed; do
		rm -f disk.raw ours.vhd
		truncate -s $size disk.raw
		for at in 0 2 700 8000; do
			[ $((at * 4096 + 8192)) -gt $size ] && continue
			head -c 8192 /dev/urandom | dd of=disk.raw bs=4096 seek=$at conv=notrunc status=none
		done
		vhd create --type=$type --size=$size ours.vhd || fail "create $type $size"
		vhd write --progress=none ours.vhd 0 <disk.raw || fail "write $type $size"
		info_check ours.vhd $size "$([ $type = fixed ] && echo Fixed || echo Dynamic)"
		content_check_by_mount ours.vhd disk.raw
	done
done

# A small block size, and a differencing disk: what it says of its parent.
rm -f ours.vhd disk.raw
truncate -s 1M disk.raw
head -c 100000 /dev/urandom | dd of=disk.raw bs=65536 seek=3 conv=notrunc status=none
vhd create --size=1M --block-size=64K ours.vhd
vhd write --progress=none ours.vhd 0 <disk.raw
info_check ours.vhd 1048576 Dynamic
content_check_by_mount ours.vhd disk.raw
vhd create -b ours.vhd child.vhd || fail "create a child"
head -c 131072 /dev/urandom >part
vhd write --progress=none child.vhd 65536 <part
info_check child.vhd 1048576 Differen
said=$(vhdiinfo child.vhd)
parent=$(vhd info --json ours.vhd | json_value uuid)
if [[ $said == *"$parent"* && $said == *ours.vhd* ]]; then passed=$((passed + 1)); else
	fail "vhdiinfo does not name the parent: $said"
fi

echo "$passed comparisons with libvhdi hold ($passed_mounts by content), $failures failures"
[ "$passed" -gt 0 ] && [ "$failures" = 0 ]
