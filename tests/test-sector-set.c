/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/random.h"
#include "vhd/sector-set.h"

static void a_new_set_is_empty_whatever_its_size(void **state)
{
	static const uint64_t sizes[] = {0, 1, 63, 64, SECTOR_SET_CHUNK, SECTOR_SET_CHUNK + 1, UINT64_C(2040) << 21};

	for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct sector_set set;
		struct sector_run run;

		assert_int_equal(sector_set_init(&set, sizes[i]), 0);
		assert_false(sector_set_next(&set, 0, &run));
		assert_int_equal(sector_set_count(&set), 0);
		sector_set_done(&set);
	}
}

static void a_whole_disk_is_one_run_and_costs_no_bitmap(void **state)
{
	struct sector_set set;
	struct sector_run run;

	assert_int_equal(sector_set_init(&set, 5 * SECTOR_SET_CHUNK + 17), 0);
	assert_int_equal(sector_set_add(&set, 0, UINT64_MAX), 0);
	assert_true(sector_set_next(&set, 0, &run));
	assert_int_equal(run.first, 0);
	assert_int_equal(run.count, 5 * SECTOR_SET_CHUNK + 17);
	assert_false(sector_set_next(&set, run.count, &run));
	for (uint32_t i = 0; i < set.chunk_count; i++)
		assert_ptr_equal(set.chunks[i], sector_set_full());
	sector_set_done(&set);
}

static void a_chunk_that_fills_piece_by_piece_costs_no_bitmap(void **state)
{
	struct sector_set set;

	assert_int_equal(sector_set_init(&set, SECTOR_SET_CHUNK + 10), 0);
	for (uint64_t at = 0; at < set.sectors; at += 5)
		assert_int_equal(sector_set_add(&set, at, 5), 0);
	assert_ptr_equal(set.chunks[0], sector_set_full());
	assert_ptr_equal(set.chunks[1], sector_set_full());
	sector_set_done(&set);
}

static void what_lies_beyond_the_end_is_left_out(void **state)
{
	struct sector_set set;
	struct sector_run run;

	assert_int_equal(sector_set_init(&set, 100), 0);
	assert_int_equal(sector_set_add(&set, 100, 1), 0);
	assert_int_equal(sector_set_add(&set, UINT64_MAX, UINT64_MAX), 0);
	assert_int_equal(sector_set_count(&set), 0);
	assert_int_equal(sector_set_add(&set, 99, UINT64_MAX), 0);
	assert_true(sector_set_next(&set, 0, &run));
	assert_int_equal(run.first, 99);
	assert_int_equal(run.count, 1);
	sector_set_done(&set);
}

/* Holds a set against an array with a byte for each sector. */
static void hold_against(const struct sector_set *set, const uint8_t *model, uint64_t sectors, uint64_t from)
{
	struct sector_run run;
	uint64_t at = from;

	while (sector_set_next(set, at, &run)) {
		assert_true(run.count > 0 && run.first >= at && run.first + run.count <= sectors);
		for (; at < run.first; at++)
			assert_false(model[at]);
		for (; at < run.first + run.count; at++)
			assert_true(model[at]);
		assert_true(at == sectors || !model[at]); /* as long as it can be */
	}
	for (; at < sectors; at++)
		assert_false(model[at]);
}

static void random_runs_and_unions_are_what_an_array_says(void **state)
{
	for (unsigned round = 0; round < 200; round++) {
		struct rng rng = rng_fork(7, round);
		uint64_t sectors = 1 + rng_below(&rng, 3 * SECTOR_SET_CHUNK), count = 0;
		uint8_t *model = calloc(sectors, 1);
		struct sector_set sets[2];

		assert_non_null(model);
		for (unsigned s = 0; s < 2; s++) {
			/* The second is of a disk of another size. */
			uint64_t size = s ? 1 + rng_below(&rng, 4 * SECTOR_SET_CHUNK) : sectors;

			assert_int_equal(sector_set_init(&sets[s], size), 0);
			for (unsigned i = rng_below(&rng, 40); i > 0; i--) {
				uint64_t first = rng_below(&rng, size);
				uint64_t length = 1 + rng_below(&rng, rng_percent(&rng, 50) ? 5 : size);

				assert_int_equal(sector_set_add(&sets[s], first, length), 0);
				for (uint64_t at = first; at < first + length && at < size && at < sectors; at++)
					model[at] = 1;
			}
		}
		assert_int_equal(sector_set_union(&sets[0], &sets[1]), 0);
		for (uint64_t at = 0; at < sectors; at++)
			count += model[at];
		hold_against(&sets[0], model, sectors, 0);
		hold_against(&sets[0], model, sectors, rng_below(&rng, sectors));
		assert_int_equal(sector_set_count(&sets[0]), count);
		sector_set_done(&sets[0]);
		sector_set_done(&sets[1]);
		free(model);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_set_is_empty_whatever_its_size),
		cmocka_unit_test(a_whole_disk_is_one_run_and_costs_no_bitmap),
		cmocka_unit_test(a_chunk_that_fills_piece_by_piece_costs_no_bitmap),
		cmocka_unit_test(what_lies_beyond_the_end_is_left_out),
		cmocka_unit_test(random_runs_and_unions_are_what_an_array_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
