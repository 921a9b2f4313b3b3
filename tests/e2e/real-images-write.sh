#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Images that other software made take our writes and discards wherever their own blocks, gaps and batmaps lie: they
# read back as written, are sound afterwards, and their parents are not touched. On copies.
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
# shellcheck source=tests/lib/images.sh
. "$srcdir/tests/lib/images.sh"

images=${VHDKIT_IMAGES:-$srcdir/../shared/images}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
RANDOM=2006

# One folder of images: the collection if there is one, and our own in any case.
change_all() {
	local file type size notes path model parent_hash
	while IFS=$'\037' read -r file type _ _ size _ _ _ _ _ _ notes; do
		case $type in dynamic | differencing | fixed) ;; *) continue ;; esac
		[[ $notes == *MALFORMED* || $size -gt $((300 << 20)) ]] && continue
		path=$dir/work/${file%.xz}
		model=$dir/model.raw
		mkdir -p "$dir/work/$(dirname "$file")"
		case $file in
		*.xz) xz -dc "$1/$file" >"$path" ;;
		*) cp "$1/$file" "$path" && chmod u+w "$path" ;;
		esac
		if [ "$type" = differencing ]; then
			# The parent is another row's; a fresh copy of all of them.
			unpack_beside "$1" "$file"
			parent_hash=$(cat "$(dirname "$path")"/*arent.vhd "$(dirname "$path")"/win8.vhd 2>/dev/null | sha256_of)
		fi
		change "$path" "$model" "$size" || continue
		if [ "$type" = differencing ] &&
			[ "$parent_hash" != "$(cat "$(dirname "$path")"/*arent.vhd "$(dirname "$path")"/win8.vhd 2>/dev/null | sha256_of)" ]; then
			fail "$file: writing to the child changed its parent"
		fi
		passed=$((passed + 1))
	done < <(index_rows "$1/INDEX.tsv")
}

unpack_beside() {
	local other
	for other in "$1/$(dirname "$2")"/*; do
		case $other in
		"$1/$2") ;;
		*.xz) xz -dc "$other" >"$dir/work/$(dirname "$2")/$(basename "${other%.xz}")" ;;
		*.vhd) cp -f "$other" "$dir/work/$(dirname "$2")/" && chmod u+w "$dir/work/$(dirname "$2")/$(basename "$other")" ;;
		esac
	done
}

# With --force: children of some lie beside them.
change() {
	local path=$1 model=$2 size=$3 at length i start
	rm -f "$model"
	vhd convert --progress=none -O raw "$path" "$model" || { fail "$path: cannot be read"; return 1; }
	for i in 1 2 3 4 5 6; do
		length=$((RANDOM % 60000 + 1))
		[ $length -lt "$size" ] || length=$((size / 2))
		at=$(((RANDOM * 32768 + RANDOM) % (size - length)))
		head -c $length /dev/urandom >"$dir/piece"
		dd if="$dir/piece" of="$model" bs=1 seek=$at conv=notrunc status=none
		vhd write --force --progress=none "$path" $at <"$dir/piece" || { fail "$path: cannot be written"; return 1; }
		if [ $i = 3 ]; then
			start=$((size / 3 / 512 * 512))
			length=$((size / 4 / 512 * 512))
			[ $length -le $((8 << 20)) ] || length=$((8 << 20))
			vhd discard --force "$path" $start $length || { fail "$path: cannot discard"; return 1; }
			head -c $length /dev/zero | dd of="$model" bs=512 seek=$((start / 512)) conv=notrunc status=none
		fi
	done
	vhd check --json --progress=none "$path" >"$dir/said" 2>&1 || { fail "$path: damaged afterwards: $(cat "$dir/said")"; return 1; }
	if grep -q 'batmap-wrong\|footer-missing\|footer-copy' "$dir/said"; then
		fail "$path: not in order afterwards: $(cat "$dir/said")"
		return 1
	fi
	rm -f "$dir/back.raw"
	vhd convert --progress=none -O raw "$path" "$dir/back.raw" || { fail "$path: cannot be read back"; return 1; }
	cmp "$model" "$dir/back.raw" || { fail "$path: reads back otherwise than written"; return 1; }
}

own=$dir/own
"${VHDKIT_BUILDDIR:-$srcdir}/fixtures/make-fixtures" "$own" || exit 1
cp "$srcdir/fixtures/INDEX.tsv" "$own/"
change_all "$own"
if [ ! -f "$images/INDEX.tsv" ]; then
	echo "no collection of real images at $images (set VHDKIT_IMAGES): only our own were written to" >&2
elif ! command -v xz >/dev/null; then
	echo "xz is not installed: only our own images were written to" >&2
else
	change_all "$images"
fi

echo "$passed images took our writes, $failures failures"
[ "$passed" -gt 0 ] && [ "$failures" = 0 ]
