#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd create: what it makes by default and on request, and what it refuses.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1
GIB=$((1 << 30))

exits 0 vhd create a.vhd
[ "$(file_bytes a.vhd)" -lt 307200 ] || fail "an empty disk takes $(file_bytes a.vhd) bytes"
exits 0 vhd info --json a.vhd
json_is type '"dynamic"'
json_is size_bytes $((127 * GIB))
json_is block_size_bytes 2097152

exits 1 vhd create a.vhd
says err 'vhd create: a.vhd: '
says err '--force'
exits 0 vhd create --force -s 1.5G --block-size 4K a.vhd
exits 0 vhd info --json a.vhd
json_is size_bytes $((3 * GIB / 2))
json_is block_size_bytes 4096

exits 0 vhd create -t fixed -s 3M f.vhd
[ "$(file_bytes f.vhd)" -eq $(((3 << 20) + 512)) ] || fail 'a fixed disk is its content and a footer'
exits 0 vhd create --azure --size 2000K z.vhd
says err '2097152'
exits 0 vhd info --json z.vhd
json_is type '"fixed"'
json_is size_bytes 2097152

exits 0 vhd create -b a.vhd c.vhd
exits 0 vhd info --json c.vhd
json_is type '"differencing"'
json_is size_bytes $((3 * GIB / 2))

truncate -s 1M r.raw
exits 0 vhd create -b r.raw --parent-raw x.vhd
exits 0 vhd info --json x.vhd
json_is size_bytes 1048576

exits 1 vhd create -b missing.vhd d.vhd
says err 'missing.vhd'
exits 2 vhd create -t differencing d.vhd
exits 2 vhd create -t fixed -b a.vhd d.vhd
exits 2 vhd create -t vdi d.vhd
exits 2 vhd create -s 100 d.vhd
exits 2 vhd create -s 0 d.vhd
exits 2 vhd create -s 2041G d.vhd
exits 2 vhd create --block-size 3M d.vhd
exits 2 vhd create
exits 1 vhd create nowhere/d.vhd
[ ! -e d.vhd ] || fail 'a refused disk was made all the same'
nothing_hidden
