# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the mount-*.sh tests. shellcheck shell=bash
# A folder `m` to mount on, images with file systems, and what must hold afterwards.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

PATH=$PATH:/usr/sbin:/sbin
needs vhd-mount fusermount3 sfdisk mkfs.ext4 e2fsck
{ : <> /dev/fuse; } 2> /dev/null || skip 'needs FUSE: /dev/fuse cannot be opened'
exercise=$VHDKIT_BUILDDIR/tests/fs-exercise
mkdir m h

mount_done() {
	cd "$work" && fusermount3 -u -z m 2> /dev/null
	cd / && rm -rf --one-file-system "$work"
}
trap mount_done EXIT

# image FILE SIZE TABLE MKFS...: an image with one partition, made and formatted through --raw.
image() {
	local file=$1 size=$2 table=$3
	shift 3
	vhd create -s "$size" "$file" || fail "vhd create $file"
	vhd-mount --raw "$file" m || fail "vhd-mount --raw $file"
	printf 'label: %s\nstart=2048,type=L\n' "$table" | sfdisk -q m/disk.raw || fail 'sfdisk on disk.raw'
	[ -f m/p1.raw ] || fail 'no p1.raw after sfdisk'
	"$@" m/p1.raw > mkfs.log 2>&1 || { cat mkfs.log >&2; fail "$* on p1.raw"; }
	vhd-umount m || fail 'vhd-umount after --raw'
}

# sound FILE: its first partition is clean for e2fsck, by way of a raw copy.
sound() {
	vhd check "$1" > check.log 2>&1 || { cat check.log >&2; fail "vhd check $1"; }
	rm -f whole.raw part.raw
	vhd convert -O raw "$1" whole.raw || fail "vhd convert $1"
	dd if=whole.raw of=part.raw bs=1M skip=1 conv=sparse status=none
	rm -f whole.raw
	e2fsck -fn part.raw > fsck.log 2>&1 || { cat fsck.log >&2; fail "e2fsck finds $1 damaged"; }
}
