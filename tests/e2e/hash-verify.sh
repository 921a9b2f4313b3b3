#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd hash and vhd verify: a manifest tells of content alone, finds what changed, and notices its own damage.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

bytes 5000000 > r.raw
truncate -s 32M r.raw
exits 0 vhd convert -f raw r.raw a.vhd
exits 0 vhd convert -f raw -O fixed r.raw f.vhd
exits 0 vhd create -b a.vhd c.vhd
vhd hash -f raw r.raw > manifest || fail hash
for image in a.vhd f.vhd c.vhd; do
	exits 0 vhd hash $image
	same_bytes manifest out
	exits 0 vhd verify $image manifest
done
[ "$(grep -c '^block ' manifest)" -eq 3 ] || fail 'only blocks with data are listed'

printf X | vhd write c.vhd 2M || fail write
exits 3 vhd verify c.vhd manifest
says out 'blocks 1 to 1 differ: offset 2097152, 2097152 bytes'
exits 3 vhd verify --json c.vhd manifest
json_is same false
exits 0 vhd create -s 16M small.vhd
exits 3 vhd verify small.vhd manifest
says out 'sizes differ'

sed 's/size=33554432/size=33554433/' manifest > broken
exits 1 vhd verify a.vhd broken
says err 'broken'
head -n 2 manifest > broken
exits 1 vhd verify a.vhd broken
exits 1 vhd verify a.vhd a.vhd
exits 1 vhd verify a.vhd missing
exits 2 vhd hash --block-size 1K a.vhd

exits 0 vhd create big.vhd
exits 0 timeout 5 vhd hash big.vhd
[ "$(wc -l < out)" -eq 3 ] || fail 'an empty disk has no blocks to list'
