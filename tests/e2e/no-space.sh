#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A full file system below the image, whichever step meets it: an error that names the file and says why, an image that
# is sound, sectors that are what they were or what was written, and work that goes on once there is room.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

PATH=$PATH:/usr/sbin:/sbin
helper=$VHDKIT_BUILDDIR/tests/kill-rounds
[ "$(id -u)" -eq 0 ] || skip 'needs root, to mount small file systems'
mkdir fs m
unmount() {
	cd "$work" || exit 1
	fusermount3 -u -z m 2> /dev/null
	umount fs 2> /dev/null || umount -l fs 2> /dev/null
	cd / && rm -rf --one-file-system "$work"
}
trap unmount EXIT
bytes 8M > new.raw
truncate -s 8M zeros.raw

# leave KIB: fills the file system up to that.
leave() {
	local free
	sync -f fs
	free=$(($(stat -f -c '%a * %S / 1024' fs)))
	[ "$free" -le "$1" ] || dd if=/dev/zero of=fs/filler bs=1K count=$((free - $1)) status=none 2> /dev/null
	sync -f fs
}

room() {
	rm -f fs/filler
	sync -f fs
}

# full COMMAND...: it fails for lack of space, and says for which file.
full() {
	exits 1 "$@"
	says err fs/
	grep -qi 'no space left' err || fail "$* does not say that there is no space: $(cat err)"
}

stages() {
	local free code
	echo "on $1" >&2

	# Creating: nothing is there afterwards, under no name.
	full vhd create -t fixed -s 200M fs/new.vhd
	leave 0
	full vhd create -s 100G fs/new.vhd
	[ -z "$(find fs -name '*new.vhd*')" ] || fail "left behind: $(find fs -name '*new.vhd*')"
	room
	exits 0 vhd create -s 8M --block-size 64K fs/new.vhd
	exits 0 vhd create -s 8M --block-size 64K fs/empty.vhd

	# Writing, with room for nothing, for the first blocks, for most of them.
	for free in 0 40 200 1000 3000 6000; do
		cp fs/empty.vhd fs/a.vhd
		leave $free
		full vhd write fs/a.vhd 0 < new.raw
		exits 0 vhd check fs/a.vhd
		exits 0 "$helper" either fs/a.vhd zeros.raw new.raw
		room
		exits 0 vhd write fs/a.vhd 0 < new.raw
		exits 0 vhd compare -F raw fs/a.vhd new.raw
		exits 0 vhd check fs/a.vhd
		rm fs/a.vhd
	done

	# A new file is whole or not there.
	for free in 0 1000 5000; do
		leave $free
		full vhd convert -f raw new.raw fs/b.vhd
		[ -z "$(find fs -name '*b.vhd*')" ] || fail "left behind: $(find fs -name '*b.vhd*')"
		room
	done
	exits 0 vhd convert -f raw new.raw fs/b.vhd
	exits 0 vhd compare -F raw fs/b.vhd new.raw

	# Giving space back works when there is none; where it has to be written, the disk holds old or new.
	leave 0
	vhd discard fs/b.vhd 0 4M > out 2> err
	code=$?
	[ $code -le 1 ] || fail "vhd discard exits with $code: $(cat err)"
	exits 0 vhd check fs/b.vhd
	exits 0 "$helper" either fs/b.vhd new.raw zeros.raw
	room
	exits 0 vhd discard fs/b.vhd 0 4M
	rm fs/b.vhd fs/new.vhd

	upkeep
	mounted
	rm fs/*.vhd
}

upkeep() {
	vhd merge --help > help 2>&1 || { echo 'not tested: vhd merge is not there' >&2; return; }
	exits 0 vhd create -s 8M --block-size 64K fs/base.vhd
	exits 0 vhd create -b fs/base.vhd --block-size 64K fs/child.vhd
	exits 0 vhd write fs/child.vhd 0 < new.raw
	leave 300
	full vhd merge fs/child.vhd
	exits 0 vhd check fs/child.vhd
	exits 0 vhd compare -F raw fs/child.vhd new.raw
	room
	exits 0 vhd merge fs/child.vhd
	exits 0 vhd compare -F raw fs/base.vhd new.raw
	exits 0 vhd check fs/base.vhd
	rm -f fs/base.vhd fs/child.vhd
}

# The same process goes on after it had no space.
mounted() {
	{ : <> /dev/fuse; } 2> /dev/null && command -v vhd-mount fusermount3 > found ||
		{ echo 'not tested: vhd-mount, which needs FUSE' >&2; return; }
	exits 0 vhd create -s 8M --block-size 64K fs/c.vhd
	exits 0 vhd-mount --raw fs/c.vhd m
	leave 1000
	if dd if=new.raw of=m/disk.raw bs=64K conv=notrunc,fsync 2> err; then
		fail 'more fits on a full disk than there is room for'
	fi
	grep -qi 'no space left' err || fail "without space a write says: $(cat err)"
	room
	dd if=new.raw of=m/disk.raw bs=64K conv=notrunc,fsync 2> err || fail "no write after space was made: $(cat err)"
	exits 0 vhd-umount m
	exits 0 vhd check fs/c.vhd
	exits 0 vhd compare -F raw fs/c.vhd new.raw
}

tried=0
for type in ext4 ext2 tmpfs; do
	rm -f disk.img
	truncate -s 24M disk.img
	if [ $type = tmpfs ]; then
		mount -t tmpfs -o size=22M none fs 2> mount.log
	else
		command -v mkfs.$type > found && mkfs.$type -q -m 0 disk.img > mount.log 2>&1 &&
			mount -o loop disk.img fs 2>> mount.log
	fi || { echo "not tested: $type: $(cat mount.log)" >&2; continue; }
	stages $type
	umount fs || fail "cannot unmount $type"
	[ $type = tmpfs ] || e2fsck -fn disk.img > fsck.log 2>&1 || fail "$type is damaged: $(cat fsck.log)"
	tried=$((tried + 1))
done
[ $tried -gt 0 ] || skip 'no small file system can be mounted here'
exit 0
