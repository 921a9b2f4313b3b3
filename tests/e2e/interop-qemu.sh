#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# qemu-img reads what we make, at its full size and byte for byte, we read what qemu-img makes, and the locks of both
# keep the other out.
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
# shellcheck source=tests/lib/images.sh
. "$srcdir/tests/lib/images.sh"
command -v qemu-img >/dev/null || skip "qemu-img is not installed (Debian, Ubuntu: qemu-utils)"

dir=$(mktemp -d)
holder=
trap '[ -z "$holder" ] || kill "$holder" 2>/dev/null; rm -rf "$dir"' EXIT
cd "$dir" || exit 1

# content FILE BYTES: a raw file with data here and there.
content() {
	truncate -s "$2" "$1"
	local at
	for at in 0 5 4099 $(($2 / 2)) $(($2 - 700)); do
		[ "$at" -ge 0 ] && [ $((at + 700)) -le "$2" ] || continue
		head -c 700 /dev/urandom | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
	done
}

same() { # NAME RAW OTHER
	if cmp "$2" "$3" >/dev/null; then
		passed=$((passed + 1))
	else
		fail "$1: the contents differ ($(stat -c %s "$2") and $(stat -c %s "$3") bytes)"
	fi
}

# What we make, at sizes that are no product of cylinders, heads and sectors.
for size in 512 1536 4096 3145728 34091008 104857600 268435968; do
	content disk.raw $size
	for type in dynamic fixed; do
		rm -f ours.vhd theirs.raw
		vhd create --type=$type --size=$size ours.vhd || fail "create $type $size"
		vhd write --progress=none ours.vhd 0 <disk.raw || fail "write $type $size"
		qemu-img convert -f vpc -O raw ours.vhd theirs.raw || fail "qemu-img cannot read $type of $size"
		same "our $type of $size bytes, read by qemu-img" disk.raw theirs.raw
		rm -f ours.vhd
		vhd convert --progress=none -f raw -O $type disk.raw ours.vhd || fail "convert to $type of $size"
		qemu-img convert -f vpc -O raw ours.vhd theirs.raw || fail "qemu-img cannot read converted $type of $size"
		same "our converted $type of $size bytes, read by qemu-img" disk.raw theirs.raw
	done
done

# Large and empty: the size is what counts.
for size in $((127 << 30)) $((2040 << 30)) $(((1 << 40) + 512)); do
	rm -f ours.vhd
	vhd create --size=$size ours.vhd
	got=$(qemu-img info -f vpc --output=json ours.vhd | sed -n 's/^ *"virtual-size": \([0-9]*\).*/\1/p')
	if [ "$got" = "$size" ]; then passed=$((passed + 1)); else fail "$size bytes are $got to qemu-img"; fi
done

# What qemu-img makes.
content disk.raw 34091008
for options in subformat=dynamic subformat=dynamic,force_size=on subformat=fixed subformat=fixed,force_size=on; do
	rm -f theirs.vhd ours.raw theirs.raw
	qemu-img convert -f raw -O vpc -o $options disk.raw theirs.vhd || fail "qemu-img cannot make $options"
	qemu-img convert -f vpc -O raw theirs.vhd theirs.raw
	vhd check --progress=none theirs.vhd >/dev/null || fail "check of qemu-img's $options: $(vhd check theirs.vhd)"
	vhd convert --progress=none -O raw theirs.vhd ours.raw || fail "cannot read qemu-img's $options"
	same "qemu-img's $options" theirs.raw ours.raw
done

# We go on writing where QEMU left off, and QEMU where we did.
rm -f both.vhd
qemu-img create -q -f vpc -o subformat=dynamic,force_size=on both.vhd 16M
cp disk.raw model.raw
truncate -s 16M model.raw
vhd write --progress=none both.vhd 0 <model.raw
if command -v qemu-io >/dev/null; then
	qemu-io -f vpc -c "write -q -P 0x5a 3M 64k" -c "write -q -P 0xa5 8192 1536" both.vhd
	head -c 65536 /dev/zero | tr '\0' '\132' | dd of=model.raw bs=64k seek=48 conv=notrunc status=none
	head -c 1536 /dev/zero | tr '\0' '\245' | dd of=model.raw bs=512 seek=16 conv=notrunc status=none
fi
head -c 300000 /dev/urandom >more
vhd write --progress=none both.vhd 5000000 <more
dd if=more of=model.raw bs=1 seek=5000000 conv=notrunc status=none
rm -f ours.raw theirs.raw
vhd check --progress=none both.vhd >/dev/null || fail "check after both wrote: $(vhd check both.vhd)"
vhd convert --progress=none -O raw both.vhd ours.raw
qemu-img convert -f vpc -O raw both.vhd theirs.raw
same "written by both, read by us" model.raw ours.raw
same "written by both, read by qemu-img" model.raw theirs.raw

# Locks.
if ! command -v qemu-io >/dev/null; then
	echo "the locks are not tried: qemu-io is not installed" >&2
elif ! qemu-io -r -f vpc -c quit both.vhd >/dev/null 2>&1; then
	echo "the locks are not tried: qemu-io cannot open an image here" >&2
else
	# hold COMMAND...: runs it with its input held open, until it has said "ready" or two seconds passed.
	hold() {
		rm -f gate
		mkfifo gate
		"$@" <gate >held 2>&1 &
		holder=$!
		exec 9>gate
		local i
		for ((i = 0; i < 100; i++)); do
			grep -q OFDLCK "/proc/$holder/fdinfo"/* 2>/dev/null && return
			sleep 0.05
		done
		fail "$1 does not get its locks: $(cat held)"
	}
	release() {
		exec 9>&-
		wait "$holder"
		holder=
	}

	hold qemu-io -f vpc both.vhd
	said=$(vhd write --progress=none both.vhd 0 <more 2>&1)
	code=$?
	if [ $code = 1 ] && [[ $said == *"in use"*qemu-io* ]]; then passed=$((passed + 1)); else
		fail "writing while qemu-io writes: exit $code, $said"
	fi
	said=$(vhd read --progress=none both.vhd 0 512 2>&1 >/dev/null)
	code=$?
	if [ $code = 1 ] && [[ $said == *"in use"* ]]; then passed=$((passed + 1)); else
		fail "reading while qemu-io writes: exit $code, $said"
	fi
	release

	hold qemu-io -r -f vpc both.vhd
	vhd read --progress=none both.vhd 0 512 >/dev/null || fail "two readers may share"
	said=$(vhd write --progress=none both.vhd 0 <more 2>&1)
	code=$?
	if [ $code = 1 ] && [[ $said == *"in use"* ]]; then passed=$((passed + 1)); else
		fail "writing while qemu-io reads: exit $code, $said"
	fi
	release

	hold vhd write --progress=none both.vhd 0
	if said=$(qemu-io -f vpc -c quit both.vhd 2>&1); then fail "qemu-io writes while we do"; else passed=$((passed + 1)); fi
	if said=$(qemu-img info -f vpc both.vhd 2>&1); then fail "qemu-img reads while we write"; else passed=$((passed + 1)); fi
	[[ $said == *lock* ]] || fail "qemu-img is kept out, but not by the lock: $said"
	release

	# Reading from us is slow when nobody takes the output.
	rm -f gate
	mkfifo gate
	vhd read --progress=none both.vhd 0 16M >gate 2>held &
	holder=$!
	exec 9<gate
	head -c 512 <&9 >/dev/null
	if qemu-img info -f vpc both.vhd >/dev/null 2>&1; then passed=$((passed + 1)); else fail "two readers, theirs second"; fi
	if qemu-io -f vpc -c quit both.vhd >/dev/null 2>&1; then fail "qemu-io writes while we read"; else passed=$((passed + 1)); fi
	exec 9<&-
	wait "$holder" 2>/dev/null
	holder=

	# A parent is held too: for reading, so that others may read it but not write.
	rm -f child.vhd
	vhd create -b both.vhd child.vhd || fail "create a child"
	hold vhd write --progress=none child.vhd 0
	if qemu-io -f vpc -c quit both.vhd >/dev/null 2>&1; then fail "qemu-io writes to our parent"; else passed=$((passed + 1)); fi
	if qemu-img info -f vpc both.vhd >/dev/null 2>&1; then passed=$((passed + 1)); else fail "nobody may read our parent"; fi
	release
fi

echo "$passed comparisons with qemu-img hold, $failures failures"
[ "$passed" -gt 0 ] && [ "$failures" = 0 ]
