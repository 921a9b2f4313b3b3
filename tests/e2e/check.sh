#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd check: 0 for a sound image, 3 for a damaged one, 1 for what cannot be checked; it changes nothing.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

exits 0 vhd create -s 64M a.vhd
printf x | vhd write a.vhd 0 || fail write
printf x | vhd write a.vhd 4M || fail write
cp a.vhd copy
exits 0 vhd check a.vhd
says out 'clean'
exits 0 vhd check --json a.vhd
json_is result '"clean"'
json_is damages 0
json_is allocated_blocks 2
same_bytes a.vhd copy

# Two blocks at one place: the third BAT entry becomes the first one's.
table=$((0x$(od -An -tx1 -j 528 -N 8 a.vhd | tr -d ' ')))
dd if=a.vhd of=entry bs=1 skip=$table count=4 2> dd-says || fail dd
dd if=entry of=a.vhd bs=1 seek=$((table + 8)) conv=notrunc 2> dd-says || fail dd
cp a.vhd copy
exits 3 vhd check a.vhd
says out 'damage'
exits 3 vhd check --json a.vhd
json_is result '"damaged"'
says out '"severity": "damage"'
same_bytes a.vhd copy

head -c 4096 /dev/zero > zeros
exits 1 vhd check zeros
exits 1 vhd check missing
exits 2 vhd check

# What the user may not open is no damage.
mkdir sub
exits 0 vhd create -s 64M outside.vhd
exits 0 vhd create -b outside.vhd sub/child.vhd
says err '--allow-dir'
exits 1 vhd check sub/child.vhd
says err '--allow-dir'
exits 0 vhd check --allow-dir . sub/child.vhd
exits 0 vhd check --one-file sub/child.vhd
