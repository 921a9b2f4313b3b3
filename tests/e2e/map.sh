#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd map: extents in order, without gaps, with the layer that holds them.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

exits 0 vhd create -s 64M a.vhd
printf x | vhd write a.vhd 4M || fail write
exits 0 vhd create -b a.vhd c.vhd
printf x | vhd write c.vhd 8M || fail write
exits 0 vhd map c.vhd
says out '# layer 1: '
exits 0 vhd map --json c.vhd
says out '"kind": "data", "layer": 0'
says out '"kind": "data", "layer": 1'
at=0
while read -r offset length; do
	[ "$offset" -eq "$at" ] || fail "a gap or overlap at $offset in: $(cat out)"
	at=$((offset + length))
done < <(sed -n 's/^  {"offset": \([0-9]*\), "length": \([0-9]*\),.*/\1 \2/p' out)
[ "$at" -eq $((64 << 20)) ] || fail "the map ends at $at"
truncate -s 1M r.raw
exits 0 vhd map -f raw --json r.raw
says out '{"offset": 0, "length": 1048576, "kind": "zero", "layer": null, "file_offset": null}'
