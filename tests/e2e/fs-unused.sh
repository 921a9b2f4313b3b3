#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd-fs-unused lists just the blocks that other programs say are free, and overwriting all of them harms nothing.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

PATH=$PATH:/usr/sbin:/sbin
needs vhd-fs-unused sfdisk mkfs.ext4 dumpe2fs debugfs e2fsck
ntfs=1
for program in mkntfs ntfscp ntfscat ntfscluster ntfsinfo ntfsfix; do
	command -v $program > /dev/null || ntfs=
done
mkdir files
for i in $(seq 1 12); do
	bytes $((i * i * 12345 + i)) > files/f$i
done

# fs_make NAME MIB MKFS...: a file system with files, and with gaps where others were, in NAME.part.
fs_make() {
	local name=$1 size=$2 i
	shift 2
	truncate -s "${size}M" "$name.part"
	"$@" "$name.part" > log 2>&1 || fail "$*: $(cat log)"
	if [ "$1" = mkntfs ]; then
		for i in $(seq 1 12); do
			ntfscp -q "$name.part" files/f$i f$i > log 2>&1 || fail "ntfscp: $(cat log)"
		done
		return
	fi
	for i in $(seq 1 12); do
		echo "write files/f$i f$i"
	done > script
	printf 'mkdir d\nsymlink s f1\nrm f3\nrm f8\nrm f11\n' >> script
	debugfs -w -f script "$name.part" > log 2>&1
	e2fsck -fn "$name.part" > log 2>&1 || fail "$name is not sound to begin with: $(cat log)"
}

# merge: "FIRST END" lines become "OFFSET LENGTH", with neighbours joined.
merge() {
	sort -n | awk 'NR > 1 && $1 == end { end = $2; next } NR > 1 { printf "%d %d\n", start, end - start }
		{ start = $1; end = $2 } END { if (NR) printf "%d %d\n", start, end - start }'
}

# ext_truth NAME OFFSET: what dumpe2fs calls free. It names clusters by their first blocks.
ext_truth() {
	local block cluster
	dumpe2fs -h "$1.part" > info 2> /dev/null
	block=$(sed -n 's/^Block size: *//p' info)
	cluster=$(sed -n 's/^Cluster size: *//p' info)
	dumpe2fs "$1.part" 2> /dev/null | sed -n 's/^  Free blocks: //p' | tr ',' '\n' | tr -d ' ' | grep . |
		awk -F- -v b="$block" -v c="${cluster:-$block}" -v o="$2" \
			'{ last = NF > 1 ? $2 : $1; printf "%d %d\n", o + $1 * b, o + last * b + c }'
}

# ntfs_agrees NAME OFFSET LENGTH: the ranges in ./list inside the partition are as many as ntfsinfo counts, and ntfscluster
# finds no file in them.
ntfs_agrees() {
	local cluster free first
	ntfsinfo -m "$1.part" > info 2>&1 || fail "ntfsinfo: $(cat info)"
	cluster=$(sed -n 's/^[[:space:]]*Cluster Size: *\([0-9]*\).*/\1/p' info)
	free=$(sed -n 's/^[[:space:]]*Free Clusters: *\([0-9]*\).*/\1/p' info)
	awk -v o="$2" -v n="$3" '$1 >= o && $1 < o + n' list > here
	[ "$(awk '{ n += $2 } END { print n + 0 }' here)" = $((free * cluster)) ] ||
		fail "$1: $free clusters of $cluster are free, and not $(cat here)"
	while read -r first length; do
		first=$(((first - $2) / cluster))
		ntfscluster -q -c $first-$((first + length / cluster - 1)) "$1.part" > log 2>&1
		! grep -q '^Inode' log || fail "$1: in use: $(cat log)"
	done < here
}

# unused IMAGE: the helper's ranges in ./list; it has nothing to complain of.
unused() {
	exits 0 vhd-fs-unused "$1"
	says_nothing err
	[ "$(head -n 1 out)" = 'format 1' ] || fail "begins with $(head -n 1 out)"
	grep -E '^[0-9]+ [0-9]+$' out > list
	[ "$(tail -n 1 out)" = "end $(wc -l < list)" ] || fail "ends with $(tail -n 1 out)"
}

# overwrite IMAGE: all of ./list.
overwrite() {
	local offset length
	while read -r offset length; do
		head -c "$length" /dev/zero | tr '\0' '\377' | vhd write --progress=none "$1" "$offset" ||
			fail "vhd write $1 $offset"
	done < list
}

# unharmed NAME IMAGE OFFSET: the file system in the image, after that.
unharmed() {
	local i
	vhd read --progress=none "$2" "$3" "$(file_bytes "$1.part")" > back || fail "vhd read $2"
	! cmp -s back "$1.part" || fail "$1: nothing was overwritten"
	if [ "$(dd if=back bs=1 skip=3 count=4 status=none | tr -d '\0')" = NTFS ]; then
		ntfsfix -n back > log 2>&1 || fail "$1: ntfsfix: $(cat log)"
		for i in $(seq 1 12); do
			ntfscat back f$i | cmp - files/f$i || fail "$1: f$i is harmed"
		done
		return
	fi
	e2fsck -fn back > log 2>&1 || fail "$1: e2fsck: $(cat log)"
	for i in 1 2 4 5 6 7 9 10 12; do
		debugfs -R "cat f$i" back 2> /dev/null | cmp - files/f$i || fail "$1: f$i is harmed"
	done
}

# disk IMAGE NAME:MIB...: checks an image made of disk.raw, whose file systems lie at these places.
disk() {
	local image=$1 name at place
	shift
	vhd convert --progress=none -f raw disk.raw "$image" || fail "vhd convert $image"
	unused "$image"
	: > truth
	for place; do
		name=${place%:*} at=$((${place#*:} << 20))
		if [[ $name == ntfs* ]]; then
			ntfs_agrees "$name" $at "$(file_bytes "$name.part")"
			awk '{ print $1, $1 + $2 }' here >> truth
		else
			ext_truth "$name" $at >> truth
		fi
	done
	merge < truth > want
	diff want list > log || fail "$image: wanted < and got >: $(head -n 20 log)"
	[ -s list ] || fail "$image: nothing is unused"
	overwrite "$image"
	vhd check "$image" > log 2>&1 || fail "vhd check: $(cat log)"
	for place; do
		unharmed "${place%:*}" "$image" $((${place#*:} << 20))
	done
	rm -f disk.raw
}

whole() {
	cp --sparse=always "$1.part" disk.raw
	disk "$1.vhd" "$1:0"
}

put() {
	dd if="$1.part" of=disk.raw bs=1M seek="$2" conv=notrunc,sparse status=none
}

fs_make ext4 48 mkfs.ext4 -q
fs_make ext4-32bit 24 mkfs.ext4 -q -O ^64bit,^metadata_csum,uninit_bg
fs_make ext4-meta-bg 40 mkfs.ext4 -q -b 1024 -O meta_bg,^resize_inode
fs_make ext4-bigalloc 40 mkfs.ext4 -q -O bigalloc -C 65536
fs_make ext4-bigalloc-1k 24 mkfs.ext4 -q -b 1024 -O bigalloc
fs_make ext4-odd 33 mkfs.ext4 -q -b 1024 -O sparse_super2,^flex_bg,inline_data -I 256
fs_make ext3 24 mkfs.ext3 -q
fs_make ext2 24 mkfs.ext2 -q
fs_make ext2-1k 24 mkfs.ext2 -q -b 1024 -g 2048
whole ext4
whole ext4-bigalloc
whole ext2-1k

truncate -s 128M disk.raw
printf 'label: gpt\nstart=2048,size=24M\nstart=30M,size=40M\nstart=72M,size=33M\n' | sfdisk -q disk.raw || fail sfdisk
put ext3 1 && put ext4-meta-bg 30 && put ext4-odd 72
disk gpt.vhd ext3:1 ext4-meta-bg:30 ext4-odd:72
grep -qE '^partition 1 ext3 1048576 25165824 [1-9]' out || fail "partition 1 is not named: $(cat out)"

truncate -s 128M disk.raw
printf 'label: dos\nstart=2048,size=24M,type=83\nstart=28M,size=96M,type=5\nstart=30M,size=24M,type=83\nstart=60M,size=24M,type=83\n' |
	sfdisk -q disk.raw || fail sfdisk
put ext2 1 && put ext4-32bit 30 && put ext4-bigalloc-1k 60
disk mbr.vhd ext2:1 ext4-32bit:30 ext4-bigalloc-1k:60
says out 'partition 6 ext4'

# A chain: the child's view counts.
vhd create --parent ext4.vhd child.vhd || fail 'vhd create'
unused child.vhd
[ "$(grep -c '^file ' out)" = 2 ] || fail 'not two files'
mv list want && unused ext4.vhd && same_bytes want list

# refused IMAGE WHAT: the file system is left out, and the reason names it.
refused() {
	exits 0 vhd-fs-unused "$1"
	says err "$2"
	says out 'end 0'
	! grep -q '^partition' out || fail "still listed: $(cat out)"
	rm -f "$1"
}

# changed NAME WHAT DEBUGFS-COMMAND...
changed() {
	local name=$1 what=$2
	shift 2
	cp --sparse=always "$name.part" disk.raw
	debugfs -w -R "$*" disk.raw > log 2>&1
	vhd convert --progress=none -f raw disk.raw bad.vhd || fail 'vhd convert'
	refused bad.vhd "$what"
}

# at NAME OFFSET BYTES WHAT: with these bytes changed.
at() {
	cp --sparse=always "$1.part" disk.raw
	printf -- "$3" | dd of=disk.raw bs=1 seek=$(($2)) conv=notrunc status=none
	vhd convert --progress=none -f raw disk.raw bad.vhd || fail 'vhd convert'
	refused bad.vhd "$4"
}

changed ext4 journal feature +needs_recovery
changed ext4 'recorded errors' ssv state 3
changed ext2 'not unmounted cleanly' ssv state 0
changed ext4 'not unmounted cleanly' ssv last_orphan 12
changed ext4 'not known here' feature +journal_dev
at ext4 0x10040 '_BHRfS_M' 'left out'
at ext2 $(((24 << 20) - 65536)) '\374\116\053\251' 'Linux RAID'
at ext2 1024 '\377' 'left out'
at ext2 $((1024 + 24)) '\007' 'left out'

# Tables of which no one knows what counts. The first disk is a file system and has partitions.
cp --sparse=always ext2.part disk.raw
truncate -s 64M disk.raw
printf 'label: dos\nstart=2048,size=40M,type=83\n' | sfdisk -q --wipe=never disk.raw || fail sfdisk
vhd convert --progress=none -f raw disk.raw bad.vhd
exits 1 vhd-fs-unused bad.vhd
says err 'in the same place'
rm -f disk.raw bad.vhd
truncate -s 64M disk.raw
printf 'label: dos\nstart=2048,size=40M,type=83\nstart=42M,size=20M,type=83\n' | sfdisk -q disk.raw || fail sfdisk
printf '\0\240\0' | dd of=disk.raw bs=1 seek=470 conv=notrunc status=none # the second starts at 20 MiB
put ext2 1
vhd convert --progress=none -f raw disk.raw bad.vhd && refused bad.vhd 'overlaps another partition'
rm -f disk.raw && truncate -s 64M disk.raw
printf 'label: dos\nstart=2048,size=40M,type=42\n' | sfdisk -q disk.raw || fail sfdisk
put ext2 1
vhd convert --progress=none -f raw disk.raw bad.vhd && refused bad.vhd 'Windows dynamic disk'
rm -f disk.raw && truncate -s 64M disk.raw
printf 'label: gpt\nstart=2048,size=40M\n' | sfdisk -q disk.raw || fail sfdisk
put ext2 1
printf x | dd of=disk.raw bs=1 seek=520 conv=notrunc status=none
vhd convert --progress=none -f raw disk.raw bad.vhd
exits 1 vhd-fs-unused bad.vhd
says err 'backup GPT'
! grep -q '^end' out || fail "an end: $(cat out)"
rm bad.vhd

# The helper by itself.
exits 0 vhd-fs-unused --help
exits 0 vhd-fs-unused --version
exits 2 vhd-fs-unused
exits 2 vhd-fs-unused --nonsense ext4.vhd
exits 2 vhd-fs-unused --parent
exits 1 vhd-fs-unused missing.vhd
says err 'missing.vhd'
exits 1 vhd-fs-unused ext4.part
vhd create -s 10M empty.vhd
exits 0 vhd-fs-unused empty.vhd
says err 'left out'
says out 'end 0'
bash -c 'exec 3<> ext4.vhd; vhd-fs-unused ext4.vhd > /dev/full 2> full' && fail 'a list that cannot be written'
says full 'cannot write'

if [ -z "$ntfs" ]; then
	skip 'ext works; NTFS needs the programs of ntfs-3g'
fi
fs_make ntfs 32 mkntfs -F -q -f
fs_make ntfs-512 24 mkntfs -F -q -f -c 512 -s 512
cp --sparse=always ntfs.part disk.raw
vhd convert --progress=none -f raw disk.raw probe.vhd && vhd-fs-unused probe.vhd > out 2> err
if grep -q 'left out of this build' err; then
	says err ntfs-3g-dev
	skip 'ext works; this build is without libntfs-3g'
fi
whole ntfs
truncate -s 96M disk.raw
printf 'label: dos\nstart=2048,size=40M,type=7\nstart=48M,size=40M,type=5\nstart=50M,size=30M,type=7\n' |
	sfdisk -q disk.raw || fail sfdisk
put ntfs 1 && put ntfs-512 50
disk ntfs-mbr.vhd ntfs:1 ntfs-512:50
says out 'partition 5 ntfs'

# Files that grow and go, as the driver leaves them.
if { : <> /dev/fuse; } 2> /dev/null && command -v ntfs-3g > /dev/null; then
	mkdir m
	fs_make ntfs-used 48 mkntfs -F -q -f
	ntfs-3g ntfs-used.part m || fail 'ntfs-3g'
	for i in $(seq 200); do
		head -c $((i * 700)) files/f12 > m/n$i
	done
	rm m/n*[13579] && cp -r "$VHDKIT_SRCDIR/tests" m/ && rm -r m/tests/e2e && rm m/n4* && sync m
	fusermount3 -u m 2> /dev/null || umount m || fail umount
	for _ in $(seq 100); do
		pgrep -f "^ntfs-3g ntfs-used.part" > /dev/null || break
		sleep 0.1
	done
	whole ntfs-used
fi

at ntfs 0x1e00 "\\x6b\\x87\\x08\\x38\\x76\\xc1\\x48\\x4e\\xb7\\xae\\x04\\x04\\x6e\\x6c\\xc7\\x52$(printf '\\0%.0s' {1..32})\\1" \
	'shadow copies'
at ntfs 3 '-FVE-FS-' BitLocker
cp --sparse=always ntfs.part disk.raw
ntfsfix disk.raw > log 2>&1 # which makes Windows check it
vhd convert --progress=none -f raw disk.raw bad.vhd && refused bad.vhd 'marked as dirty'
cp --sparse=always ntfs.part disk.raw
{ printf hibr && head -c 8188 /dev/zero; } > hiberfil.sys
ntfscp -q disk.raw hiberfil.sys hiberfil.sys > log 2>&1 || fail ntfscp
vhd convert --progress=none -f raw disk.raw bad.vhd && refused bad.vhd hibernated
