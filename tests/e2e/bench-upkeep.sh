#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The program behind make bench's rows on upkeep, at a tiny size: it runs to its end, the disk is sound afterwards, and
# every key that bench.sh reads is there. Nothing here depends on how long anything takes.
. "$VHDKIT_SRCDIR/tests/e2e/lib.sh" || exit 1
PATH="$VHDKIT_BUILDDIR/tests:$PATH"

key() {
	grep -qE "^$1 [0-9]+(\.[0-9]+)?$" out || fail "no $1 in: $(cat out)"
}

exits 0 bench-upkeep load . 16 0.2
for phase in switch merge_middle merge_leaf nothing raw; do
	for what in write flush; do
		for figure in count p50_ms p999_ms max_ms; do
			key "${phase}_${what}_$figure"
		done
	done
done
for name in exchange_p50_ms exchange_max_ms switch_p50_ms switch_max_ms merge_leaf_seconds; do
	key $name
done
held=$(sed -n 's/^merge_leaf_held_mib //p' out)
merged=$(sed -n 's/^merge_leaf_merged_mib //p' out)
((merged > 0)) || fail 'the merge of a leaf under load moved nothing'
((merged <= held)) || fail "the merge of a leaf under load moved $merged MiB, though it held $held MiB"
exits 0 bench-upkeep merge . 8
for name in merge_cold_mb_s cp_cold_mb_s merge_warm_mb_s cp_warm_mb_s; do
	key $name
done
exits 2 bench-upkeep
exits 2 bench-upkeep load . none 1
