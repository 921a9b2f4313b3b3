/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vhd/format.h"

static void expect(uint64_t sectors, unsigned cylinders, unsigned heads, unsigned per_track)
{
	struct vhd_geometry geometry = geometry_for_size(sectors * 512);

	assert_int_equal(geometry.cylinders, cylinders);
	assert_int_equal(geometry.heads, heads);
	assert_int_equal(geometry.sectors_per_track, per_track);
}

static void each_branch_of_the_table_is_taken(void **state)
{
	expect(0, 0, 4, 17);
	expect(1, 0, 4, 17);
	expect(20480, 301, 4, 17);                  /* 10 MiB */
	expect(17 * 4 * 1024, 140, 16, 31);
	expect(81920, 963, 5, 17);                  /* 40 MiB */
	expect(1048576, 1040, 16, 63);              /* 512 MiB */
	expect(UINT64_C(65535) * 16 * 63 - 1, 65534, 16, 63);
	expect(UINT64_C(65535) * 16 * 63, 16191, 16, 255);
}

static void sizes_beyond_the_table_are_clamped(void **state)
{
	expect(UINT64_C(65535) * 16 * 255, 65535, 16, 255);
	expect(UINT64_C(65535) * 16 * 255 + 1000000, 65535, 16, 255);
	expect(VHD_MAX_SIZE / 512, 65535, 16, 255);
}

static void the_product_never_exceeds_the_size(void **state)
{
	for (uint64_t sectors = 1; sectors < UINT64_C(300000000); sectors = sectors * 5 / 4 + 1) {
		struct vhd_geometry g = geometry_for_size(sectors * 512);

		assert_true((uint64_t)g.cylinders * g.heads * g.sectors_per_track <= sectors);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_branch_of_the_table_is_taken),
		cmocka_unit_test(sizes_beyond_the_table_are_clamped),
		cmocka_unit_test(the_product_never_exceeds_the_size),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
