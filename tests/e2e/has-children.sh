#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A disk that others stand on is written to only with --force; reading it goes on as ever.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

vhd create -s 16M base.vhd || fail 'create base.vhd'
bytes 4096 | vhd write base.vhd 0 || fail 'a disk without children is written to'
vhd create -b base.vhd child.vhd || fail 'create child.vhd'
cp base.vhd before.vhd && mkdir elsewhere && mv before.vhd elsewhere/
for command in 'write base.vhd 0' 'discard base.vhd 0 4096' 'bench --op write --count 1 base.vhd'; do
	# shellcheck disable=SC2086
	echo text | exits 1 vhd $command
	says err 'base.vhd: a differencing disk stands on it (child.vhd)'
	says err '--force'
	same_bytes base.vhd elsewhere/before.vhd
done
exits 0 vhd read base.vhd 0 4096
exits 0 vhd check base.vhd
bytes 1000 > text
exits 0 vhd write child.vhd 512 < text
exits 0 vhd write --force base.vhd 8192 < text
exits 0 vhd discard --force base.vhd 8192 512
rm child.vhd
exits 0 vhd write base.vhd 0 < text
