#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Every image that other software made opens with the size and content that the collection's index gives.
# The collection is looked for in $VHDKIT_IMAGES, else in ../shared/images beside the source.
set -u
srcdir=${VHDKIT_SRCDIR:-$(cd "$(dirname "$0")/../.." && pwd)}
# shellcheck source=tests/lib/images.sh
. "$srcdir/tests/lib/images.sh"

images=${VHDKIT_IMAGES:-$srcdir/../shared/images}
[ -f "$images/INDEX.tsv" ] || skip "no collection of real images at $images (set VHDKIT_IMAGES); tests/e2e/fixtures.sh has our own"
if cut -f1 "$images/INDEX.tsv" | grep -q "\.xz$" && ! command -v xz >/dev/null; then
	skip "xz, which unpacks the collection, is not installed"
fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

unpack() {
	mkdir -p "$dir/$(dirname "$1")"
	case $1 in
	*.xz) xz -dc "$images/$1" >"$dir/${1%.xz}" ;;
	*) cp "$images/$1" "$dir/$1" && chmod u+w "$dir/$1" ;;
	esac
}

while IFS=$'\037' read -r file _ _ _ _ _ _ _ file_hash _; do
	unpack "$file"
	got=$(sha256_of <"$dir/${file%.xz}")
	[ "$got" = "$file_hash" ] || fail "$file: unpacked, it is not the file of the index"
done < <(index_rows "$images/INDEX.tsv")

while IFS=$'\037' read -r file type creator created size hash parent _ _ _ _ notes; do
	path=$dir/${file%.xz}
	options=()
	case $type in
	FRAGMENT*) # only a footer: tests/test-real-footers decodes it
		continue ;;
	NEGATIVE*)
		said=$(vhd info "$path" 2>&1 >/dev/null)
		code=$?
		if [ $code != 1 ]; then
			fail "$file: exit $code instead of 1"
		elif [[ $said != *"${path##*/}"*"not a VHD"* ]]; then
			fail "$file: the sentence does not say that it is no VHD: $said"
		else
			passed=$((passed + 1))
		fi
		continue ;;
	esac
	case $notes in
	*MALFORMED*)
		said=$(vhd info "$path" 2>&1 >/dev/null)
		if [ $? != 1 ] || [[ $said != *checksum* ]]; then
			fail "$file: not refused for its checksum: $said"
			continue
		fi
		options=(--salvage) ;;
	esac
	content_check "$path" "$size" "$hash" "${options[@]}" || continue
	info=$(vhd info --json "${options[@]}" "$path" 2>/dev/null)
	[ "$(json_value type <<<"$info")" = "$type" ] || fail "$file: not $type"
	[ "$(json_value created <<<"$info")" = "${created}Z" ] || fail "$file: not made at $created"
	four=${creator#\'}
	four=${four%%\'*}
	four=${four//\\x00/.}
	[ "$(json_value creator <<<"$info")" = "$four" ] || fail "$file: its creator is not '$four'"
	if [ "$type" = differencing ]; then
		found=$(sed -n 's/^  "parent": {.*"path": "\([^"]*\)".*/\1/p' <<<"$info")
		[ "${found##*/}" = "${parent##*\\}" ] || fail "$file: parent '$found' instead of ${parent##*\\}"
	fi
	before=$(sha256_of <"$path")
	vhd check --progress=none "$path" >"$dir/said" 2>&1
	code=$?
	want=0
	[ ${#options[@]} = 0 ] || want=3
	[ $code = $want ] || fail "$file: check exits with $code instead of $want: $(cat "$dir/said")"
	[ "$(sha256_of <"$path")" = "$before" ] || fail "$file: reading changed it"
	passed=$((passed + 1))
done < <(index_rows "$images/INDEX.tsv")

echo "$passed images as the index says, $failures failures"
[ "$passed" -gt 0 ] && [ "$failures" = 0 ]
