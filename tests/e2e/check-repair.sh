#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# vhd check --repair, --dry-run, --undo-repair: exit codes, what is said, what is saved, and that it comes back.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

put() { # FILE OFFSET: standard input goes there
	dd of="$1" bs=1 seek="$2" conv=notrunc status=none || fail "dd into $1"
}

bytes 5000000 > data
vhd create -s 64M sound.vhd && vhd write sound.vhd 0 < data || fail 'a disk of three blocks'

# Nothing to do, nothing done.
cp sound.vhd a.vhd
exits 0 vhd check --repair a.vhd
says out 'a.vhd: clean'
same_bytes sound.vhd a.vhd
[ ! -e a.vhd.repair ] || fail 'a side file of nothing'

# Both footers gone: all that is left is the header.
head -c 512 /dev/zero | put a.vhd 0
head -c 512 /dev/zero | put a.vhd $(($(file_bytes a.vhd) - 512))
cp a.vhd damaged
exits 1 vhd check a.vhd
exits 0 vhd check --repair --dry-run a.vhd
says out 'planned: both footers are rebuilt'
says out 'nothing was changed'
same_bytes a.vhd damaged
exits 0 vhd check --repair a.vhd
says out 'done: both footers are rebuilt'
says out 'a.vhd.repair'
exits 0 vhd check a.vhd
vhd read a.vhd 0 5000000 > read || fail 'reading what was repaired'
same_bytes data read
head -n 1 a.vhd.repair | grep -qx 'vhdkit repair 1' || fail 'the side file begins otherwise'
exits 0 vhd check --undo-repair=a.vhd.repair a.vhd
same_bytes a.vhd damaged
# Again: the first side file stays.
cp a.vhd.repair first
exits 0 vhd check --repair a.vhd
same_bytes first a.vhd.repair
[ -e a.vhd.repair.2 ] || fail 'no second side file'
# Written to since: not undone unasked.
printf changed | vhd write a.vhd 0 || fail write
printf X | put a.vhd 40
exits 1 vhd check --undo-repair=a.vhd.repair.2 a.vhd
says err 'written to since'
# Nor, even with --force, from a side file that is damaged at its end: not even the part before.
cp a.vhd now
tac a.vhd.repair.2 | sed '0,/^\(saved [0-9]* [0-9]* [0-9]*\) [0-9a-f]*/s//\1 00000000000000ff/' | tac > bad.repair
exits 1 vhd check --undo-repair bad.repair --force a.vhd
says err 'damaged'
same_bytes a.vhd now
exits 0 vhd check --undo-repair a.vhd.repair.2 --force a.vhd

# What others must not read in the image they must not read in the side file.
cp sound.vhd secret.vhd
chmod 600 secret.vhd
bytes 100000 >> secret.vhd
(umask 022 && exits 0 vhd check --repair secret.vhd) || exit 1
[ "$(stat -c %a secret.vhd.repair)" = 600 ] || fail "mode $(stat -c %a secret.vhd.repair)"

# A file that was cut off.
cp sound.vhd cut.vhd
truncate -s -1000000 cut.vhd
exits 0 vhd check --repair --json cut.vhd
json_is result '"repaired"'
json_is side_file '"cut.vhd.repair"'
says out '"kind": "lost"'
vhd read cut.vhd 0 5000000 > read || fail 'reading what was left'
cmp -n 4500000 data read || fail 'what was there is not there any more'

# Two blocks at one place: both keep the bytes.
cp sound.vhd twice.vhd
table=$((0x$(od -An -tx1 -j 528 -N 8 twice.vhd | tr -d ' ')))
dd if=twice.vhd of=entry bs=1 skip=$table count=4 status=none
put twice.vhd $((table + 20)) < entry
exits 3 vhd check twice.vhd
exits 0 vhd check --repair twice.vhd --side-file saved
says out 'doubtful: bytes 0 to 2097151'
says out 'doubtful: bytes 10485760 to 12582911'
[ -e saved ] || fail 'the side file asked for is not there'
vhd read twice.vhd 0 2097152 > one && vhd read twice.vhd 10M 2097152 > other || fail 'reading both'
same_bytes one other
cmp -n 2097152 data one || fail 'the first block has changed'
put twice.vhd $((table + 20)) < entry
exits 1 vhd check --repair twice.vhd --side-file saved
says err 'exists already'

# Garbage for a BAT of millions of entries is refused in little memory. (No program of a sanitizer runs in that.)
exits 0 vhd create -s 16G --block-size 4K garbage.vhd
bytes 16M | dd of=garbage.vhd bs=1M oflag=seek_bytes seek=4096 conv=notrunc iflag=fullblock status=none
if (ulimit -v 250000 && vhd --version) > /dev/null 2>&1; then
	(ulimit -v 250000 && exits 3 vhd check --repair garbage.vhd) || exit 1
else
	exits 3 vhd check --repair garbage.vhd
fi
says out 'BAT entries cannot be right'

# No trace of a fixed disk's footer: only on the user's word.
head -c 1048576 data > raw
exits 1 vhd check --repair raw
says err '--force'
cmp -n 1048576 data raw || fail 'changed, though refused'
exits 0 vhd check --repair --force raw
vhd read raw 0 1048576 > read || fail 'reading the fixed disk'
cmp -n 1048576 data read || fail 'the fixed disk has other content'

# Another parent: only on the user's word; damage in a parent is not touched.
vhd create -s 64M p.vhd && vhd create -s 64M q.vhd && vhd create -b p.vhd c.vhd || fail 'a chain'
rm p.vhd
exits 3 vhd check --repair c.vhd
says out 'refused'
says out '--parent FILE'
exits 3 vhd check --repair --parent q.vhd c.vhd
says out '--force'
exits 0 vhd check --repair --parent q.vhd --force c.vhd
exits 0 vhd check --parent q.vhd c.vhd
mv q.vhd p.vhd
exits 0 vhd check c.vhd
cp p.vhd p-sound
printf '\0\0\0\1' | put p.vhd 4096
exits 3 vhd check --repair c.vhd
says out 'vhd check --repair'
says out 'other disks may stand'
cp p-sound p.vhd

# A saved-state mark goes only when asked.
cp sound.vhd s.vhd
for at in 84 $(($(file_bytes s.vhd) - 512 + 84)); do
	printf '\1' | put s.vhd $at
	sum=$((0x$(od -An -tx1 -j $((at - 84 + 64)) -N 4 s.vhd | tr -d ' ') - 1))
	printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $((sum >> 24 & 255)) $((sum >> 16 & 255)) $((sum >> 8 & 255)) $((sum & 255)))" |
		put s.vhd $((at - 84 + 64))
done
exits 0 vhd check --repair s.vhd
exits 0 vhd check s.vhd
says out 'saved-state'
exits 0 vhd check --repair --clear-saved-state s.vhd
same_bytes s.vhd sound.vhd

# In use.
sleep 5 | vhd write sound.vhd 0 &
sleep 1
exits 1 vhd check --repair sound.vhd
wait
exits 2 vhd check --dry-run sound.vhd
exits 2 vhd check --force sound.vhd
exits 2 vhd check --undo-repair=x --repair sound.vhd
nothing_hidden
exit 0
