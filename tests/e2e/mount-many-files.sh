#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# 100,000 files in one folder: made, listed, removed while being listed, without a scan of the folder for each.
. "$VHDKIT_SRCDIR/tests/e2e/mount-lib.sh" || exit 1

image d.vhd 1G gpt mkfs.ext4 -q -N 120000
vhd-mount d.vhd m || fail vhd-mount
mkdir m/many
start=$SECONDS
(cd m/many && seq -f 'file-number-%g' 100000 | xargs touch) || fail 'cannot make 100,000 files'
[ $((SECONDS - start)) -lt 300 ] || fail "100,000 files took $((SECONDS - start)) seconds"
[ "$(find m/many -type f | wc -l)" -eq 100000 ] || fail 'not all files are listed'
[ "$(ls -f m/many | sort -u | wc -l)" -eq 100002 ] || fail 'ls lists names twice or not at all'
vhd-umount m || fail vhd-umount
sound d.vhd

# A folder with an index on disk, which the first change gives up.
e2fsck -fyD part.raw > /dev/null 2>&1
debugfs -R 'htree_dump /many' part.raw 2> /dev/null | grep -q 'Root node' || fail 'e2fsck -D made no index'
rm -f d.vhd
vhd create -s 1G d.vhd
vhd-mount --raw d.vhd m
printf 'label: gpt\nstart=2048,type=L\n' | sfdisk -q m/disk.raw
# The copy goes on to the end of the disk, behind the partition.
head -c "$(stat -c %s m/p1.raw)" part.raw | dd of=m/p1.raw bs=1M iflag=fullblock conv=notrunc status=none ||
	fail 'cannot write p1.raw'
vhd-umount m
vhd-mount d.vhd m || fail 'vhd-mount of a folder with an index'
[ "$(ls m/many | wc -l)" -eq 100000 ] || fail 'a folder with an index lists wrong'
[ -f m/many/file-number-77777 ] || fail 'a name is not found in a folder with an index'
touch m/many/new && rm m/many/file-number-5
find m/many -name '*7' -delete || fail 'find -delete'
[ "$(ls m/many | wc -l)" -eq 90000 ] || fail 'find -delete removed others, or not all'
vhd-umount m || fail vhd-umount
sound d.vhd
vhd-mount d.vhd m
rm -r m/many || fail 'rm -r'
vhd-umount m || fail vhd-umount
sound d.vhd
