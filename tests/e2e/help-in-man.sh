#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Each option that --help shows is in vhd(1), under its command, and the page has no others. The page is well formed.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1
page=$VHDKIT_SRCDIR/docs/man/vhd.1

# The options in COMMAND's part of the page, and in the part on what several commands take.
page_options() {
	awk -v command="$1" '/^\.S[hs] / { on = $0 == ".Ss vhd " command || $0 == ".Ss Shared options" }
		on && /^\.It Fl / { print }' "$page" | grep -oE 'Fl -[a-z-]+' | sed 's/^Fl /-/' | sort -u
}

vhd --help > out || fail 'vhd --help'
for command in $(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' out); do
	grep -qx "\.Ss vhd $command" "$page" || fail "vhd(1) has no part on $command"
	vhd "$command" --help | sed -n '/^Options:/,$p' | grep -oE -- ' --[a-z-]+' | tr -d ' ' | sort -u > help-has
	page_options "$command" > page-has
	missing=$(comm -23 help-has page-has)
	[ -z "$missing" ] || fail "vhd(1), $command: lacks $missing"
	awk -v command="$command" '/^\.S[hs] / { on = $0 == ".Ss vhd " command } on && /^\.It Fl /' "$page" |
		grep -oE 'Fl -[a-z-]+' | sed 's/^Fl /-/' | sort -u > page-own
	extra=$(comm -13 help-has page-own)
	[ -z "$extra" ] || fail "vhd(1), $command: has $extra, which --help does not"
done
command -v mandoc > /dev/null || skip 'the form of the pages is not checked: needs mandoc'
for page in "$VHDKIT_SRCDIR"/docs/man/vhd.1 "$VHDKIT_SRCDIR"/docs/man/libvhd.3; do
	mandoc -T lint -W warning "$page" > out || fail "$(cat out)"
done
