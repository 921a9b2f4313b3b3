# SPDX-License-Identifier: LGPL-2.1-or-later
# For e2e scripts that hold a folder of images against its INDEX.tsv. Columns: file type creator created size_bytes
# content_sha256 parent file_systems file_sha256 licence origin notes.
# shellcheck shell=bash

failures=0
passed=0

fail() {
	echo "FAILED: $*" >&2
	failures=$((failures + 1))
}

skip() {
	echo "skipped: $*" >&2
	exit 77
}

sha256_of() {
	sha256sum | cut -d' ' -f1
}

# json_value KEY: a number or string of the top object on standard input.
json_value() {
	sed -n 's/^  "'"$1"'": \(.*\)$/\1/p' | head -n 1 | sed 's/,$//; s/^"\(.*\)"$/\1/'
}

# index_rows FILE: its rows, without the heading, fields separated by US so that empty ones count.
index_rows() {
	tail -n +2 "$1" | tr '\t' '\037'
}

# content_check FILE SIZE SHA256 [vhd's options]: the disk's size and its whole content.
content_check() {
	local file=$1 size=$2 hash=$3 info got
	shift 3

	if ! info=$(vhd info --json "$@" "$file" 2>/dev/null); then
		fail "$file: $(vhd info "$@" "$file" 2>&1 >/dev/null)"
		return 1
	fi
	got=$(json_value size_bytes <<<"$info")
	if [ "$got" != "$size" ]; then
		fail "$file: $got bytes instead of $size"
		return 1
	fi
	if [ "$size" -gt $((8 << 30)) ] && [ -z "${CHECK_LONG-}" ]; then
		# Hashing so many zeros takes minutes: that they are zeros shows in the map.
		got=$(vhd map --json "$@" "$file" | tr -d ' \n')
		if [[ $got != '[{"offset":0,"length":'$size',"kind":"zero",'* || $got == *'"kind":"data"'* ]]; then
			fail "$file: the map does not show $size zeros: ${got:0:200}"
			return 1
		fi
		echo "$file: all zeros by its map; its content is hashed only with CHECK_LONG=1"
		return 0
	fi
	got=$(vhd read --progress=none "$@" "$file" 0 "$size" 2>/dev/null | sha256_of)
	if [ "$got" != "$hash" ]; then
		fail "$file: content hash $got instead of $hash"
		return 1
	fi
	return 0
}
