#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion offers the commands, their options, and files.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1
. "$VHDKIT_SRCDIR/docs/completion/vhd"

# completes WANT WORD...: the last word becomes WANT, among others.
completes() {
	local want=$1
	shift
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	COMPREPLY=()
	_vhd "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
	printf '%s\n' "${COMPREPLY[@]}" | grep -qxF -- "$want" || fail "'$*' does not offer '$want' but: ${COMPREPLY[*]}"
}

touch disk.vhd
mkdir folder
for command in $(vhd --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
	completes "$command" vhd "${command:0:1}"
	for option in $(vhd "$command" --help | grep -oE -- '--[a-z-]+' | sort -u); do
		completes "$option" vhd "$command" "${option:0:3}"
	done
done
completes --version vhd --v
COMP_WORDS=(vhd check --)
COMP_CWORD=2
_vhd vhd -- check
printf '%s\n' "${COMPREPLY[@]}" | sort | uniq -d > twice
[ ! -s twice ] || fail "offered twice: $(cat twice)"
completes disk.vhd vhd info di
completes disk.vhd vhd info --json ''
completes differencing vhd create -t d
completes randwrite vhd bench --op randw
completes raw vhd convert -O r
completes raw vhd convert -f ''
completes json vhd check --progress ''
completes folder vhd info --allow-dir fo
completes disk.vhd vhd export --output di
completes pause vhd job disk.vhd p
