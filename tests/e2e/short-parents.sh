#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A disk between others that ends before them: beyond its end zeros show, not what lies below it.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

bytes 256K > data
{ printf changed; tail -c +8 data | head -c $((40960 - 7)); head -c $((262144 - 40960)) /dev/zero; } > expected
exits 0 vhd create -s 256K base.vhd
vhd write base.vhd 0 < data || fail write
exits 0 vhd create -s 40K --block-size 4K --parent base.vhd mid.vhd
printf changed | vhd write mid.vhd 0 || fail write
for block in 4K 16K 128K 256K 2M; do
	exits 0 vhd create -s 256K --block-size $block --parent mid.vhd leaf.vhd
	exits 0 vhd read leaf.vhd 0 256K
	same_bytes expected out
	printf x | vhd write leaf.vhd 100000 || fail write
	exits 0 vhd read leaf.vhd 40K 4K
	same_bytes <(head -c 4096 /dev/zero) out
	exits 1 vhd merge leaf.vhd --into base.vhd
	says err 'not merged in one go'
	rm leaf.vhd
done
