#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The command-line contract: --help everywhere on standard output, wrong usage is 2 with a pointer to --help.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1

exits 0 vhd --help
says_nothing err
commands=$(sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p' out)
[ "$(wc -w <<< "$commands")" -eq 21 ] || fail "the commands: $commands"
for command in $commands; do
	exits 0 vhd "$command" --help
	says out "Usage: vhd $command"
	says_nothing err
	exits 2 vhd "$command" --no-such-option
	says err "vhd "$command" --help"
	says_nothing out
	exits 2 vhd "$command"
	exits 2 vhd "$command" a b c d e
done
exits 0 vhd --version
says out 'vhd (vhdkit) '
exits 2 vhd
exits 2 vhd no-such-command
says err 'vhd --help'
exits 2 vhd --no-such-option
exits 2 vhd create --size
exits 2 vhd check --progress=loud a
exits 1 vhd info ''
if [ -w /dev/full ]; then
	vhd --help > /dev/full 2> err && fail 'a full disk goes unnoticed'
	says err 'standard output'
fi
exit 0
