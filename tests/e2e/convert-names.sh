#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Whatever goes wrong with the destination of vhd convert is told by the name that the user gave it.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh"

exits 0 vhd create -s 8M a.vhd
bytes 8M | vhd write a.vhd 0 || fail 'write'
for format in dynamic fixed raw; do
	exits 1 vhd convert -O $format a.vhd none/b.vhd
	says err 'vhd convert: none/b.vhd: '
	exits 1 vhd convert --force -O $format a.vhd .
	says err 'vhd convert: .: is a folder'
	# A limit is as good as a full disk, and needs no root.
	code=0
	(ulimit -f 3000; trap '' XFSZ; exec vhd convert -O $format a.vhd b.vhd) > out 2> err || code=$?
	[ $code -eq 1 ] || fail "a destination that cannot grow: exit $code"
	says err 'b.vhd: '
	! grep -qE '/proc/|\.part|\.b\.vhd' err || fail "a name that nobody knows: $(cat err)"
	[ ! -e b.vhd ] || fail 'half made'
	nothing_hidden
done
exit 0
