/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Room for blocks between blocks: vhd/gaps.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/gaps.h"

#define BLOCK (64u << 10)
#define SLOT (BLOCK + 4096u) /* what a block of ours takes: pages for the bitmap, payload */
#define FIRST 8192u

static _Atomic uint32_t bat[16];

/* The n-th slot that the engine would append to an image whose metadata ends at FIRST. */
static uint32_t slot(unsigned n)
{
	return (FIRST + n * SLOT + 4096 - 512) / 512;
}

static struct layer layer_with(unsigned count, const int *places)
{
	struct layer layer = {
		.block_size = BLOCK, .block_count = 16, .bitmap_bytes = 512, .bat = bat, .metadata_end = FIRST,
	};

	memcpy(layer.footer.creator, "win ", 4);
	for (unsigned i = 0; i < 16; i++)
		bat[i] = i < count && places[i] >= 0 ? slot((unsigned)places[i]) : VHD_BAT_UNALLOCATED;
	return layer;
}

static void expect(const struct layer *layer, unsigned count, const unsigned *places)
{
	uint32_t *gaps;
	unsigned n;

	assert_int_equal(gaps_find(layer, &gaps, &n), 0);
	assert_int_equal(n, count);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(gaps[i], slot(places[i]));
	free(gaps);
}

static void there_are_none_between_blocks_that_follow_each_other(void **state)
{
	struct layer layer = layer_with(3, (const int[]){1, 0, 2});

	(void)state;
	expect(&layer, 0, NULL);
	layer = layer_with(0, NULL);
	expect(&layer, 0, NULL);
}

static void each_block_that_fits_is_found_in_the_order_of_the_file(void **state)
{
	struct layer layer = layer_with(4, (const int[]){9, -1, 3, 5});

	(void)state;
	expect(&layer, 7, (const unsigned[]){0, 1, 2, 4, 6, 7, 8});
}

static void space_before_the_first_block_is_xens_where_xen_made_the_image(void **state)
{
	struct layer layer = layer_with(2, (const int[]){2, 4});

	(void)state;
	memcpy(layer.footer.creator, "tap", 4);
	expect(&layer, 1, (const unsigned[]){3});
}

/* 512 bytes of bitmap and the payload, without any space between them. */
static void where_blocks_lie_close_a_gap_of_one_is_used_as_it_is(void **state)
{
	const uint32_t close = (BLOCK + 512) / 512, first = FIRST / 512;
	uint32_t used[] = {first + 4 * close, first, first + 2 * close, first + 7 * close}, *gaps;
	struct layer layer = layer_with(0, NULL);
	unsigned n;

	(void)state;
	assert_int_equal(gaps_between(&layer, used, 4, false, &gaps, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(gaps[0] * 512 % 4096, 4096 - 512); /* of two there is room for one that is aligned */
	free(gaps);
	assert_int_equal(gaps_between(&layer, used, 4, true, &gaps, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(gaps[0], first + close);
	assert_int_equal(gaps[1], first + 3 * close);
	assert_in_range(gaps[2], first + 5 * close, first + 6 * close);
	free(gaps);
}

static void a_gap_that_is_a_sector_too_short_is_none(void **state)
{
	struct layer layer = layer_with(2, (const int[]){0, 2});

	(void)state;
	bat[1] -= 7; /* the slot between ends right where this block's bitmap now begins */
	expect(&layer, 1, (const unsigned[]){1});
	bat[1] -= 1;
	expect(&layer, 0, NULL);
}

static void behind_metadata_that_lies_behind_blocks_only(void **state)
{
	struct layer layer = layer_with(4, (const int[]){0, 2, 6, 8});

	(void)state;
	layer.metadata_end = FIRST + 6 * SLOT;
	expect(&layer, 1, (const unsigned[]){7});
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(there_are_none_between_blocks_that_follow_each_other),
		cmocka_unit_test(each_block_that_fits_is_found_in_the_order_of_the_file),
		cmocka_unit_test(space_before_the_first_block_is_xens_where_xen_made_the_image),
		cmocka_unit_test(where_blocks_lie_close_a_gap_of_one_is_used_as_it_is),
		cmocka_unit_test(a_gap_that_is_a_sector_too_short_is_none),
		cmocka_unit_test(behind_metadata_that_lies_behind_blocks_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
