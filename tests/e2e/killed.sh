#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL at any moment: the locks are gone with the process, the image opens for writing at once and is sound, and a
# destination is complete or not there.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh"

exits 0 vhd create -s 256M base.vhd
exits 0 vhd create -b base.vhd a.vhd
bytes 64M > data
killed=0
for delay in 0.01 0.02 0.03 0.05 0.08 0.12 0.2; do
	vhd write a.vhd 0 < <(cat data; sleep 60) > out-killed 2>&1 &
	pid=$!
	sleep $delay
	kill -KILL $pid
	wait $pid 2> err-kill
	[ $? -eq 137 ] && killed=$((killed + 1))
	exits 0 vhd write a.vhd 100M < err-kill
	exits 0 vhd check a.vhd
	exits 0 vhd info base.vhd
done
[ $killed -gt 0 ] || fail 'nothing was killed'

for delay in 0.01 0.03 0.06; do
	vhd convert -f raw data b.vhd > out-killed 2>&1 &
	pid=$!
	sleep $delay
	kill -KILL $pid
	if wait $pid 2> err-kill; then
		exits 0 vhd compare -f raw data b.vhd
		rm b.vhd
	fi
	[ ! -e b.vhd ] || fail 'half made'
	nothing_hidden
	exits 0 vhd compare -f raw -F raw data data
done
exit 0
