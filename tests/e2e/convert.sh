#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd convert: every kind into every other, odd sizes, chains; what it refuses leaves nothing behind.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

bytes 5000000 > r.raw
truncate -s 40M r.raw
exits 0 vhd convert -f raw r.raw dynamic.vhd
exits 0 vhd convert -O fixed dynamic.vhd fixed.vhd
exits 0 vhd convert -O dynamic --block-size 64K fixed.vhd small.vhd
exits 0 vhd convert -O raw small.vhd back.raw
same_bytes r.raw back.raw
[ "$(file_bytes dynamic.vhd)" -lt 8000000 ] || fail 'zeros were allocated'
[ "$(allocated_bytes back.raw)" -lt 8000000 ] || fail 'zeros were written'
exits 0 vhd info --json dynamic.vhd
json_is size_bytes $((40 << 20))

# Zeros that are written down are no data.
head -c 8M /dev/zero > zeros.raw
exits 0 vhd convert -f raw zeros.raw zeros.vhd
exits 0 vhd info --json zeros.vhd
json_is allocated_blocks 0

bytes 1000001 > odd.raw
exits 0 vhd convert -f raw odd.raw odd.vhd
says err 'rounded up'
exits 0 vhd convert -O raw odd.vhd odd-back.raw
[ "$(file_bytes odd-back.raw)" -eq 1000448 ] || fail 'an odd size becomes whole sectors'
exits 0 cmp -n 1000001 odd.raw odd-back.raw
exits 0 vhd convert -f raw -O raw odd.raw odd-copy.raw
same_bytes odd.raw odd-copy.raw

exits 0 vhd create -b dynamic.vhd child.vhd
printf new | vhd write child.vhd 1000000 || fail 'write'
exits 0 vhd convert child.vhd flat.vhd
exits 0 vhd compare child.vhd flat.vhd
exits 0 vhd info --json flat.vhd
json_is type '"dynamic"'

exits 1 vhd convert r.raw x.vhd
says err '-f raw'
exits 1 vhd convert child.vhd flat.vhd
says err '--force'
exits 0 vhd convert --force -O raw child.vhd flat.vhd
exits 1 vhd convert --force child.vhd dynamic.vhd
says err 'dynamic.vhd'
exits 1 vhd convert --force child.vhd child.vhd
exits 1 vhd convert -f raw r.raw /dev/null
exits 1 vhd convert -f raw --force r.raw /dev/null
exits 1 vhd convert missing x.vhd
exits 1 vhd convert child.vhd no/where.vhd
: > empty.raw
exits 1 vhd convert -f raw empty.raw x.vhd
exits 2 vhd convert -O qcow2 child.vhd x.vhd
exits 2 vhd convert -O fixed --block-size 1M child.vhd x.vhd
[ ! -e x.vhd ] || fail 'a refused copy was made all the same'
nothing_hidden
