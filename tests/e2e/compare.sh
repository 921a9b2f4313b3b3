#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd compare: same, first difference, all differences, different sizes.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

bytes 4M > r.raw
exits 0 vhd convert -f raw r.raw a.vhd
exits 0 vhd compare -f raw r.raw a.vhd
exits 0 vhd compare -F raw a.vhd r.raw
exits 0 vhd create -b a.vhd b.vhd
exits 0 vhd compare a.vhd b.vhd
printf X | vhd write b.vhd 1000000 || fail write
printf XX | vhd write b.vhd 3000000 || fail write
exits 3 vhd compare a.vhd b.vhd
says out 'offset 1000000'
exits 3 vhd compare --all a.vhd b.vhd
says out 'offset 999936, 512 bytes'
says out '2 ranges'
exits 3 vhd compare --all --json a.vhd b.vhd
json_is same false
json_is differences '[{"offset": 999936, "length": 512}, {"offset": 2999808, "length": 512}]'

# Where only one has bytes, zeros are no difference.
cp r.raw longer.raw
truncate -s 6M longer.raw
exits 0 vhd compare -F raw a.vhd longer.raw
says out 'sizes differ'
printf X >> longer.raw
exits 3 vhd compare -f raw longer.raw a.vhd
says out 'offset 6291456'
exits 1 vhd compare a.vhd missing
exits 2 vhd compare a.vhd
