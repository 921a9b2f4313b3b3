#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd discard: the range reads as zeros; whole blocks give their space back; a parent does not shine through.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

bytes 8M > data
head -c 2M /dev/zero > zeros
exits 0 vhd create -s 64M a.vhd
vhd write a.vhd 0 < data || fail write
exits 0 vhd info --json a.vhd
json_is allocated_blocks 4
exits 0 vhd discard a.vhd 2M 2M
exits 0 vhd read a.vhd 2M 2M
same_bytes zeros out
exits 0 vhd info --json a.vhd
json_is allocated_blocks 3
exits 0 vhd create -b a.vhd c.vhd
exits 0 vhd discard c.vhd 0 2M
exits 0 vhd read c.vhd 0 2M
same_bytes zeros out
exits 0 vhd read a.vhd 0 2M
cmp -n 2097152 out data || fail "the parent lost data"
exits 1 vhd discard a.vhd 1 512
exits 1 vhd discard a.vhd 64M 512
exits 2 vhd discard a.vhd 0
exits 0 vhd check c.vhd
