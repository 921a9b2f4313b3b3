#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# build-aux/check-layers.sh passes a clean tree and finds each kind of offence.
set -u
lint=$VHDKIT_SRCDIR/build-aux/check-layers.sh
tree=$(mktemp -d) || exit 1
trap 'rm -rf "$tree"' EXIT
failed=0

fresh_tree() {
	rm -rf "${tree:?}"/*
	mkdir -p "$tree"/{common,vhd,mountd,vmm,snapshot,tests}
	printf '%%C%%_libcommon_la_SOURCES = \\\n\t%%D%%/err.c\n' > "$tree/common/Makemodule.am"
	printf '%%C%%_libvhd_core_la_SOURCES = \\\n\t%%D%%/open.c\n' > "$tree/vhd/Makemodule.am"
	touch "$tree"/common/err.c "$tree"/vhd/open.c
}

# finds PATTERN FILE TEXT: with TEXT in FILE the lint fails and says PATTERN of it.
finds() {
	local said
	fresh_tree
	printf '%s\n' "$3" > "$tree/$2"
	[ -f "$tree/${2%/*}/Makemodule.am" ] || printf 'x = %%D%%/%s\n' "${2##*/}" > "$tree/${2%/*}/Makemodule.am"
	if said=$("$lint" "$tree" 2>&1) || ! grep -q "^$2.*$1" <<< "$said"; then
		echo "not found: $1 in $2: $3 (said: $said)" >&2
		failed=1
	fi
}

fresh_tree
"$lint" "$tree" || { echo 'a clean tree is refused' >&2; failed=1; }

finds 'no other folder' common/err.c '#include "vhd/vhd.h"'
finds 'common/ only' vhd/open.c '#include "mountd/fs.h"'
finds 'vhd/ only' mountd/fs.c '#include "vmm/pci.h"'
finds 'vhd/ only' snapshot/set.c '#include "mountd/fs.h"'
finds 'opens images' vmm/pci.c '#include "vhd/vhd.h"'
finds 'includes tests' vhd/open.c '#include "tests/lib/fake.h"'
finds 'from the root' vhd/open.c '#include "../common/err.h"'
finds 'mountd/ only' vhd/open.c '#include <fuse_lowlevel.h>'
finds 'libntfs-3g' mountd/fs.c '#include <ntfs-3g/volume.h>'
finds 'bus' snapshot/set.c '#include <dbus/dbus.h>'
finds 'KVM' vmm/pci.c '#include <linux/kvm.h>'
finds 'liburing' vhd/open.c '#include <liburing.h>'
finds '801 lines' vhd/open.c "$(printf 'x%.0s\n' {1..801})"
finds 'listed in no' vhd/other.c 'int x;'
finds 'neither logs' vhd/open.c '	printf("%d\n", 1);'
finds 'neither logs' common/err.c '	fprintf(stderr, "no");'
finds 'neither logs' common/err.c '	exit(1);'
finds 'neither log' vhd/open.c '#include <syslog.h>'
finds 'aborts only' common/err.c '		abort();'

fresh_tree
printf 'x = %%D%%/a.c %%D%%/b.c\n' > "$tree/mountd/Makemodule.am"
echo '#include <fuse_lowlevel.h>' | tee "$tree/mountd/a.c" > "$tree/mountd/b.c"
if said=$("$lint" "$tree" 2>&1) || ! grep -q 'one file only' <<< "$said"; then
	echo 'two users of libfuse are not found' >&2
	failed=1
fi

fresh_tree
echo '%C%_libvhd_core_la_SOURCES = %D%/open.c' >> "$tree/vhd/Makemodule.am"
if said=$("$lint" "$tree" 2>&1) || ! grep -q 'begun twice' <<< "$said"; then
	echo 'a list that is begun twice is not found' >&2
	failed=1
fi
exit $failed
