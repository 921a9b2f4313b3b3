#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd resize on disks that nobody has open: every type grows and shrinks, data is cut off only by force.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

uuid_of() {
	vhd info --json "$1" | sed -n 's/^  "uuid": "\(.*\)",$/\1/p'
}

# size_is FILE BYTES: and it is sound.
size_is() {
	exits 0 vhd info --json "$1"
	json_is size_bytes "$2"
	exits 0 vhd check "$1"
}

bytes 3000000 > data
vhd create -s 8M base.vhd && vhd write base.vhd 1M < data || fail 'base'
for type in fixed dynamic differencing; do
	rm -f d.vhd
	if [ $type = differencing ]; then
		vhd create -b base.vhd d.vhd || fail 'create'
		echo child | vhd write d.vhd 5M || fail 'write'
	else
		vhd create -t $type -s 8M d.vhd && vhd write d.vhd 1M < data || fail 'create'
	fi
	uuid=$(uuid_of d.vhd)
	vhd read d.vhd 0 8M > before

	# It grows: zeros at the end, all else as before.
	exits 0 vhd resize d.vhd 20M
	says out '20 MiB, was 8 MiB'
	says out 'file systems on it are as before'
	says_nothing err
	size_is d.vhd $((20 << 20))
	{ cat before && head -c 12M /dev/zero; } > want
	vhd read d.vhd 0 20M > have || fail 'read'
	same_bytes want have
	[ "$(uuid_of d.vhd)" = "$uuid" ] || fail 'another Unique Id'
	exits 0 vhd resize --json d.vhd +100M
	json_is file '"d.vhd"'
	json_is online null
	json_is result '"resized"'
	json_is old_size_bytes $((20 << 20))
	json_is size_bytes $((120 << 20))
	json_is cut_bytes 0
	printf end | vhd write d.vhd $(((120 << 20) - 3)) || fail 'the new end cannot be written'
	size_is d.vhd $((120 << 20))

	# It shrinks: not over data, and says how much that is.
	sum=$(sha256sum d.vhd)
	exits 3 vhd resize d.vhd -- -110M
	says err '--force cuts'
	says err 'hold data, which would be lost'
	exits 3 vhd resize --json d.vhd 10M
	json_is result '"would-lose"'
	cut=$(json_value cut_bytes)
	[ "$cut" -gt 0 ] && [ "$cut" -le $((110 << 20)) ] || fail "$cut bytes would be cut off"
	[ "$sum" = "$(sha256sum d.vhd)" ] || fail 'refused, and the file has changed'
	exits 0 vhd resize --json --force d.vhd 10M
	json_is size_bytes $((10 << 20))
	json_is cut_bytes "$cut"
	size_is d.vhd $((10 << 20))
	vhd read d.vhd 0 10M > have || fail 'read'
	head -c 10M want | cmp - have || fail 'what stays has changed'
	exits 0 vhd resize d.vhd 12M
	vhd read d.vhd 10M 2M | cmp - <(head -c 2M /dev/zero) || fail 'what was cut off is back'

	# The same size is no work.
	exits 0 vhd resize d.vhd 12M
	size_is d.vhd $((12 << 20))
done

# Where nothing lies nothing is lost.
vhd create -s 1G sparse.vhd || fail 'create'
exits 0 vhd resize sparse.vhd -1000M
size_is sparse.vhd $((24 << 20))

# Parents of others are left alone, the child is not.
sum=$(sha256sum base.vhd)
exits 3 vhd resize base.vhd +1M
says err 'd.vhd'
says err '--force'
[ "$(grep -o -e '--force' err | wc -l)" -eq 1 ] || fail "says it twice: $(cat err)"
[ "$sum" = "$(sha256sum base.vhd)" ] || fail 'refused, and the file has changed'
exits 0 vhd resize --force base.vhd +1M
size_is base.vhd $((9 << 20))
size_is d.vhd $((12 << 20))

exits 1 vhd resize sparse.vhd 3T
says err '2040 GiB'
exits 1 vhd resize sparse.vhd -25M
says err 'cannot become smaller'
exits 1 vhd resize sparse.vhd -24M
exits 1 vhd resize nowhere.vhd 1M
says err 'nowhere.vhd'
exits 1 vhd resize data 1M
exits 2 vhd resize sparse.vhd 1000
exits 2 vhd resize sparse.vhd 0
exits 2 vhd resize sparse.vhd large
exits 2 vhd resize sparse.vhd
exits 2 vhd resize sparse.vhd 1M 2M
exits 2 vhd resize --rate fast sparse.vhd 1M
size_is sparse.vhd $((24 << 20))
nothing_hidden
