#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# 7-Zip reads what we make, chains included: it follows the parent's name and obeys every bit of the bitmaps.
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
# shellcheck source=tests/lib/images.sh
. "$srcdir/tests/lib/images.sh"
zip=
for name in 7zz 7z 7za; do
	command -v $name >/dev/null && { zip=$name; break; }
done
[ -n "$zip" ] || skip "7-Zip is not installed (Debian, Ubuntu: p7zip-full or 7zip)"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

# The disk as 7-Zip sees it. It may unpack a file system inside instead: the content here looks like none.
same() { # NAME RAW VHD
	if "$zip" e -so -tvhd "$3" 2>said | cmp "$2" - >differ 2>&1; then
		passed=$((passed + 1))
	else
		fail "$1: $(cat differ) $(tail -n 3 said)"
	fi
}

scatter() { # RAW VHD: the same random pieces into both; no piece is a whole number of sectors
	local size at length
	size=$(stat -c %s "$1")
	for length in 100 512 3000 70000; do
		at=$(((RANDOM * 32768 + RANDOM) % (size - length)))
		head -c $length /dev/urandom >piece
		dd if=piece of="$1" bs=1 seek=$at conv=notrunc status=none
		vhd write --progress=none "$2" $at <piece || fail "write $2"
	done
}

for size in 131072 5243392 34091008; do
	for type in dynamic fixed; do
		rm -f disk.raw ours.vhd
		truncate -s $size disk.raw
		vhd create --type=$type --size=$size ours.vhd || fail "create $type $size"
		scatter disk.raw ours.vhd
		same "our $type of $size bytes" disk.raw ours.vhd
	done
done

rm -f disk.raw ./*.vhd
truncate -s 8M disk.raw
vhd create --size=8M --block-size=512K layer0.vhd
scatter disk.raw layer0.vhd
for layer in 1 2 3 4; do
	vhd create -b layer$((layer - 1)).vhd layer$layer.vhd || fail "create layer $layer"
	scatter disk.raw layer$layer.vhd
	same "a chain of $((layer + 1)) layers" disk.raw layer$layer.vhd
done
vhd discard layer4.vhd 1M 1M || fail "discard"
dd if=/dev/zero of=disk.raw bs=1M seek=1 count=1 conv=notrunc status=none
same "a chain after a discard" disk.raw layer4.vhd

echo "$passed comparisons with 7-Zip hold, $failures failures"
[ "$passed" -gt 0 ] && [ "$failures" = 0 ]
