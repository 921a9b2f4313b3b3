#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Upkeep of a mounted disk, asked of the process that has it, while files are written: nothing is lost, the names stay
# right, only the user and root are obeyed.
. "$VHDKIT_SRCDIR/tests/e2e/mount-lib.sh" || exit 1

image d.vhd 300M gpt mkfs.ext4 -q
bytes 20000000 > h/big
exits 0 vhd-mount d.vhd m
cp h/big m/first || fail 'cp'

exits 0 vhd job d.vhd
says out 'no job'
says out 'vhd-mount'

# Files are written and compared all the time, by a loop that ends when ./stop is there.
writer() {
	local i=0
	while [ ! -e stop ]; do
		i=$((i + 1))
		cp h/big "m/w$((i % 4))" && sync -f m && cmp h/big "m/w$((i % 4))" || { touch broken; return; }
	done
	echo $i > rounds
}
writer &
writer_pid=$!

exits 0 vhd snapshot d.vhd --name one.vhd
says out 'one.vhd'
sleep 1
exits 0 vhd snapshot --json d.vhd --name two.vhd
says out '"program": "vhd-mount"'
sleep 1
exits 0 vhd snapshot d.vhd --name three.vhd
sleep 1

# A layer that is not the leaf, found by its own name; then the leaf's parent into the first; then the leaf itself.
exits 0 vhd merge two.vhd
says out 'one.vhd'
[ ! -e two.vhd ] || fail 'two.vhd is still there'
exits 0 vhd merge --json three.vhd --into one.vhd
json_is merged_layers 1
[ ! -e three.vhd ] || fail 'three.vhd is still there'
exits 0 vhd merge d.vhd
says out 'has its name now'
[ -e d.vhd ] && [ ! -e one.vhd ] || fail "after the merge of the leaf: $(ls)"

# What is in use is in use under its name still.
mkdir m2
exits 1 vhd-mount d.vhd m2
says err 'vhd-mount'
exits 0 vhd job d.vhd
says out 'merge, done'

# A frozen layer of it becomes a disk of its own; the disk itself, which is written to, does not.
exits 0 vhd snapshot d.vhd --name still.vhd
exits 0 vhd merge -o full.vhd still.vhd
exits 0 vhd compare still.vhd full.vhd
exits 0 vhd check full.vhd
exits 1 vhd merge -o live.vhd d.vhd
says err 'in use'
[ ! -e live.vhd ] || fail 'a copy of a disk in use'

# It grows, and knows it at once; it does not shrink; the layer below does neither.
exits 0 vhd resize --json d.vhd +100M
says out '"program": "vhd-mount"'
json_is result '"resized"'
json_is old_size_bytes $((300 << 20))
json_is size_bytes $((400 << 20))
json_is cut_bytes 0
exits 1 vhd resize d.vhd -50M
says err 'can grow but not shrink'
exits 1 vhd resize still.vhd +1M
says err 'stands on it'
exits 1 vhd resize d.vhd 3T
says err '2040 GiB'
exits 0 vhd job d.vhd
says out 'resize'

# It is compacted, with what was deleted in it given back; --fs wants it alone.
exits 0 vhd compact --json d.vhd
says out '"program": "vhd-mount"'
for key in before_bytes after_bytes space_before_bytes space_after_bytes freed_blocks moved_blocks; do
	json_value $key | grep -qE '^[0-9]+$' || fail "no $key: $(cat out)"
done
exits 0 vhd compact --no-zeros d.vhd
says out 'blocks given back'
exits 1 vhd compact --fs d.vhd
says err 'fstrim'
says err '--fs is for disks that nobody uses'
exits 1 vhd compact still.vhd
says err 'stands on it'

# The layer below has another size, and gets the disk's when that is merged into it.
exits 0 vhd merge d.vhd
[ ! -e still.vhd ] || fail 'still.vhd is still there'
exits 0 vhd job d.vhd
says out 'merge, done'

# Slow, paused, resumed, cancelled; and a command that is interrupted takes its work back.
exits 0 vhd snapshot d.vhd --name four.vhd
sleep 2
exits 0 vhd merge --detach --rate 100K d.vhd
says out 'job'
exits 0 vhd job d.vhd
says out 'running'
exits 0 vhd job d.vhd pause
exits 0 vhd job --json d.vhd
says out '"state": "paused"'
exits 1 vhd snapshot d.vhd --name five.vhd
says err 'one at a time'
exits 0 vhd job d.vhd resume
exits 0 vhd job d.vhd rate 200K
exits 0 vhd job --json d.vhd
says out '"rate": 204800'
exits 0 vhd job d.vhd cancel
for _ in $(seq 100); do
	exits 0 vhd job d.vhd
	grep -q cancelled out && break
	sleep 0.1
done
says out 'cancelled'
vhd merge --rate 100K d.vhd > out 2> err &
pid=$!
sleep 1
kill -TERM $pid # a script's background jobs ignore SIGINT
wait $pid && fail 'an interrupted merge succeeds'
says err 'interrupted'
exits 0 vhd job d.vhd
says out 'cancelled'
exits 0 vhd merge d.vhd
[ ! -e four.vhd ] || fail 'four.vhd is still there'

# A job that goes on when the mount ends is cancelled, and the disk is sound.
exits 0 vhd snapshot d.vhd --name six.vhd
sleep 2
exits 0 vhd merge --detach --rate 100K d.vhd
touch stop
wait $writer_pid
[ ! -e broken ] || fail 'a file differed, or could not be written, while there was upkeep'
[ "$(cat rounds)" -ge 4 ] || fail "only $(cat rounds) files were written meanwhile"
(cd m && sha256sum ./*) > sums 2> /dev/null
exits 0 vhd-umount m
[ -e six.vhd ] || fail 'the cancelled merge finished?'
exits 0 vhd merge --rename d.vhd
sound d.vhd
exits 0 vhd-mount -r d.vhd m
(cd m && sha256sum --quiet -c ../sums) || fail 'files differ after the upkeep'
exits 1 vhd merge d.vhd
says err 'reading only'
exits 0 vhd-umount m
nothing_hidden

# Another user is refused, and root is served by a user's process.
[ "$(id -u)" -eq 0 ] && command -v setpriv > /dev/null || {
	echo 'not tested: other users, which needs root and setpriv' >&2
	exit 0
}
chmod 755 .
exits 0 vhd-mount d.vhd m
chmod 666 d.vhd
exits 1 setpriv --reuid 65534 --clear-groups vhd snapshot d.vhd --name stolen.vhd
says err 'in use'
exits 1 setpriv --reuid 65534 --clear-groups vhd job d.vhd
says err 'no process'
[ ! -e stolen.vhd ] || fail 'another user made a snapshot'
exits 0 vhd-umount m
