#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A signal at any moment of vhd convert: DST is complete or not there, and nothing half made stays.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

bytes 100000000 > r.raw
interrupted=0
for delay in 0 0.005 0.01 0.02 0.03 0.04 0.05 0.06 0.08 0.1 0.12 0.15 0.2; do
	# The shell starts background jobs with SIGINT ignored; env takes that back.
	env --default-signal=INT vhd convert -f raw r.raw x.vhd > out 2> err &
	sleep $delay
	kill -INT $! 2> err-kill
	wait $!
	code=$?
	if [ $code -eq 0 ]; then
		vhd compare -f raw r.raw x.vhd > out || fail 'exit 0, and DST is not complete'
		rm x.vhd
	else
		[ ! -e x.vhd ] || fail "exit $code, and DST is there"
		if [ $code -eq 1 ]; then
			says err interrupted
			interrupted=$((interrupted + 1))
		fi
	fi
	nothing_hidden
done
[ $interrupted -gt 0 ] || skip 'no signal came in the middle of the work'
