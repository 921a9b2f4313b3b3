#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The mount's process is killed at random moments under load: no block in two files, and what was synced is there after
# e2fsck. CHECK_LONG=1: more of that.
. "$VHDKIT_SRCDIR/tests/e2e/mount-lib.sh" || exit 1

crash=$VHDKIT_BUILDDIR/tests/fs-crash
rounds=12
[ "${CHECK_LONG-}" = 1 ] && rounds=150
compared=0

# sooner FILE COMMAND...: waits until it succeeds, 10 seconds at most.
sooner() {
	local i
	for i in $(seq 100); do
		"$@" 2> sooner.log && return
		sleep 0.1
	done
	cat sooner.log >&2
	fail "never succeeds: $*"
}

# round SEED
round() {
	local daemon load
	: > "log"
	vhd-mount -f d.vhd m 2> mount.log &
	daemon=$!
	sooner [ -e m/lost+found ]
	rm -rf m/r && mkdir m/r || fail "cannot empty the file system (round $1)"
	"$crash" load "$1" m/r log 2> load.log &
	load=$!
	sleep "$((RANDOM % 2)).$((RANDOM % 90 + 10))"
	kill -9 $daemon || { cat mount.log load.log >&2; fail "the mount has ended by itself (round $1)"; }
	wait $daemon 2> /dev/null
	wait $load || { cat load.log >&2; fail "the load fails (round $1)"; }
	fusermount3 -u m || fail "cannot release the dead mount (round $1)"
	sooner vhd-mount --raw d.vhd m
	e2fsck -fn m/p1.raw > found.log 2>&1
	! grep -i 'multiply-claimed' found.log || { cat found.log >&2; fail "a block is in two files (round $1)"; }
	e2fsck -fy m/p1.raw > fixed.log 2>&1
	[ $? -le 1 ] || { cat fixed.log >&2; fail "e2fsck cannot repair it (round $1)"; }
	vhd-umount m || fail "vhd-umount after e2fsck (round $1)"
	vhd-mount d.vhd m || fail "vhd-mount after e2fsck (round $1)"
	"$crash" verify m/r log > count.log || { cat found.log >&2; fail "what was synced is lost (round $1)"; }
	compared=$((compared + $(cat count.log)))
	vhd-umount m || fail "vhd-umount (round $1)"
}

# Small, so that what is freed is soon needed again.
for format in 'mkfs.ext4 -q' 'mkfs.ext3 -q -b 1024'; do
	image d.vhd 48M dos $format
	for seed in $(seq $rounds); do
		round "$seed"
	done
	sound d.vhd
	rm d.vhd
done
[ $compared -ge $((rounds * 2)) ] || fail "only $compared synced files to compare: the load is too slow"
echo "$compared synced files compared"
