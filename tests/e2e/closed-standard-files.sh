#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Started with standard input, output or error closed, vhd never takes an image for one of them.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh"

exits 0 vhd create -s 16M a.vhd
bytes 1M > data
exits 0 vhd write a.vhd 0 < data
exits 0 vhd hash a.vhd
mv out hash
cp a.vhd before
timeout 20 vhd write a.vhd 0 <&- 2> err && fail 'nothing to read goes unnoticed'
says err 'vhd write: a.vhd'
timeout 20 vhd read a.vhd 0 1M >&- 2> err && fail 'nowhere to write goes unnoticed'
says err 'standard output'
timeout 20 vhd map a.vhd >&- 2> err && fail 'nowhere to print goes unnoticed'
# Its complaint would be the first thing in the image, if that were descriptor 2.
(bytes 16M; echo more) | timeout 20 vhd write a.vhd 512 2>&- && fail 'input beyond the end goes unnoticed'
exits 0 vhd check a.vhd
exits 0 vhd write a.vhd 0 < data
head -c 512 before | cmp - <(head -c 512 a.vhd) || fail 'the copy of the footer changed'
timeout 20 vhd write a.vhd 16M <&- >&- 2>&- && fail 'nothing to read goes unnoticed'
exits 0 vhd check a.vhd
exit 0
