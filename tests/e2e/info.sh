#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd info: the promised keys, chains, and an image whose parent is gone.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

exits 0 vhd create -s 64M base.vhd
exits 0 vhd create -b base.vhd child.vhd
exits 0 vhd info --json child.vhd
for key in file type size_bytes file_size_bytes block_size_bytes allocated_blocks uuid creator created geometry parent chain; do
	[ -n "$(json_value $key)" ] || fail "no key $key in: $(cat out)"
done
json_value created | grep -qE '^"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"$' || fail 'created is no ISO 8601'
json_value geometry | grep -qE '^\{"cylinders": [0-9]+, "heads": [0-9]+, "sectors_per_track": [0-9]+\}$' || fail 'geometry'
json_value parent | grep -qF '"found": true' || fail 'the parent is there'
json_value chain | grep -qF 'base.vhd' || fail 'the chain lacks the parent'
if command -v python3 > /dev/null; then
	python3 -c 'import json, sys; assert len(json.load(sys.stdin)["chain"]) == 2' < out || fail 'no JSON, or no two layers'
fi

exits 0 vhd info child.vhd
says out 'differencing'
says out '2 files'
exits 0 vhd info --chain child.vhd
[ "$(grep -c '^file:' out)" -eq 2 ] || fail '--chain shows both files'

mv base.vhd elsewhere
exits 0 vhd info --json child.vhd
says err 'warning'
json_value parent | grep -qF '"found": false' || fail 'the parent is gone'
json_value parent | grep -qF '"path": null' || fail 'a parent that is gone has no path'
exits 0 vhd info --parent elsewhere --json child.vhd
json_value parent | grep -qF '"found": true' || fail '--parent names it'

# A parent that is there is shown, though its own is not.
exits 0 vhd create -s 64M p0.vhd
exits 0 vhd create -b p0.vhd p1.vhd
exits 0 vhd create -b p1.vhd p2.vhd
rm p0.vhd
exits 0 vhd info --json p2.vhd
says err 'warning'
json_value parent | grep -qF '"found": true' || fail 'the parent is there'
json_value chain | grep -qF '"found": false' || fail 'its own is not'

exits 0 vhd create -s 2040G large.vhd
exits 0 vhd info large.vhd
says out '2040 GiB (2190433320960 bytes)'

exits 1 vhd info no-such-file
says err 'vhd info: no-such-file'
head -c 4096 /dev/zero > zeros
exits 1 vhd info zeros
says_nothing out
