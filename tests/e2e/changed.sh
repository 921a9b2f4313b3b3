#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd changed: text, JSON and binary say the same; what is not known is an error.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh"

uuid_of() {
	vhd info --json "$1" | sed -n 's/^  "uuid": "\(.*\)",$/\1/p'
}

exits 0 vhd create -s 10M base.vhd
exits 0 vhd create -b base.vhd middle.vhd
printf x | vhd write middle.vhd 4096
exits 0 vhd create -b middle.vhd -s 11M leaf.vhd
printf x | vhd write leaf.vhd 5M
head -c 1024 /dev/zero | vhd write leaf.vhd 4608

exits 0 vhd changed leaf.vhd
says out '# 1050112 bytes changed since'
says out 'the disk had 10485760 bytes then, and has 11534336 now'
[ "$(grep -v '^#' out | tr -s ' ')" = ' 4608 1024
 5242880 512
 10485760 1048576' ] || fail "$(cat out)"
exits 0 vhd changed leaf.vhd --since "$(uuid_of base.vhd | tr a-f A-F)"
[ "$(grep -v '^#' out | tr -s ' ')" = ' 4096 1536
 5242880 512
 10485760 1048576' ] || fail "$(cat out)"

exits 0 vhd changed --json leaf.vhd
json_is file '"leaf.vhd"'
json_is since "\"$(uuid_of middle.vhd)\""
json_is uuid "\"$(uuid_of leaf.vhd)\""
json_is since_size_bytes 10485760
json_is size_bytes 11534336
json_is changed_bytes 1050112
json_is layers 1
json_is checkpoints 0
says out '{"offset": 4608, "length": 1024}'

exits 0 vhd changed --binary=list leaf.vhd
says_nothing out
vhd changed --binary=- leaf.vhd > piped || fail 'a list through a pipe'
same_bytes list piped
[ "$(file_bytes list)" -eq $((72 + 3 * 16 + 8)) ] || fail "the list has $(file_bytes list) bytes"
[ "$(head -c 8 list)" = VHDCHNGD ] || fail 'magic'
[ "$(od -An -tu8 --endian=big -j 56 list | tr -s ' \n' ' ' | cut -d' ' -f 2-9)" = \
	'11534336 3 4608 1024 5242880 512 10485760 1048576' ] || fail "$(od -An -tu8 --endian=big -j 56 list)"
exits 1 vhd changed --binary=list leaf.vhd
says err 'exists already'

exits 0 vhd create -b leaf.vhd empty.vhd
exits 0 vhd changed --json empty.vhd
json_is extents '[]'
exits 0 vhd changed --binary=none empty.vhd
[ "$(file_bytes none)" -eq 80 ] || fail 'an empty list'

exits 3 vhd changed --since 00112233-4455-6677-8899-aabbccddeeff leaf.vhd
says err 'not known'
says_nothing out
exits 3 vhd changed --since "$(uuid_of leaf.vhd)" leaf.vhd
says err 'of the image itself'
exits 3 vhd changed base.vhd
says err 'no parent'
exits 3 vhd changed --since 00112233-4455-6677-8899-aabbccddeeff --binary=no leaf.vhd
[ ! -e no ] || fail 'a list of what is not known'
exits 1 vhd changed missing.vhd
exits 2 vhd changed --since 00112233-4455-6677-8899-aabbccddeefg leaf.vhd
exits 2 vhd changed --json --binary=no leaf.vhd
exits 2 vhd changed
nothing_hidden
