#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd snapshot on disks that nobody has open: names, content, what is refused.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

vhd create -s 64M a.vhd && bytes 3000000 | vhd write a.vhd 1M || fail 'a.vhd'
vhd hash a.vhd > before.manifest
exits 0 vhd snapshot a.vhd --name frozen.vhd
says out 'frozen.vhd'
says_nothing err
exits 0 vhd verify a.vhd before.manifest
echo later | vhd write a.vhd 0
exits 0 vhd verify frozen.vhd before.manifest
exits 3 vhd verify a.vhd before.manifest
exits 0 vhd check a.vhd
frozen_uuid=$(vhd info --json frozen.vhd | sed -n 's/^  "uuid": \(.*\),/\1/p')

# The names that it makes itself differ, however fast one follows the other.
exits 0 vhd snapshot --json a.vhd
exits 0 vhd snapshot --json a.vhd
json_is online null
[ "$(json_value uuid)" != "$(json_value frozen_uuid)" ] || fail 'the child has its parent'"'"'s UUID'
[ "$(ls a.[0-9]*T[0-9]*Z*.vhd | wc -l)" -eq 2 ] || fail "the names: $(ls)"
exits 0 vhd info --json --chain a.vhd
says out "$frozen_uuid"
exits 0 vhd check a.vhd
says out '4 files'

# A symlink stays one.
mkdir folder
ln -s ../a.vhd folder/link.vhd
exits 0 vhd snapshot folder/link.vhd --name by-link.vhd
[ -L folder/link.vhd ] && [ -f by-link.vhd ] || fail "not beside the disk itself: $(ls . folder)"
exits 0 vhd check folder/link.vhd --allow-dir .

exits 1 vhd snapshot a.vhd --name frozen.vhd
says err 'exists'
exits 2 vhd snapshot a.vhd --name folder/x.vhd
exits 2 vhd snapshot a.vhd --name ''
exits 1 vhd snapshot nowhere.vhd
exits 1 vhd job a.vhd
says err 'no process'
nothing_hidden
