/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "tests/lib/image-builder.h"
#include "tests/lib/temp-dir.h"
#include "vhd/layer.h"

/* A BAT of many entries in a sparse file, against a plain quadratic search for overlaps. */

#define BLOCKS 2000u
#define BLOCK_SIZE 4096u
#define STRIDE (BLOCK_SIZE / 512 + 1)
#define TABLE_SECTORS ((BLOCKS * 4 + 511) / 512)
#define FIRST (3 + TABLE_SECTORS)

static char *dir, path[512];
static uint32_t random_state;

static int folder_make(void **state)
{
	dir = temp_dir_new("bat");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static uint32_t random_below(uint32_t limit)
{
	random_state = random_state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)random_state * limit >> 32);
}

static void count_overlap(void *user, const struct vhd_defect *defect)
{
	unsigned *count = user;

	if (!strcmp(defect->code, "bat-overlap"))
		++*count;
}

/* Opens a disk with these entries in a file with room for `sectors` sectors. Returns the verdict. */
static int open_entries(const uint32_t *entries, uint64_t sectors, const struct layer_sink *sink, struct layer **ret)
{
	struct image image;
	struct store *store;

	image_build(&(struct image_spec){.size = (uint64_t)BLOCKS * BLOCK_SIZE, .no_footer = true}, &image);
	for (unsigned i = 0; i < BLOCKS; i++)
		image_put(&image, image.bat + i * 4, 4, entries[i]);
	assert_int_equal(image_write(&image, path), 0);
	image_free(&image);
	assert_int_equal(store_file_open(path, STORE_WRITE, &store, NULL), 0);
	assert_int_equal(store->ops->truncate(store, sectors * 512), 0);
	return layer_open_take(store, path, sink, ret, NULL);
}

static bool overlaps(const uint32_t *entries)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		for (unsigned j = i + 1; j < BLOCKS; j++)
			if (entries[i] != VHD_BAT_UNALLOCATED && entries[j] != VHD_BAT_UNALLOCATED &&
			    (entries[i] < entries[j] ? entries[j] - entries[i] : entries[i] - entries[j]) < STRIDE)
				return true;
	return false;
}

static void shuffle(uint32_t *entries)
{
	for (unsigned i = BLOCKS - 1; i > 0; i--) {
		unsigned j = random_below(i + 1);
		uint32_t t = entries[i];

		entries[i] = entries[j];
		entries[j] = t;
	}
}

static void blocks_packed_in_any_order_do_not_overlap(void **state)
{
	uint32_t entries[BLOCKS];
	struct layer *layer;

	for (unsigned i = 0; i < BLOCKS; i++)
		entries[i] = FIRST + i * STRIDE;
	for (unsigned round = 0; round < 3; round++) {
		assert_int_equal(open_entries(entries, FIRST + BLOCKS * STRIDE, NULL, &layer), 0);
		assert_int_equal(layer->allocated, BLOCKS);
		assert_int_equal(layer->data_end, (uint64_t)(FIRST + BLOCKS * STRIDE) * 512);
		layer_free(layer);
		shuffle(entries);
	}
}

/* Few blocks over much space are sorted, many are put in buckets: both must agree with the plain search. */
static void overlaps_are_found_wherever_they_are(void **state)
{
	static const uint64_t rooms[] = {BLOCKS * STRIDE * 2u, UINT64_C(1) << 27, UINT64_C(1) << 31};
	uint32_t entries[BLOCKS];
	struct layer *layer;

	for (unsigned round = 0; round < 60; round++) {
		uint64_t room = rooms[round % 3];
		unsigned used = 2 + random_below(BLOCKS - 2), listed = 0;
		const struct layer_sink sink = {.defect = count_overlap, .user = &listed};
		bool expected;

		for (unsigned i = 0; i < BLOCKS; i++) {
			uint32_t slot = i * (uint32_t)((room - FIRST) / BLOCKS);

			entries[i] = i < used ? FIRST + slot + random_below(3) : VHD_BAT_UNALLOCATED;
		}
		shuffle(entries);
		if (round % 2 == 0) {
			unsigned a = random_below(BLOCKS), b = (a + 1 + random_below(BLOCKS - 1)) % BLOCKS;

			if (entries[a] != VHD_BAT_UNALLOCATED)
				entries[b] = entries[a] + random_below(STRIDE);
		}
		expected = overlaps(entries);
		assert_int_equal(open_entries(entries, room + STRIDE * 3, &sink, &layer), 0);
		assert_int_equal(listed > 0, expected);
		layer_free(layer);
		if (expected)
			assert_int_equal(open_entries(entries, room + STRIDE * 3, NULL, &layer), VHD_E_CORRUPT);
	}
}

static void a_table_full_of_nonsense_is_told_of_in_few_sentences(void **state)
{
	uint32_t entries[BLOCKS];
	unsigned listed = 0;
	const struct layer_sink sink = {.defect = count_overlap, .user = &listed};
	struct layer *layer;

	for (unsigned i = 0; i < BLOCKS; i++)
		entries[i] = FIRST;
	assert_int_equal(open_entries(entries, FIRST + 2 * STRIDE, &sink, &layer), 0);
	assert_int_equal(listed, 33);
	layer_free(layer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_packed_in_any_order_do_not_overlap),
		cmocka_unit_test(overlaps_are_found_wherever_they_are),
		cmocka_unit_test(a_table_full_of_nonsense_is_told_of_in_few_sentences),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
