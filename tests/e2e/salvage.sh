#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# --salvage: what a damaged image still holds, and a word on what it does not.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

bytes 5000000 > data
vhd create -s 64M a.vhd && vhd write a.vhd 0 < data || fail 'a disk of three blocks'
vhd map --json a.vhd > out
last=$(grep -oE '"file_offset": [0-9]+' out | tail -n 1 | cut -d' ' -f2)
[ -n "$last" ] || fail "no extents in: $(cat out)"

# The file ends inside the last block: everything before its end is there, zeros follow.
truncate -s $((last + 100000)) a.vhd
sum=$(sha256sum < a.vhd)
exits 1 vhd read a.vhd 0 5000000
says err 'does not end before'
vhd read --salvage a.vhd 0 5000000 > salvaged 2> err || fail "salvage: $(cat err)"
says err 'does not end before'
there=$(cmp data salvaged 2>&1 | sed -n 's/.*differ: [a-z]* \([0-9]*\),.*/\1/p')
[ -n "$there" ] && [ "$there" -ge $((4194304 + 90000)) ] || fail "only ${there:-0} bytes were got out"
tail -c +$((4194304 + 110000)) salvaged | tr -d '\0' | grep -q . && fail 'something that the file does not hold'
[ "$(sha256sum < a.vhd)" = "$sum" ] || fail 'salvaging changed the image'
# Direct I/O cannot end where such a file does.
truncate -s -100 a.vhd
vhd read --salvage a.vhd 0 5000000 > salvaged 2> err || fail "salvage: $(cat err)"
if vhd read --salvage --direct a.vhd 0 5000000 > direct 2> err; then
	same_bytes salvaged direct
else
	grep -q 'no direct I/O' err || fail "salvage with direct I/O: $(cat err)"
	echo 'this file system has no direct I/O: not tried' >&2
fi
exits 2 vhd write --salvage a.vhd 0 < data

# Both footers damaged.
vhd create -s 64M b.vhd && vhd write b.vhd 0 < data || fail 'another disk'
printf 'x' | dd of=b.vhd bs=1 seek=30 conv=notrunc status=none
printf 'x' | dd of=b.vhd bs=1 seek=$(($(file_bytes b.vhd) - 512 + 30)) conv=notrunc status=none
exits 1 vhd read b.vhd 0 5000000
says err checksum
vhd read --salvage b.vhd 0 5000000 > salvaged 2> err || fail "salvage: $(cat err)"
same_bytes data salvaged

# A child without its parent: its own sectors.
vhd create -s 64M p.vhd && vhd create -b p.vhd c.vhd && head -c 8192 data | vhd write c.vhd 4096 || fail 'a chain'
rm p.vhd
exits 1 vhd read c.vhd 4096 8192
vhd read --salvage c.vhd 4096 8192 > salvaged 2> err || fail "salvage: $(cat err)"
says err parent
cmp -n 8192 data salvaged || fail 'the child holds something else'
exit 0
