/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "vhd/histogram.h"

static void every_value_has_a_cell_and_larger_ones_no_smaller(void **state)
{
	unsigned last = 0;

	(void)state;
	assert_int_equal(histogram_cell(0), 0);
	assert_true(histogram_cell(UINT64_MAX) < HISTOGRAM_CELLS);
	for (unsigned shift = 0; shift < 64; shift++) {
		for (uint64_t step = 0; step < 3; step++) {
			uint64_t value = (UINT64_C(1) << shift) - 1 + step;

			if (shift < 2)
				continue;
			assert_true(histogram_cell(value) >= last);
			last = histogram_cell(value);
		}
	}
}

static void percentiles_are_right_to_three_in_a_hundred(void **state)
{
	static struct histogram histogram;

	(void)state;
	for (uint64_t i = 1; i <= 100000; i++)
		histogram_add(&histogram, i);
	assert_in_range(histogram_percentile(&histogram, 0.5), 50000, 51600);
	assert_in_range(histogram_percentile(&histogram, 0.99), 99000, 100000);
	assert_int_equal(histogram_percentile(&histogram, 1), 100000);
	assert_int_equal(histogram.max, 100000);
}

static void an_empty_one_has_no_percentile(void **state)
{
	static struct histogram histogram;

	(void)state;
	assert_int_equal(histogram_percentile(&histogram, 0.5), 0);
}

static void merging_counts_both(void **state)
{
	static struct histogram a, b;

	(void)state;
	histogram_add(&a, 10);
	histogram_add(&b, 1000);
	histogram_add(&b, 1000);
	histogram_merge(&a, &b);
	assert_int_equal(a.count, 3);
	assert_int_equal(a.max, 1000);
	assert_int_equal(histogram_percentile(&a, 0.1), 10);
	assert_int_equal(histogram_percentile(&a, 0.9), 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_value_has_a_cell_and_larger_ones_no_smaller),
		cmocka_unit_test(percentiles_are_right_to_three_in_a_hundred),
		cmocka_unit_test(an_empty_one_has_no_percentile),
		cmocka_unit_test(merging_counts_both),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
