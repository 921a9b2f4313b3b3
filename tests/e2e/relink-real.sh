#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# On copies of images that other software made and of our own: another parent, with and without copying, and
# none. Each reads the same afterwards and is sound; what else was in the file is as it was.
# The collection is looked for in $VHDKIT_IMAGES, else in ../shared/images beside the source.
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
# shellcheck source=tests/lib/images.sh
. "$srcdir/tests/lib/images.sh"

images=${VHDKIT_IMAGES:-$srcdir/../shared/images}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# unpack FOLDER FILE: all of FOLDER that lies beside FILE, into an empty $dir/work.
unpack() {
	local file
	rm -rf "$dir/work"
	mkdir "$dir/work"
	for file in "$1/$(dirname "$2")"/*.vhd*; do
		case $file in
		*.xz) xz -dc "$file" >"$dir/work/$(basename "${file%.xz}")" ;;
		*) cp "$file" "$dir/work/" && chmod u+w "$dir/work/${file##*/}" ;;
		esac
	done
}

# unchanged WHAT FILE: sound, and with the content that it had.
unchanged() {
	local damage
	rm -f "$dir/now.raw"
	vhd convert --progress=none -O raw "$2" "$dir/now.raw" 2>/dev/null || { fail "$1: cannot be read"; return 1; }
	cmp "$dir/before.raw" "$dir/now.raw" || { fail "$1: reads otherwise"; return 1; }
	damage=$(vhd check --progress=none "$2" 2>&1) || { fail "$1: damaged: $damage"; return 1; }
}

# rebase WHAT ARGUMENT...
rebase() {
	local what=$1
	shift
	vhd rebase --progress=none "$@" >"$dir/said" 2>&1 || { fail "$what: $(cat "$dir/said")"; return 1; }
}

parent_of() {
	vhd info --json "$1" 2>/dev/null | sed -n 's/^  "parent": {.*"path": "\([^"]*\)".*/\1/p'
}

# Names short and long, so that locators stay in their place, and find another.
child_change() {
	local file=$1 child=$2 size=$3 parent long folder
	parent=$(parent_of "$child")
	[ -n "$parent" ] || { fail "$file: its parent is not found"; return 1; }
	rm -f "$dir/before.raw"
	vhd convert --progress=none -O raw "$child" "$dir/before.raw" 2>/dev/null || { fail "$file: cannot be read"; return 1; }
	folder=$(dirname "$child")
	mv "$parent" "$folder/m.vhd" && parent=$folder/m.vhd
	rebase "$file, moved parent" -b "$parent" "$child" && unchanged "$file, moved parent" "$child" || return 1
	long=$folder/$(printf 'a-long-folder-name-%080d/' 1 2 3 4 5 6 7 8)
	mkdir -p "$long" && mv "$parent" "$long/m.vhd" && parent=$long/m.vhd
	rebase "$file, unsafe" --unsafe -b "$parent" "$child" && unchanged "$file, long path" "$child" || return 1
	vhd convert --progress=none "$parent" "$folder/same.vhd" || return 1
	rebase "$file, converted parent" --json -b "$folder/same.vhd" "$child" &&
		unchanged "$file, converted parent" "$child" || return 1
	[ "$(json_value copied_bytes <"$dir/said")" = 0 ] || fail "$file: what is the same was copied: $(cat "$dir/said")"
	vhd create -s "$size" "$folder/empty.vhd"
	rebase "$file, empty parent" -b "$folder/empty.vhd" "$child" && unchanged "$file, empty parent" "$child" || return 1
	cp "$child" "$folder/alone.vhd"
	rebase "$file, none" -b none "$folder/alone.vhd" && unchanged "$file, none" "$folder/alone.vhd" || return 1
	truncate -s "$size" "$folder/empty.raw"
	rebase "$file, raw parent" -b "$folder/empty.raw" --parent-raw "$child" &&
		unchanged "$file, raw parent" "$child" || return 1
	passed=$((passed + 1))
}

change_all() {
	local file type size notes
	while IFS=$'\037' read -r file type _ _ size _ _ _ _ _ _ notes; do
		[ "$type" = differencing ] && [[ $notes != *MALFORMED* && $size -le $((300 << 20)) ]] || continue
		unpack "$1" "$file"
		vhd info "$dir/work/$(basename "${file%.xz}")" >/dev/null 2>&1 || continue
		child_change "$file" "$dir/work/$(basename "${file%.xz}")" "$size"
	done < <(index_rows "$1/INDEX.tsv")
}

own=$dir/own
"${VHDKIT_BUILDDIR:-$srcdir}/fixtures/make-fixtures" "$own" || exit 1
cp "$srcdir/fixtures/INDEX.tsv" "$own/"
change_all "$own"
[ "$passed" -gt 0 ] || fail 'none of our own images has a parent'
if [ ! -f "$images/INDEX.tsv" ]; then
	missing="no collection of real images at $images (set VHDKIT_IMAGES)"
elif ! command -v xz >/dev/null; then
	missing='xz, which unpacks the collection, is not installed'
else
	change_all "$images"
fi
echo "$passed images got other parents, $failures failures"
[ "$failures" = 0 ] || exit 1
[ -z "${missing-}" ] || skip "$missing: only our own images were changed"
