#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Lints who may use whom (docs/architecture.md, "Layers"). Usage: check-layers.sh [SOURCE-FOLDER]
set -u
cd "${1:-$(dirname "$0")/..}" || exit 1
export LC_ALL=C
found=0

complain() {
	echo "$*" >&2
	found=1
}

# sources FOLDER...: their .c and .h files.
sources() {
	local folder
	for folder; do
		[ -d "$folder" ] && find "$folder" -name '*.[ch]'
	done | sort
}

# includes PATTERN FILE...: prints FILE:LINE:include for includes that match.
includes() {
	local pattern=$1
	shift
	[ $# -eq 0 ] || grep -HnE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"]($pattern)" "$@"
}

# forbid WHY PATTERN FILE...
forbid() {
	local why=$1 pattern=$2 line
	shift 2
	while IFS= read -r line; do
		complain "$line: $why"
	done < <(includes "$pattern" "$@")
}

folders='common vhd mountd vmm snapshot'
mapfile -t all < <(sources $folders tests fixtures)
mapfile -t product < <(sources $folders)
[ ${#product[@]} -gt 0 ] || complain "$PWD: no sources found"

# Folders.
mapfile -t files < <(sources common)
forbid 'common/ is made of leaves: it uses no other folder' '(vhd|mountd|vmm|snapshot)/' "${files[@]}"
mapfile -t files < <(sources vhd)
forbid 'vhd/ may use common/ only' '(mountd|vmm|snapshot)/' "${files[@]}"
mapfile -t files < <(sources mountd)
forbid 'mountd/ may use common/ and vhd/ only' '(vmm|snapshot)/' "${files[@]}"
mapfile -t files < <(sources snapshot)
forbid 'snapshot/ may use common/ and vhd/ only' '(mountd|vmm)/' "${files[@]}"
mapfile -t files < <(sources vmm)
forbid 'vmm/ may use common/ only' '(mountd|snapshot)/' "${files[@]}"
mapfile -t files < <(sources vmm | grep -vx 'vmm/main\.c')
forbid 'only vmm/main.c opens images' 'vhd/' "${files[@]}"
mapfile -t files < <(printf '%s\n' "${product[@]}" | grep -vE '^mountd/vhd-[a-z]+\.c$')
forbid 'libraries neither log nor exit; programs do so in their main file' '(err|error|syslog)\.h>' "${files[@]}"
forbid 'nothing includes tests' 'tests/' "${product[@]}"
forbid 'includes are written from the root' '\.\.?/' "${all[@]}"

# Libraries that only some files may know.
mapfile -t files < <(printf '%s\n' "${all[@]}" | grep -v '^mountd/')
forbid 'libfuse is known in mountd/ only' 'fuse[^"/]*\.h|fuse3?/' "${files[@]}"
mapfile -t files < <(sources mountd)
mapfile -t users < <(includes 'fuse[^"/]*\.h>|fuse3?/' "${files[@]}" | cut -d: -f1 | sort -u)
[ ${#users[@]} -le 1 ] || complain "${users[*]}: libfuse is known in one file only"
mapfile -t files < <(printf '%s\n' "${all[@]}" | grep -vx 'mountd/unused-ntfs\.c')
forbid 'libntfs-3g is known in mountd/unused-ntfs.c only' 'ntfs-3g/' "${files[@]}"
mapfile -t files < <(printf '%s\n' "${all[@]}" | grep -v '/[^/]*bus[^/]*\.c$')
forbid 'libdbus is known in *bus*.c only' 'dbus/' "${files[@]}"
mapfile -t files < <(printf '%s\n' "${all[@]}" | grep -vE '^vmm/(kvm|vcpu)[^/]*$')
forbid 'KVM is known in vmm/kvm* and vmm/vcpu* only' '(linux|asm)/kvm' "${files[@]}"
mapfile -t files < <(printf '%s\n' "${all[@]}" | grep -vx 'common/ring\.c')
forbid 'liburing is known in common/ring.c only' 'liburing' "${files[@]}"

# Length.
for file in "${all[@]}"; do
	lines=$(wc -l < "$file")
	[ "$lines" -le 800 ] || complain "$file: $lines lines, 800 is the limit and 500 the aim"
done

# Every source is built by somebody. In a Makemodule.am %D% is its folder; a program without a list of sources is made
# of the one file of its name.
listed=$(for file in */Makemodule.am; do
	sed "s|#.*||; s|%D%|$(dirname "$file")|g" "$file" | grep -oE '[A-Za-z0-9_-]+(/[A-Za-z0-9_.-]+)+'
done)
for file in "${all[@]}"; do
	grep -qxF -e "$file" -e "${file%.c}" <<< "$listed" || complain "$file: listed in no Makemodule.am"
done

# A list begun twice loses its first half; automake only warns.
while IFS= read -r line; do
	complain "$line: begun twice"
done < <(grep -HoE '^[^[:space:]#]+_SOURCES =' */Makemodule.am | sort | uniq -d)

# Libraries neither log nor exit. What is a library, the Makemodule.am files say.
library=$(for file in common/Makemodule.am vhd/Makemodule.am; do
	[ -f "$file" ] && awk -v d="$(dirname "$file")" '
		/^%C%_(libcommon|libvhd_core)_la_SOURCES/ { on = 1 }
		on && match($0, /%D%\/[A-Za-z0-9_.-]+\.[ch]/) { print d substr($0, RSTART + 3, RLENGTH - 3) }
		!/\\$/ { on = 0 }' "$file"
done)
[ -n "$library" ] || complain 'no library sources found in common/Makemodule.am and vhd/Makemodule.am'
for file in $library; do
	[ -f "$file" ] || { complain "$file: listed, but not there"; continue; }
	while IFS= read -r line; do
		complain "$file:$line: a library neither logs nor exits"
	done < <(grep -nE '(^|[^A-Za-z0-9_"])(printf|vprintf|puts|putchar|perror|exit|_exit|_Exit|quick_exit|assert)[[:space:]]*\(|\b(stdout|stderr)\b' "$file" |
		grep -vE '^[0-9]+:[[:space:]]*(\*|/\*|//)|_Static_assert|static_assert|format\(printf')
	while IFS= read -r line; do
		complain "$file:$line: a library aborts only where its comment says why that cannot happen"
	done < <(grep -nE '\babort[[:space:]]*\(' "$file" | grep -v 'cannot happen')
done

exit $found
