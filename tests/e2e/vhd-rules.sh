#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Whatever we make, write and give back keeps to the rules that other tools hold images to (tests/vhd-rules.c).
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
# shellcheck source=tests/lib/images.sh
. "$srcdir/tests/lib/images.sh"
rules=${VHDKIT_BUILDDIR:-$srcdir}/tests/vhd-rules

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1

keeps() {
	if "$rules" "$@" >said 2>&1; then passed=$((passed + $#)); else fail "$(head -n 5 said)"; fi
}

# The checker itself must see what is wrong.
vhd create --size=10M broken.vhd
printf '\377' | dd of=broken.vhd bs=1 seek=540 conv=notrunc status=none
if "$rules" broken.vhd >/dev/null; then fail "a broken header passes the rules"; fi

for size in 512 4608 3M 10M 100000256 127G 2040G; do
	for block in 4K 64K 512K 2M 16M; do
		rm -f made.vhd
		vhd create --size=$size --block-size=$block made.vhd 2>said || {
			# With bitmaps and alignment the blocks would lie beyond the 2 TiB that a BAT can reach.
			[[ $size = 2040G && $block != *M ]] && grep -q "use larger blocks" said && continue
			fail "create $size in $block: $(cat said)"
			continue
		}
		[ "$(stat -c %s made.vhd)" -gt $((64 << 20)) ] && continue
		keeps made.vhd
		[ $size = 512 ] && continue
		head -c 4096 /dev/urandom | vhd write --progress=none made.vhd 512 || fail "write $size in $block"
		keeps made.vhd
	done
done
for size in 512 3M 100000256; do
	rm -f made.vhd
	vhd create --type=fixed --size=$size made.vhd && keeps made.vhd
done
rm -f made.vhd
vhd create --type=fixed --azure --size=3000000 made.vhd && keeps made.vhd

# A chain that lives: written, discarded, written again, flattened.
vhd create --size=40M --block-size=512K layer0.vhd
head -c 9M /dev/urandom | vhd write --progress=none layer0.vhd 1000
for layer in 1 2 3; do
	vhd create -b layer$((layer - 1)).vhd layer$layer.vhd
	head -c 700000 /dev/urandom | vhd write --progress=none layer$layer.vhd $((layer * 900001))
	vhd discard layer$layer.vhd $((layer * 2))M 1536K
	head -c 5000 /dev/urandom | vhd write --progress=none layer$layer.vhd $((layer * 3000000))
done
keeps layer?.vhd
vhd convert --progress=none layer3.vhd flat.vhd && keeps flat.vhd
vhd convert --progress=none -O fixed layer3.vhd fixed.vhd && keeps fixed.vhd
vhd compare --progress=none layer3.vhd flat.vhd >/dev/null || fail "the flattened disk differs"
vhd discard layer0.vhd 0 40M
keeps layer0.vhd

echo "$passed images keep to the rules, $failures failures"
[ "$passed" -gt 0 ] && [ "$failures" = 0 ]
