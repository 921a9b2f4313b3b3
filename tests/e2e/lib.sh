# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the e2e tests: a folder of their own to work in, and what they assert. shellcheck shell=bash
set -u
export LC_ALL=C
work=$(mktemp -d)
trap 'cd / && rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$work" || exit 1

fail() {
	printf 'failed: %s\n' "$*" >&2
	exit 1
}

skip() {
	printf 'skipped: %s\n' "$*" >&2
	exit 77
}

needs() {
	local program
	for program; do
		command -v "$program" > /dev/null || skip "needs $program"
	done
}

# exits CODE COMMAND...: standard output in ./out, standard error in ./err.
exits() {
	local want=$1 code
	shift
	"$@" > out 2> err
	code=$?
	[ "$code" -eq "$want" ] || fail "$* exits with $code, not $want; it says: $(cat err)"
}

# says FILE TEXT: a line of ./out or ./err contains it.
says() {
	grep -qF -- "$2" "$1" || fail "'$2' is not in: $(cat "$1")"
}

says_nothing() {
	[ ! -s "$1" ] || fail "$1 should be empty, and is: $(cat "$1")"
}

same_bytes() {
	cmp "$1" "$2" || fail "$1 and $2 differ"
}

# The value of a key on a line of its own in ./out.
json_value() {
	sed -n "s/^  \"$1\": \(.*[^,]\),\{0,1\}\$/\1/p" out
}

json_is() {
	[ "$(json_value "$1")" = "$2" ] || fail "$1 is $(json_value "$1"), not $2"
}

file_bytes() {
	stat -c %s "$1"
}

allocated_bytes() {
	echo $(($(stat -c %b "$1") * $(stat -c %B "$1")))
}

# Numbers as text: no two sectors alike, and the same every time.
bytes() {
	seq -w 0 99999999 | head -c "$1"
}

# Files are made under hidden names; none may stay, but for what merges keep on record.
nothing_hidden() {
	local left
	left=$(find . -name '.?*' ! -name '.*.changes')
	[ -z "$left" ] || fail "left behind: $left"
}
