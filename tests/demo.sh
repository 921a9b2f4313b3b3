#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The main job on a real disk image, step by step: what is done, and how it was checked.
# Usage: demo.sh BUILD-FOLDER. Works in a temporary folder (TMPDIR) and cleans up.
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/.." && pwd)
build=${1:?usage: demo.sh BUILD-FOLDER}
export LC_ALL=C PATH="$build/vhd:$build/mountd:$PATH:/usr/sbin:/sbin"

work=$(mktemp -d)
mounted=()
clean_up() {
	local dir
	cd /
	for dir in ${mounted[@]+"${mounted[@]}"}; do
		vhd-umount "$dir" > /dev/null 2>&1 || true
	done
	rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
cd "$work"

number=0
step() {
	number=$((number + 1))
	printf '\n%d. %s\n' "$number" "$*"
}

note() {
	printf '   %s\n' "$*"
}

fail() {
	printf '\ndemo: %s\n' "$*" >&2
	exit 1
}

# show COMMAND...: prints the command and runs it.
show() {
	printf '   $ %s\n' "$*"
	"$@" || fail "failed: $*"
}

mount_image() {
	local dir=${!#}
	mkdir -p "$dir"
	show vhd-mount "$@"
	mounted+=("$dir")
}

umount_image() {
	local dir left=()
	show vhd-umount "$1"
	for dir in "${mounted[@]}"; do
		[ "$dir" = "$1" ] || left+=("$dir")
	done
	mounted=(${left[@]+"${left[@]}"})
}

size_of() {
	stat -c %s "$1"
}

allocated() {
	du -k "$1" | awk '{ printf "%.1f MiB", $1 / 1024 }'
}

missing=
for tool in qemu-img sfdisk mkfs.ext4 debugfs; do
	command -v "$tool" > /dev/null || missing+=" $tool"
done
mounting=yes
if [ ! -x "$build/mountd/vhd-mount" ]; then
	mounting='vhd-mount was not built'
elif [ ! -c /dev/fuse ] || ! { : < /dev/fuse; } 2> /dev/null; then
	mounting='there is no usable /dev/fuse here (in a container: --device /dev/fuse --cap-add SYS_ADMIN)'
elif [ "$(id -u)" -ne 0 ] && ! command -v fusermount3 > /dev/null; then
	mounting='fusermount3 is missing (Debian, Ubuntu: fuse3)'
elif [[ $missing == *sfdisk* || $missing == *mkfs.ext4* ]]; then
	mounting="missing:$missing (Debian, Ubuntu: fdisk e2fsprogs)"
fi

step 'A disk of 127 GiB that takes no space yet'
show vhd create disk.vhd
show vhd info disk.vhd
[ "$(size_of disk.vhd)" -lt 307200 ] || fail "the empty file takes $(size_of disk.vhd) bytes"
note "checked: the file takes $(size_of disk.vhd) bytes"

# What goes in: this project's own files, and 32 MiB that no compression or luck gets right.
mkdir files
cp -r "$source_dir"/common "$source_dir"/vhd "$source_dir"/docs "$source_dir"/README.md files/
head -c 33554432 /dev/urandom > files/random.bin
ln -s random.bin files/link
count=$(find files -type f | wc -l)
random_sha=$(sha256sum < files/random.bin)

if [ "$mounting" = yes ]; then
	step 'A partition and a file system on it, through the disk as a file'
	mount_image --raw disk.vhd raw
	disk=$(find raw -maxdepth 1 -type f ! -name 'p[0-9]*' | head -n 1)
	note "the disk is $disk, $(size_of "$disk") bytes"
	printf '   $ echo "label: gpt, one Linux partition" | sfdisk %s\n' "$disk"
	printf 'label: gpt\ntype=L\n' | sfdisk -q --no-reread --no-tell-kernel "$disk" || fail 'sfdisk failed'
	umount_image raw
	mount_image --raw disk.vhd raw
	partition=$(find raw -maxdepth 1 -type f -name 'p1*' | head -n 1)
	[ -n "$partition" ] || fail 'the new partition does not show up as a file'
	note "checked: the partition is $partition, $(size_of "$partition") bytes"
	show mkfs.ext4 -q -F -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 -L demo "$partition"
	umount_image raw

	step 'The file system mounted; files copied in and read back'
	mount_image disk.vhd files-inside
	show cp -a files/. files-inside/
	diff -r files files-inside -x lost+found || fail 'the files differ'
	note "checked: $count files read back through the mount are the same (diff -r)"
	umount_image files-inside
	mount_image -r disk.vhd files-inside
	diff -r files files-inside -x lost+found || fail 'the files differ after mounting again'
	note 'checked: and still are after unmounting and mounting again, read-only'
	umount_image files-inside
	note "the disk.vhd of 127 GiB now takes $(allocated disk.vhd)"

	step 'The disk frozen, backed up, made larger and merged again, while it is mounted and written to'
	mount_image disk.vhd files-inside
	show vhd snapshot --name=monday.vhd disk.vhd
	show cp monday.vhd backup.vhd
	printf '   $ a file of 1 MiB written, another removed\n'
	head -c 1048576 /dev/urandom > files/new.bin
	cp files/new.bin files-inside/
	rm files/README.md files-inside/README.md
	sync -f files-inside
	show vhd snapshot --name=tuesday.vhd disk.vhd
	printf '   $ vhd changed --json tuesday.vhd\n'
	vhd changed --json tuesday.vhd > changed.json || fail 'vhd changed failed'
	note "changed since monday.vhd: $(sed -n 's/.*"changed_bytes": \([0-9]*\).*/\1/p' changed.json) bytes"
	show vhd export --output=tuesday.inc tuesday.vhd
	show vhd import tuesday.inc backup.vhd
	show vhd compare backup.vhd tuesday.vhd
	note 'checked: the full copy and the increment make the disk of tuesday'
	show vhd merge tuesday.vhd
	show vhd merge disk.vhd
	show vhd resize disk.vhd +1G
	show vhd job disk.vhd
	diff -r files files-inside -x lost+found || fail 'the files differ'
	umount_image files-inside
	[ ! -e monday.vhd ] && [ ! -e tuesday.vhd ] || fail 'a merged file is still there'
	rm -f backup.vhd tuesday.inc
	count=$(find files -type f | wc -l)
	note "checked: one file, disk.vhd, is left of three, and the $count files in it are as they should be"
else
	step "Skipped: partition, file system and mount, because $mounting"
	show vhd write disk.vhd 1048576 < files/random.bin
	vhd read disk.vhd 1048576 33554432 | cmp - files/random.bin || fail 'what was written reads back differently'
	note 'checked: 32 MiB written with "vhd write" read back the same with "vhd read"'

	step 'The disk frozen, written to, and merged again'
	show vhd snapshot --name=monday.vhd disk.vhd
	show vhd write disk.vhd 2097152 < files/random.bin
	printf '   $ vhd hash disk.vhd\n'
	vhd hash --progress=none disk.vhd > manifest || fail 'vhd hash failed'
	show vhd changed disk.vhd
	show vhd merge --rename disk.vhd
	show vhd verify disk.vhd manifest
	[ ! -e monday.vhd ] || fail 'the merged file is still there'
	note 'checked: one file is left of two, and holds what both of them held'
fi
show vhd check disk.vhd

step 'Other software reads the same content'
if command -v qemu-img > /dev/null; then
	show qemu-img convert -f vpc -O raw disk.vhd qemu.raw
	show vhd compare -F raw disk.vhd qemu.raw
	note "checked: the raw disk that QEMU made of it has the same bytes, all $(size_of qemu.raw) of them"
	if [ "$mounting" = yes ] && command -v debugfs > /dev/null; then
		e2fsck -fn 'qemu.raw?offset=1048576' > fsck.log 2>&1 || fail "e2fsck: $(tail -n 3 fsck.log)"
		[ "$(debugfs -R 'cat /random.bin' 'qemu.raw?offset=1048576' 2> /dev/null | sha256sum)" = "$random_sha" ] ||
			fail 'debugfs finds another random.bin in what QEMU read'
		note 'checked: in it e2fsck finds the file system sound, and debugfs finds random.bin with the same SHA-256'
	fi
	rm -f qemu.raw
else
	note 'skipped: qemu-img is not installed (Debian, Ubuntu: qemu-utils)'
fi

step 'A VHD that other software made'
if [[ $missing == *qemu-img* || $missing == *mkfs.ext4* ]]; then
	note "skipped: making one needs$missing"
else
	truncate -s 256M other.raw
	printf 'label: dos\ntype=83\n' | sfdisk -q other.raw || fail 'sfdisk failed'
	mkfs.ext4 -q -F -d files -E offset=1048576 other.raw 261120k
	show qemu-img convert -f raw -O vpc other.raw other.vhd
	show vhd info other.vhd
	# QEMU rounds the size up to a geometry: the rest reads as zeros.
	cmp <(vhd read other.vhd 0 268435456) other.raw || fail 'vhd read differs from what QEMU wrote'
	note 'checked: "vhd read" gives every byte that went into qemu-img'
	if [ "$mounting" = yes ]; then
		mount_image -r other.vhd other-inside
		diff -r files other-inside -x lost+found || fail 'the files differ'
		note "checked: the $count files in it are the same (diff -r)"
		umount_image other-inside
	fi
	rm -f other.raw
fi

# Images that a developer may have beside the source: real ones, with their content's SHA-256 in an index.
images=${VHDKIT_IMAGES:-$source_dir/../shared/images}
real() {
	local sha
	sha=$(awk -F '\t' -v f="$1" '$1 == f { print $6 }' "$images/INDEX.tsv")
	xz -dc "$images/$1" > "$2"
	show vhd info "$2"
	show vhd convert -O raw "$2" "$2.raw"
	[ "$(sha256sum < "$2.raw")" = "$sha  -" ] || fail "$2 reads differently from what other readers found"
	note "checked: its content has the SHA-256 that other readers found, $sha"
	rm -f "$2.raw"
}
if [ -e "$images/INDEX.tsv" ] && command -v xz > /dev/null; then
	step 'A dynamic disk from Windows 10'
	real jhermsmeier+node-vhd/dynamic.vhd.xz windows.vhd
	step 'An ext2 disk without partitions, from an older QEMU'
	real log2timeline+dfvfs/ext2.vhd.xz ext2.vhd
	if [ "$mounting" = yes ]; then
		mount_image -r ext2.vhd ext2-inside
		show ls -l ext2-inside
		[ -n "$(ls -A ext2-inside)" ] || fail 'no files in it'
		umount_image ext2-inside
	fi
fi

printf '\nDone: every step above was checked.%s\n' \
	"$([ "$mounting" = yes ] || echo " Mounting was skipped: $mounting.")"
