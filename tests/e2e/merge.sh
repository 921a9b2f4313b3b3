#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd merge on disks that nobody has open: leaves and layers below others, siblings, names, what is refused.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

# A chain base - mid - leaf, each with data of its own, and what the leaf shows in leaf.manifest.
chain() {
	rm -f ./*.vhd ./*.manifest
	vhd create -s 64M base.vhd && bytes 3000000 | vhd write base.vhd 0 || fail 'base'
	vhd create -b base.vhd mid.vhd && echo mid | vhd write mid.vhd 1M || fail 'mid'
	vhd create -b mid.vhd leaf.vhd && echo leaf | vhd write leaf.vhd 2M && echo leaf | vhd write leaf.vhd 40M || fail 'leaf'
	vhd hash leaf.vhd > leaf.manifest || fail 'hash'
}

holds() {
	exits 0 vhd verify "$1" "$2"
	exits 0 vhd check "$1"
}

# The leaf into its parent, which keeps its name.
chain
exits 0 vhd merge leaf.vhd
says out 'mid.vhd'
says out 'it is removed'
says_nothing err
[ ! -e leaf.vhd ] || fail 'leaf.vhd is still there'
holds mid.vhd leaf.manifest

# The same, and the name goes along.
chain
exits 0 vhd merge --rename leaf.vhd
says out 'has its name now'
[ ! -e mid.vhd ] || fail 'mid.vhd is still there'
holds leaf.vhd leaf.manifest
exits 0 vhd info --json --chain leaf.vhd
says out 'base.vhd'

# A symlink names the file that it leads to, and a folder is the same however it is written.
chain
mkdir folder
ln -s leaf.vhd link.vhd
exits 0 vhd merge --rename folder/../link.vhd
[ -L link.vhd ] || fail 'the symlink is gone'
[ ! -e mid.vhd ] || fail 'mid.vhd is still there'
holds leaf.vhd leaf.manifest
chain
ln -s leaf.vhd link.vhd
exits 0 vhd merge link.vhd
[ ! -e leaf.vhd ] || fail 'leaf.vhd is still there'
holds mid.vhd leaf.manifest
rm -f link.vhd

# A layer that another stands on.
chain
exits 0 vhd merge mid.vhd
[ ! -e mid.vhd ] || fail 'mid.vhd is still there'
holds leaf.vhd leaf.manifest
exits 0 vhd info --json leaf.vhd
says out 'base.vhd'
exits 1 vhd merge --rename mid.vhd
says err 'mid.vhd'

# All at once, into an ancestor.
chain
exits 0 vhd merge --into base.vhd leaf.vhd --json
json_is merged_layers 2
json_is online null
json_is removed true
[ ! -e mid.vhd ] && [ ! -e leaf.vhd ] || fail 'merged files are still there'
holds base.vhd leaf.manifest
exits 1 vhd merge base.vhd
says err 'no parent'

# Kept.
chain
exits 0 vhd merge --keep leaf.vhd
says out 'should not be used'
holds mid.vhd leaf.manifest
[ -e leaf.vhd ] || fail '--keep removes leaf.vhd'

# More than one stands on what is merged: all of them go on with the same content.
chain
vhd create -b mid.vhd other.vhd && echo other | vhd write other.vhd 5M || fail 'other'
vhd hash other.vhd > other.manifest
exits 0 vhd merge mid.vhd --json
json_is relinked 1
[ ! -e mid.vhd ] || fail 'mid.vhd is still there'
holds leaf.vhd leaf.manifest
holds other.vhd other.manifest

# Siblings would break: refused, and nothing has changed.
chain
vhd create -b base.vhd sibling.vhd || fail 'sibling'
sums=$(sha256sum ./*.vhd)
exits 3 vhd merge mid.vhd
says err 'sibling.vhd'
says err '--force'
exits 3 vhd merge --into base.vhd leaf.vhd
says err 'sibling.vhd'
[ "$sums" = "$(sha256sum ./*.vhd)" ] || fail 'a refused merge changed something'
exits 0 vhd merge leaf.vhd
holds mid.vhd leaf.manifest
exits 0 vhd merge --force mid.vhd
holds base.vhd leaf.manifest
exits 1 vhd read sibling.vhd 0 512
says err 'sibling.vhd'

# Wrong ancestors, wrong usage.
chain
vhd create -s 64M stranger.vhd || fail 'stranger'
exits 1 vhd merge --into stranger.vhd leaf.vhd
says err 'none of its parents'
exits 1 vhd merge --into nowhere.vhd leaf.vhd
exits 1 vhd merge nowhere.vhd
says err 'nowhere.vhd'
exits 2 vhd merge --keep --rename leaf.vhd
exits 2 vhd merge --rate fast leaf.vhd
exits 1 vhd merge --detach leaf.vhd
says err '--detach'
holds leaf.vhd leaf.manifest

# Interrupted, it says so; the disk is sound, and the same command finishes.
chain
bytes 30000000 | vhd write leaf.vhd 8M || fail 'write'
vhd hash leaf.vhd > leaf.manifest
vhd merge --rate 2M leaf.vhd > out 2> err &
pid=$!
sleep 1
kill -TERM $pid # a script's background jobs ignore SIGINT
wait $pid
code=$?
[ "$code" -eq 1 ] || fail "an interrupted merge exits with $code: $(cat err)"
says err 'interrupted'
holds leaf.vhd leaf.manifest
exits 0 vhd merge leaf.vhd
holds mid.vhd leaf.manifest
nothing_hidden

# Killed at any moment, the disk shows the same and the same command finishes; if it had finished, the leaf is gone.
chain
bytes 8000000 | vhd write leaf.vhd 8M || fail 'write'
vhd hash leaf.vhd > leaf.manifest
mkdir whole
mv ./*.vhd whole/
ended=0
for round in $(seq 30); do
	rm -f ./*.vhd ./.*.changes
	cp whole/*.vhd .
	vhd merge leaf.vhd > /dev/null 2>&1 &
	pid=$!
	sleep "0.$((RANDOM % 2))$((RANDOM % 10))$((RANDOM % 10))"
	kill -9 $pid 2> /dev/null
	wait $pid 2> /dev/null
	if [ -e leaf.vhd ]; then
		[ $((round % 2)) -eq 1 ] || holds leaf.vhd leaf.manifest
		exits 0 vhd merge leaf.vhd
		[ ! -e leaf.vhd ] || fail 'leaf.vhd is still there'
	else
		ended=$((ended + 1))
	fi
	holds mid.vhd leaf.manifest
	nothing_hidden
done
echo "of 30 killed merges $ended had ended"
