#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Backups by increments: a full copy and what changed since restore the disk byte by byte; what is wrong is refused.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh"

uuid_of() {
	vhd info --json "$1" | sed -n 's/^  "uuid": "\(.*\)",$/\1/p'
}

put() { # put FILE OFFSET TEXT COUNT: lines of text
	yes "$3" | head -n "$4" | vhd write "$1" "$2" || fail "writing to $1"
}

# A disk that is snapshotted three times, of different block sizes; each layer overwrites, adds and discards.
exits 0 vhd create -s 64M 0.vhd
bytes 3M | vhd write 0.vhd 1M
put 0.vhd 40M base 50000
for i in 1 2 3; do
	exits 0 vhd create -b $((i - 1)).vhd --block-size $((1 << (12 + 4 * i % 10))) "$i.vhd"
	put "$i.vhd" $((i * 700000)) "layer $i" 20000
	put "$i.vhd" $((50 * 1024 * 1024 + i * 512)) "tail $i" 3
	exits 0 vhd discard "$i.vhd" $((1024 * 1024 + i * 65536)) 300032
done
exits 0 vhd create -b 3.vhd live.vhd
put live.vhd 5M 'not backed up' 1000

# Full backups of two kinds, a child's too: a copy, and what convert makes.
cp 0.vhd copy.vhd
exits 0 vhd convert --keep-uuid -O fixed 0.vhd fixed.vhd
[ "$(uuid_of fixed.vhd)" = "$(uuid_of 0.vhd)" ] || fail 'convert --keep-uuid'
for i in 1 2 3; do
	exits 0 vhd export -o "$i.inc" "$i.vhd"
	says out 'bytes of data'
	says_nothing err
	vhd export "$i.vhd" > piped.inc || fail "export $i"
	same_bytes "$i.inc" piped.inc
	[ "$(file_bytes "$i.inc")" -lt 2000000 ] || fail "$i.inc has $(file_bytes "$i.inc") bytes"
done
exits 1 vhd export -o 1.inc 1.vhd
says err '--force replaces it'

# In order and once.
exits 1 vhd import 2.inc copy.vhd
says err 'is not what the increment applies to'
same_bytes 0.vhd copy.vhd
for i in 1 2 3; do
	exits 0 vhd import "$i.inc" copy.vhd
	vhd import - fixed.vhd < <(cat "$i.inc") > out || fail "import $i from a pipe"
	for restored in copy.vhd fixed.vhd; do
		exits 0 vhd compare "$i.vhd" "$restored"
		[ "$(vhd hash "$restored")" = "$(vhd hash "$i.vhd")" ] || fail "hash of $restored after $i"
		[ "$(uuid_of "$restored")" = "$(uuid_of "$i.vhd")" ] || fail "Unique Id of $restored after $i"
		exits 0 vhd check "$restored"
	done
	exits 1 vhd import "$i.inc" copy.vhd
	says err 'already'
done
nothing_hidden

# All three in one, in JSON; and on a copy whose own chain it is.
exits 0 vhd export --json --since "$(uuid_of 0.vhd)" -o all.inc 3.vhd
json_is since "\"$(uuid_of 0.vhd)\""
json_is uuid "\"$(uuid_of 3.vhd)\""
json_is size_bytes 67108864
json_is stream_bytes "$(file_bytes all.inc)"
data=$(json_value data_bytes) zeros=$(json_value zero_bytes)
mkdir chain && cp 0.vhd 1.vhd chain/
exits 0 vhd export --since "$(uuid_of 1.vhd)" -o two.inc 3.vhd
exits 0 vhd import two.inc chain/1.vhd
exits 0 vhd compare 3.vhd chain/1.vhd
cp 0.vhd again.vhd
exits 0 vhd import --json all.inc again.vhd
json_is data_bytes "$data"
json_is zero_bytes "$zeros"
exits 0 vhd compare 3.vhd again.vhd

# What is not known.
exits 3 vhd export --since 00112233-4455-6677-8899-aabbccddeeff -o no.inc 3.vhd
says err 'not known'
exits 3 vhd export -o no.inc 0.vhd
says err 'no parent'
[ ! -e no.inc ] || fail 'a stream of nothing is there'
exits 2 vhd export --since 1234 -o no.inc 3.vhd
exits 2 vhd export --json 3.vhd
truncate -s 1M raw && exits 0 vhd create -b raw --parent-raw over-raw.vhd
exits 1 vhd export -o no.inc over-raw.vhd
says err 'raw disk'

# Nobody's parent changes by an import: what stands on the copy would not find its parent again.
cp 0.vhd parent.vhd
exits 0 vhd create -b parent.vhd kid.vhd
exits 1 vhd import 1.inc parent.vhd
says err 'kid.vhd'
same_bytes 0.vhd parent.vhd
rm kid.vhd

# A disk that grew or shrank between the states, and grew again: the copy follows, also when that is cut off.
before=3.vhd
exits 0 vhd convert --keep-uuid -O fixed 3.vhd again-fixed.vhd
for size in 80M 30M 70M; do
	exits 0 vhd create -b "$before" resized-$size.vhd
	exits 0 vhd resize --force resized-$size.vhd "$size"
	put resized-$size.vhd 20M "size $size" 30000
	exits 0 vhd export -o $size.inc resized-$size.vhd
	cp again.vhd cut-off.vhd
	for restored in again.vhd again-fixed.vhd; do
		exits 0 vhd import $size.inc $restored
		exits 0 vhd compare resized-$size.vhd $restored
		exits 0 vhd check $restored
	done
	(
		ulimit -f $(($(file_bytes cut-off.vhd) / 1024 + 40))
		trap '' XFSZ
		vhd import $size.inc cut-off.vhd > out 2> err
	) || says err 'run the same import again'
	exits 0 vhd info cut-off.vhd
	vhd import $size.inc cut-off.vhd > out 2> err || says err 'already'
	exits 0 vhd compare resized-$size.vhd cut-off.vhd
	before=resized-$size.vhd
done
exits 0 vhd create -s 1M --block-size 4K small-blocks.vhd
# One that cannot follow is as it was, and still what it was.
exits 0 vhd create -b small-blocks.vhd --block-size 2M -s 2040G far.vhd
exits 0 vhd export -o far.inc far.vhd
cp small-blocks.vhd cannot.vhd
exits 1 vhd import far.inc cannot.vhd
says err 'larger blocks'
[ "$(uuid_of cannot.vhd)" = "$(uuid_of small-blocks.vhd)" ] || fail 'a copy that cannot follow lost its Unique Id'
exits 0 vhd compare small-blocks.vhd cannot.vhd
exits 0 vhd resize --force copy.vhd 32M
exits 0 vhd create -b 3.vhd four.vhd
exits 0 vhd export -o four.inc four.vhd
exits 1 vhd import four.inc copy.vhd
says err 'the increment is for a disk of 67108864'

# Bits flipped anywhere, and streams cut anywhere, are noticed before the copy changes. Each record's edges are tried.
exits 0 vhd create -s 1M small.vhd
exits 0 vhd create -b small.vhd small-child.vhd
put small-child.vhd 4096 'some data' 20000
exits 0 vhd discard small-child.vhd 524288 65536
exits 0 vhd export -o small.inc small-child.vhd
says err 'no differencing disk stands on it'
cp small.vhd small-copy.vhd
length=$(file_bytes small.inc)
record=$(LC_ALL=C grep -aboE 'DATA|ZERO|DONE' small.inc | cut -d: -f1)
[ "$(wc -w <<< "$record")" -ge 3 ] || fail "records at $record"
flip() {
	local byte
	byte=$(od -An -tu1 -j "$1" -N 1 small.inc)
	cp small.inc bad.inc
	printf "\\x$(printf %x $((byte ^ 1 << $2)))" | dd of=bad.inc bs=1 seek="$1" conv=notrunc status=none
	exits 1 vhd import bad.inc small-copy.vhd
	says err 'small-copy.vhd was not changed'
}
for at in $record; do
	for where in 0 3 4 8 15 16 23 24 39; do
		flip $((at + where)) $((where % 8))
	done
	head -c "$at" small.inc > bad.inc
	exits 1 vhd import bad.inc small-copy.vhd
	says err "at offset $at: it ends here"
	head -c $((at + 7)) small.inc > bad.inc
	exits 1 vhd import - small-copy.vhd < bad.inc
	says err 'it ends here'
done
for at in 0 8 12 16 32 48 56 64 72 80 120 127 300 900 $((length - 1)); do
	flip "$at" $((at % 8))
done
: > bad.inc
exits 1 vhd import bad.inc small-copy.vhd
says err 'is no increment'
head -c 100 small.inc > bad.inc
exits 1 vhd import bad.inc small-copy.vhd
says err 'damaged at offset 100'
{ cat small.inc; printf x; } > bad.inc
exits 1 vhd import bad.inc small-copy.vhd
says err "damaged at offset $length: something follows"
exits 1 vhd import . small-copy.vhd
same_bytes small.vhd small-copy.vhd

# One that was cut off in the middle: neither state, until the same import has finished it.
cp small.vhd half.vhd
(
	ulimit -f $(($(file_bytes half.vhd) / 1024 + 40))
	trap '' XFSZ
	vhd import small.inc half.vhd > out 2> err
) && fail 'an import that could not write'
says err 'run the same import again'
half=$(uuid_of half.vhd)
[ "$half" != "$(uuid_of small.vhd)" ] && [ "$half" != "$(uuid_of small-child.vhd)" ] || fail 'half of it has a name'
exits 1 vhd import 1.inc half.vhd
says err 'is not what the increment applies to'
exits 3 vhd changed --since "$(uuid_of small.vhd)" half.vhd
exits 0 vhd import small.inc half.vhd
exits 0 vhd compare small-child.vhd half.vhd
[ "$(uuid_of half.vhd)" = "$(uuid_of small-child.vhd)" ] || fail 'Unique Id of what was finished'
exits 0 vhd check half.vhd

# Killed at any moment: one of three states, and the same import finishes.
seen=
for wait in 0 0.002 0.004 0.008 0.012 0.016 0.024 0.04; do
	cp 0.vhd killed.vhd
	vhd import all.inc killed.vhd > out 2> err &
	sleep "$wait"
	kill -9 $! 2> /dev/null
	wait $! 2> /dev/null
	state=$(uuid_of killed.vhd)
	case $state in
	"$(uuid_of 0.vhd)") seen+=' base' ;;
	"$(uuid_of 3.vhd)") seen+=' done' && continue ;;
	*) seen+=' half' ;;
	esac
	exits 0 vhd import all.inc killed.vhd
	exits 0 vhd compare 3.vhd killed.vhd
	exits 0 vhd check killed.vhd
done
echo "killed imports were:$seen"

# A signal ends what waits for a pipe.
mkfifo pipe
vhd import - small-copy.vhd < pipe > out 2> err &
exec 9> pipe
head -c 200 small.inc >&9
sleep 0.3
kill -TERM $!
wait $! && fail 'an import that was interrupted'
says err 'interrupted'
says err 'was not changed'
exec 9>&-
same_bytes small.vhd small-copy.vhd
vhd export 3.vhd --since "$(uuid_of 0.vhd)" > pipe 2> err &
exec 9< pipe
sleep 0.3
kill -TERM $!
wait $! && fail 'an export that was interrupted'
says err 'interrupted'
exec 9<&-
nothing_hidden
