#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# What cannot be mounted is refused with the reason, and what to do.
. "$VHDKIT_SRCDIR/tests/e2e/mount-lib.sh" || exit 1

exits 2 vhd-mount
exits 2 vhd-mount --nonsense a b
exits 2 vhd-mount -p x a b
exits 2 vhd-mount -o suid a b
exits 0 vhd-mount --help
exits 0 vhd-mount --version
exits 0 vhd-umount --help
exits 2 vhd-umount
exits 1 vhd-mount missing.vhd m
says err 'missing.vhd'
bytes 100000 > no.vhd
exits 1 vhd-mount no.vhd m
says err 'no.vhd'

vhd create -s 200M empty.vhd
exits 1 vhd-mount empty.vhd m
says err 'no partition table'
exits 1 vhd-mount empty.vhd missing-folder
says err 'missing-folder'
exits 1 vhd-mount -p 1 empty.vhd m
says err 'no partition 1'

# Several file systems: they are listed.
vhd create -s 200M two.vhd
vhd-mount --raw two.vhd m || fail '--raw'
printf 'label: gpt\nsize=50M,type=L,name=first\nsize=50M,type=L\nsize=20M,type=S\n' | sfdisk -q m/disk.raw || fail sfdisk
mkfs.ext4 -q m/p1.raw && mkfs.ext2 -q m/p2.raw || fail mkfs
mkswap m/p3.raw > /dev/null 2>&1 || fail mkswap
vhd-umount m || fail vhd-umount
exits 1 vhd-mount two.vhd m
says err '-p'
says err '1 (Linux first, ext2/3/4), 2 (Linux, ext2/3/4), 3 (Linux swap, Linux swap)'
exits 1 vhd-mount -p 3 two.vhd m
says err 'Linux swap'
exits 1 vhd-mount -p 4 two.vhd m
exits 0 vhd-mount -p 2 two.vhd m
touch m/here
exits 0 vhd-umount m

# Others stand on it.
vhd create -b two.vhd child.vhd || fail 'create child.vhd'
exits 1 vhd-mount -p 2 two.vhd m
says err 'a differencing disk stands on it (child.vhd)'
exits 0 vhd-mount -r -p 2 two.vhd m
exits 0 vhd-umount m
exits 0 vhd-mount --force -p 2 two.vhd m
exits 0 vhd-umount m
rm child.vhd

# A damaged primary GPT: its backup serves.
bytes 512 | vhd write two.vhd 512 || fail 'vhd write'
exits 0 vhd-mount -r -p 2 two.vhd m
[ -e m/here ] || fail 'the wrong partition'
exits 0 vhd-umount m

# File systems that are known, but not here.
vhd create -s 20M other.vhd
printf '\353\074\220NTFS    ' | vhd write other.vhd 0
exits 1 vhd-mount other.vhd m
says err 'NTFS'
says err '--raw'
printf 'LUKS\272\276' | vhd write other.vhd 0
exits 1 vhd-mount other.vhd m
says err 'LUKS'

# Not unmounted cleanly: only to be read, until it is repaired.
image d.vhd 100M dos mkfs.ext4 -q
vhd-mount -f d.vhd m &
pid=$!
for _ in $(seq 100); do
	[ -e m/lost+found ] && break
	sleep 0.1
done
echo kept > m/kept && sync m/kept || fail 'cannot write'
kill -9 $pid
wait $pid 2> /dev/null
exits 1 vhd-mount d.vhd m
says err 'vhd-umount'
vhd-umount m 2> err
says err 'unmounted, but'
# The kernel takes a moment to drop what a killed process held.
for _ in $(seq 50); do
	vhd-mount d.vhd m 2> err && fail 'a file system that was not unmounted is mounted for writing'
	grep -q 'in use' err || break
	sleep 0.1
done
says err 'not unmounted cleanly'
says err 'e2fsck'
exits 0 vhd-mount -r d.vhd m
[ "$(cat m/kept)" = kept ] || fail 'a file that was synced is lost'
exits 0 vhd-umount m
exits 0 vhd-mount --raw d.vhd m
e2fsck -fy m/p1.raw > /dev/null 2>&1
[ $? -le 1 ] || fail 'e2fsck cannot repair it'
exits 0 vhd-umount m
exits 0 vhd-mount d.vhd m
[ "$(cat m/kept)" = kept ] || fail 'a file that was synced is lost by e2fsck'
exits 0 vhd-umount m

# A journal with changes in it.
exits 0 vhd-mount --raw d.vhd m
debugfs -w -R 'feature +needs_recovery' m/p1.raw > /dev/null 2>&1
exits 0 vhd-umount m
exits 1 vhd-mount d.vhd m
says err 'journal'
exits 0 vhd-mount -r d.vhd m
says err 'journal'
exits 0 vhd-umount m

# Features that only a reader may ignore.
image q.vhd 100M dos mkfs.ext4 -q -O quota
exits 0 vhd-mount q.vhd m
says err 'read-only'
! touch m/x 2> /dev/null || fail 'a file system with quota is written'
exits 0 vhd-umount m
