#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd write and vhd read: any offset and length, and nothing beyond the end.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

exits 0 vhd create -s 64M a.vhd
bytes 3000001 > data
vhd write a.vhd 4194001 < data || fail 'write from a file'
exits 0 vhd read a.vhd 4194001 3000001
same_bytes data out
vhd write a.vhd 100 < <(cat data) || fail 'write from a pipe'
exits 0 vhd read a.vhd 100 3000001
same_bytes data out
exits 0 vhd read a.vhd 32M 1K
head -c 1024 /dev/zero > zeros
same_bytes zeros out
exits 0 vhd read a.vhd 0 0
says_nothing out
exits 0 vhd read a.vhd 0 64M
[ "$(file_bytes out)" -eq $((64 << 20)) ] || fail 'the whole disk'

# What is known not to fit is not begun; what is not known says how much fitted.
vhd write a.vhd 67107840 < data 2> err && fail 'wrote beyond the end'
says err '1024 fit'
exits 0 vhd read a.vhd 67107840 1024
same_bytes zeros out
vhd write a.vhd 67107840 < <(cat data) 2> err && fail 'wrote beyond the end from a pipe'
says err 'first 1024 bytes'
exits 0 vhd read a.vhd 67107840 1024
cmp -n 1024 out data || fail "what fitted was not written"
vhd write a.vhd 64M < /dev/null || fail 'nothing fits at the end'

exits 1 vhd read a.vhd 64M 1
says err 'beyond'
exits 1 vhd read a.vhd 0xffffffffffffffff 0xffffffffffffffff
exits 2 vhd read a.vhd 0
exits 2 vhd read a.vhd x 1
exits 2 vhd read a.vhd -1 1

truncate -s 5000 r.raw
printf tail | vhd write -f raw r.raw 4996 || fail 'write at the odd end of a raw disk'
exits 0 vhd read -f raw r.raw 4996 4
[ "$(cat out)" = tail ] || fail 'the odd end of a raw disk'
[ "$(file_bytes r.raw)" -eq 5000 ] || fail 'a raw disk grew'

# A reader that goes away leaves the image closed.
vhd read a.vhd 0 64M | head -c 1 > one
printf x | vhd write a.vhd 0 || fail 'the image is still in use'

# Progress is of what is read, wherever it starts.
exits 0 vhd create -s 64M progress.vhd
exits 0 vhd read --progress=json progress.vhd 32M 1M
says err '{"done": 1048576, "total": 1048576, "unit": "bytes"'

# What fails is told once.
exits 0 vhd create -s 64M limited.vhd
code=0
(ulimit -f 3000; trap '' XFSZ; bytes 40M | vhd write limited.vhd 0) > out 2> err || code=$?
[ $code -eq 1 ] || fail "a file that cannot grow: exit $code"
[ "$(grep -c 'writing at offset' err)" -eq 1 ] || fail "not told once: $(cat err)"
exits 0 vhd check limited.vhd
