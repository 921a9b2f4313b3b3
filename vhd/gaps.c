/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vhd/gaps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/checked.h"

uint64_t slot_place(const struct layer *layer, uint64_t offset)
{
	return round_up(offset, PAYLOAD_ALIGN) + round_up(layer->bitmap_bytes, PAYLOAD_ALIGN) - layer->bitmap_bytes;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

struct slot_array {
	uint32_t *slot;
	unsigned count, capacity;
};

static int array_add(struct slot_array *a, uint32_t slot)
{
	if (a->count == a->capacity) {
		unsigned capacity = a->capacity ? a->capacity * 2 : 64;
		uint32_t *more = realloc(a->slot, capacity * sizeof(*more));

		if (!more)
			return -ENOMEM;
		a->slot = more;
		a->capacity = capacity;
	}
	a->slot[a->count++] = slot;
	return 0;
}

/* Xen keeps space behind the metadata, for a larger BAT. */
static bool keeps_space(const struct layer *layer)
{
	return memcmp(layer->footer.creator, "tap", 3) == 0;
}

int gaps_between(const struct layer *layer, uint32_t *used, size_t n, bool tight, uint32_t **ret, unsigned *ret_count)
{
	uint64_t block_bytes = (uint64_t)layer->bitmap_bytes + layer->block_size;
	uint64_t end = round_up(layer->metadata_end, VHD_SECTOR);
	struct slot_array gaps = {0};
	bool first = true;
	int rc = 0;

	if (n > 0)
		qsort(used, n, sizeof(*used), by_value);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		uint64_t next = (uint64_t)used[i] * VHD_SECTOR, at = slot_place(layer, end);

		/* Where metadata lies behind blocks, nothing before its end is a gap. */
		if (next < layer->metadata_end)
			continue;
		if (!(first && keeps_space(layer))) {
			for (; rc == 0 && at + block_bytes <= next; at = slot_place(layer, end)) {
				rc = array_add(&gaps, (uint32_t)(at / VHD_SECTOR));
				end = at + block_bytes;
			}
			for (; rc == 0 && tight && end + block_bytes <= next; end += block_bytes)
				rc = array_add(&gaps, (uint32_t)(end / VHD_SECTOR));
		}
		first = false;
		end = next + block_bytes;
	}
	if (rc) {
		free(gaps.slot);
		return rc;
	}
	*ret = gaps.slot;
	*ret_count = gaps.count;
	return 0;
}

int gaps_find(const struct layer *layer, uint32_t **ret, unsigned *ret_count)
{
	uint32_t *used = malloc((size_t)layer->block_count * sizeof(*used));
	size_t n = 0;
	int rc;

	if (!used)
		return -ENOMEM;
	for (uint32_t b = 0; b < layer->block_count; b++) {
		uint32_t slot = atomic_load_explicit(&layer->bat[b], memory_order_relaxed);

		if (slot != VHD_BAT_UNALLOCATED)
			used[n++] = slot;
	}
	rc = gaps_between(layer, used, n, false, ret, ret_count);
	free(used);
	return rc;
}
