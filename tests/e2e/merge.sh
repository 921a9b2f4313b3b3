#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd merge on disks that nobody has open: leaves and layers below others, siblings, names, what is refused.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

# A chain base - mid - leaf, each with data of its own, and what the leaf shows in leaf.manifest.
chain() {
	rm -f ./*.vhd ./*.manifest .*.changes
	vhd create -s 64M base.vhd && bytes 3000000 | vhd write base.vhd 0 || fail 'base'
	vhd create -b base.vhd mid.vhd && echo mid | vhd write mid.vhd 1M || fail 'mid'
	vhd create -b mid.vhd leaf.vhd && echo leaf | vhd write leaf.vhd 2M && echo leaf | vhd write leaf.vhd 40M || fail 'leaf'
	vhd hash leaf.vhd > leaf.manifest || fail 'hash'
}

uuid_of() {
	vhd info --json "$1" | sed -n 's/^  "uuid": "\(.*\)",$/\1/p'
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

# Cut off before the merged file was removed, with its child on the other already: run again, it is removed, but not if it
# was written to.
chain
mkdir copies
cp mid.vhd copies/
exits 0 vhd merge mid.vhd
cp copies/mid.vhd .
sum=$(sha256sum base.vhd leaf.vhd)
exits 0 vhd merge mid.vhd
[ ! -e mid.vhd ] || fail 'mid.vhd is still there'
cp copies/mid.vhd .
printf other | vhd write mid.vhd 3M || fail 'write'
exits 1 vhd merge mid.vhd
says err 'then written to, at offset'
[ -e mid.vhd ] || fail 'what was written to is gone'
[ "$sum" = "$(sha256sum base.vhd leaf.vhd)" ] || fail 'what the disk stands on has changed'
rm mid.vhd
holds leaf.vhd leaf.manifest

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

# Into a file of its own: nothing else changes, also below a disk in use; it is there as a whole or not at all.
chain
sums=$(sha256sum ./*.vhd)
exits 0 vhd merge -o flat.new leaf.vhd
says out '3 files'
says_nothing err
holds flat.new leaf.manifest
[ "$sums" = "$(sha256sum ./*.vhd)" ] || fail '--output changes files of the chain'
exits 0 vhd info --json flat.new
json_is type '"dynamic"'
[ "$(uuid_of flat.new)" != "$(uuid_of leaf.vhd)" ] || fail 'two disks with one Unique Id'
exits 1 vhd merge -o flat.new leaf.vhd
says err '--force'
exits 0 vhd merge -o flat.new --force --json --progress=json mid.vhd
json_is online null
json_is into '"flat.new"'
json_is merged_layers 2
json_is removed false
json_is relinked 0
json_is written_bytes "$(file_bytes flat.new)"
says err '"total"'
exits 0 vhd compare mid.vhd flat.new
exits 1 vhd merge --force -o base.vhd leaf.vhd
says err 'one of its parents'
exits 1 vhd merge -o flat.new nowhere.vhd
exits 1 vhd merge -o nowhere/flat.vhd leaf.vhd
exits 1 vhd merge -o other.new missing/leaf.vhd
exits 2 vhd merge -o other.new --rename leaf.vhd
exits 2 vhd merge -o other.new --keep leaf.vhd
exits 2 vhd merge -o other.new --into base.vhd leaf.vhd
exits 2 vhd merge -o other.new --detach leaf.vhd
[ "$sums" = "$(sha256sum ./*.vhd)" ] || fail 'refused, and files of the chain have changed'
[ ! -e other.new ] || fail 'refused, and the file is there'
nothing_hidden
rm flat.new

# A child that was made larger makes what it is merged into as large; several are merged one by one.
chain
exits 0 vhd resize leaf.vhd +16M
echo end | vhd write leaf.vhd 79M || fail 'write beyond the parent'
vhd hash leaf.vhd > leaf.manifest
sums=$(sha256sum ./*.vhd)
exits 1 vhd merge leaf.vhd --into base.vhd
says err "leaf.vhd: has $((80 << 20)) bytes, and $PWD/mid.vhd has $((64 << 20)): they are not merged in one go"
says err "; first: vhd merge $PWD/leaf.vhd"
[ "$sums" = "$(sha256sum ./*.vhd)" ] || fail 'a refused merge changed something'
exits 0 vhd merge "$PWD/leaf.vhd"
holds mid.vhd leaf.manifest
exits 0 vhd merge mid.vhd --into base.vhd
holds base.vhd leaf.manifest
exits 0 vhd info --json base.vhd
json_is size_bytes $((80 << 20))

# One that was made smaller gets its parent's size back; what was cut off stays so.
chain
exits 0 vhd resize leaf.vhd -16M
exits 1 vhd merge leaf.vhd
says err ": give it that size first: vhd resize $PWD/leaf.vhd $((64 << 20))"
exits 0 vhd resize "$PWD/leaf.vhd" $((64 << 20))
vhd hash leaf.vhd > leaf.manifest
exits 0 vhd merge leaf.vhd
holds mid.vhd leaf.manifest

# On a raw parent.
rm -f ./*.vhd
truncate -s 8M raw.img
vhd create -b raw.img --parent-raw leaf.vhd && vhd resize leaf.vhd 9M > out && echo end | vhd write leaf.vhd 8M || fail 'raw'
vhd hash leaf.vhd > leaf.manifest
exits 1 vhd merge leaf.vhd
says err ": give that the same size first: truncate -s $((9 << 20)) $PWD/raw.img"
exits 0 truncate -s $((9 << 20)) "$PWD/raw.img"
exits 0 vhd merge leaf.vhd
exits 0 vhd verify -f raw raw.img leaf.manifest

# What a merged leaf had changed is kept on record.
chain
mid_uuid=$(uuid_of mid.vhd)
exits 0 vhd merge leaf.vhd
exits 0 vhd changed --json mid.vhd --since "$mid_uuid"
json_is checkpoints 1
json_is changed_bytes 1024

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
