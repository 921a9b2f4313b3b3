#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# SIGKILL at random moments, over 250 times: the locks are gone with the process, the image opens for writing at once
# and is sound, nothing that was flushed is lost, a sector is what it was or what was written, and a destination is
# complete or not there. KILL_SEED: other moments. CHECK_LONG=1: ten times as often.
[ ! -w /dev/shm ] || export TMPDIR=${TMPDIR-/dev/shm} # what a process wrote outlives it there too
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh"

seed=${KILL_SEED-$$}
RANDOM=$((seed % 32768))
helper=$VHDKIT_BUILDDIR/tests/kill-rounds
times=1
[ "${CHECK_LONG-}" = 1 ] && times=10
rounds=0
killed=0

# within MICROSECONDS COMMAND...: it is killed after a random part of that time, or ends before; its code is in $code.
within() {
	local most=$1
	shift
	"$helper" after $((RANDOM * 32768 % most + RANDOM % most / 16)) "$@" > out-killed 2> err-killed
	code=$?
	rounds=$((rounds + 1))
	case $code in
	137) killed=$((killed + 1)) ;;
	0) ;;
	*) fail "$* exits with $code (KILL_SEED=$seed): $(cat err-killed)" ;;
	esac
}

# takes COMMAND...: how many microseconds it takes when it is left alone, in $usual.
takes() {
	local start
	start=$(date +%s%N)
	exits 0 "$@"
	usual=$((($(date +%s%N) - start) / 1000 + 1000))
}

sound() {
	exits 0 vhd check "$1"
}

# Numbered sectors, flushed and then reported.
exits 0 vhd create -s 3M --block-size 64K dynamic.vhd
exits 0 vhd create -s 2M -t fixed fixed.vhd
exits 0 vhd create -s 3M --block-size 16K base.vhd
bytes 2M | exits 0 vhd write base.vhd 512K
exits 0 vhd create -b base.vhd --block-size 64K middle.vhd
exits 0 vhd create -b middle.vhd child.vhd
for image in dynamic fixed child; do
	exits 0 "$helper" load "$seed" $((30 * times)) $image.vhd
	[ "$(cat out)" -gt 0 ] || fail "$image.vhd: nothing was ever flushed"
	rounds=$((rounds + 30 * times))
	sound $image.vhd
done

# vhd write, into a child.
bytes 6M > new.raw
truncate -s 6M zeros.raw
exits 0 vhd create -s 6M below.vhd
exits 0 vhd create -b below.vhd one.vhd
takes vhd write one.vhd 0 < new.raw
for _ in $(seq $((30 * times))); do
	rm one.vhd
	exits 0 vhd create -b below.vhd one.vhd
	within $usual vhd write one.vhd 0 < new.raw
	exits 0 "$helper" either one.vhd zeros.raw new.raw
	[ $code -ne 0 ] || exits 0 vhd compare -F raw one.vhd new.raw
	sound one.vhd
	printf 'more' | exits 0 vhd write one.vhd 1M
done

# vhd discard.
exits 0 vhd convert -f raw new.raw full.vhd
cp full.vhd two.vhd
takes vhd discard two.vhd 0 4M
for _ in $(seq $((30 * times))); do
	cp full.vhd two.vhd
	within $usual vhd discard two.vhd 0 4M
	exits 0 "$helper" either two.vhd new.raw zeros.raw
	sound two.vhd
	printf 'more' | exits 0 vhd write two.vhd 1M
done

# vhd convert and vhd create: the whole or nothing; over another image: the whole or the other.
takes vhd convert -f raw new.raw three.vhd
for _ in $(seq $((25 * times))); do
	rm -f three.vhd
	within $usual vhd convert -f raw new.raw three.vhd
	[ $code -ne 0 ] || [ -e three.vhd ] || fail 'vhd convert succeeds and leaves nothing'
	[ ! -e three.vhd ] || exits 0 vhd compare -F raw three.vhd new.raw
	nothing_hidden
done
exits 0 vhd create -s 40M four.vhd
before=$(sha256sum < four.vhd)
takes vhd create -s 80M five.vhd
for _ in $(seq $((30 * times))); do
	rm five.vhd
	cp four.vhd five.vhd
	within $usual vhd create --force -s 80M five.vhd
	sound five.vhd
	if [ "$(sha256sum < five.vhd)" != "$before" ]; then
		exits 0 vhd info five.vhd --json
		json_is size_bytes $((80 << 20))
	elif [ $code -eq 0 ]; then
		fail 'vhd create --force succeeds and changes nothing'
	fi
	rm -f .five.vhd.*
done

# Upkeep: killed, the disk reads the same; run again to its end, it does too.
bytes 4M > upper.raw
truncate -s 2M hole.raw
mkdir kept
exits 0 vhd create -s 8M kept/base.vhd
exits 0 vhd write kept/base.vhd 0 < new.raw
exits 0 vhd create -b kept/base.vhd kept/middle.vhd
exits 0 vhd write kept/middle.vhd 1M < upper.raw
exits 0 vhd create -b kept/middle.vhd kept/leaf.vhd
exits 0 vhd write kept/leaf.vhd 3M < upper.raw
exits 0 vhd write kept/leaf.vhd 1M < hole.raw
exits 0 vhd create -s 8M kept/other.vhd
exits 0 vhd write kept/other.vhd 2M < upper.raw
exits 0 vhd convert -O raw kept/leaf.vhd kept.raw

reads_as_kept() {
	local disk=work/leaf.vhd
	[ -e $disk ] || disk=work/middle.vhd # that the leaf was merged into
	exits 0 vhd compare -F raw $disk kept.raw
	sound $disk
}

# upkeep LEFT COMMAND...: as long as LEFT is true, the command that was killed can be run again, and is.
upkeep() {
	local left=$1
	shift
	rm -rf work
	cp -r kept work
	takes "$@"
	for _ in $(seq $((10 * times))); do
		rm -rf work
		cp -r kept work
		within $usual "$@"
		reads_as_kept
		if [ $code -ne 0 ] && $left; then
			exits 0 "$@"
			reads_as_kept
		fi
	done
}

leaf_is_there() { [ -e work/leaf.vhd ]; }
middle_is_there() { [ -e work/middle.vhd ]; }
not_frozen() { [ ! -e work/frozen.vhd ] || [ work/frozen.vhd -ef work/leaf.vhd ]; }

upkeep leaf_is_there vhd merge work/leaf.vhd
upkeep middle_is_there vhd merge work/middle.vhd
upkeep not_frozen vhd snapshot --name=frozen.vhd work/leaf.vhd
upkeep true vhd rebase -b work/other.vhd work/leaf.vhd
upkeep true vhd compact work/leaf.vhd
upkeep true vhd resize work/leaf.vhd 12M

[ $killed -ge $((rounds / 10)) ] || fail "of $rounds only $killed were killed in time"
[ $rounds -ge 250 ] || fail "only $rounds rounds"
echo "$rounds rounds" >&2
