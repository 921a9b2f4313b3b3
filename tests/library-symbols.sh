#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# libvhd exports exactly what vhd.h and common/blk.h declare, all under VHD_1.0, and keeps no globals.
set -u
cd "$VHDKIT_BUILDDIR/vhd/.libs" || exit 1
if nm libvhd-core.a 2> /dev/null | grep -qE ' (__asan_|__tsan_|__ubsan_|__sanitizer_)'; then
	echo 'this build has sanitizers, whose symbols are not ours' >&2
	exit 77
fi
failed=0

# Declarations start at the left margin; static inline functions have bodies, not symbols.
wanted=$({
	sed -n '/^static/d; s/^[a-z].*[ *]\(vhd_[a-z0-9_]*\)(.*/\1/p' "$VHDKIT_SRCDIR/vhd/vhd.h"
	sed -n '/^static/d; s/^[a-z].*[ *]\(blk_[a-z0-9_]*\)(.*/\1/p' "$VHDKIT_SRCDIR/common/blk.h"
} | sort)
exported=$(nm -D --defined-only libvhd.so | awk '$2 == "T" { print $3 }')
if [ "$(sed 's/@@VHD_1\.0$//' <<< "$exported" | sort)" != "$wanted" ]; then
	echo 'libvhd.so exports (>) other symbols than vhd.h and blk.h declare (<):' >&2
	diff <(echo "$wanted") <(sed 's/@@VHD_1\.0$//' <<< "$exported" | sort) >&2
	failed=1
fi
if grep -qv '@@VHD_1\.0$' <<< "$exported"; then
	echo "libvhd.so exports unversioned symbols: $exported" >&2
	failed=1
fi

# Writable data of our own objects; tables of pointers (.data.rel.ro) are constant once loaded.
globals=$(objdump -t libvhd.a | awk 'NF > 2 && $(NF - 2) ~ /^\.(data|bss|tdata|tbss)(\.|$)/ && $(NF - 2) !~ /^\.data\.rel\.ro/ &&
	$0 ~ / O / { print $NF }')
if [ -n "$globals" ]; then
	echo "libvhd keeps globals: $globals" >&2
	failed=1
fi
exit $failed
