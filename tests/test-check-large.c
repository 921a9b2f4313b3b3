/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The largest differencing disk, every block of it allocated, in a file system in memory, where holes cost nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/largest.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define BLOCK (UINT64_C(2) << 20)
#define SECONDS_MAX 10 /* five times the goal */

static char *dir, path[512], parent[512];

static int folder_make(void **state)
{
	if (setenv("TMPDIR", "/dev/shm", 1) || access("/dev/shm", W_OK) < 0)
		return 0;
	dir = temp_dir_new("check-large");
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	snprintf(parent, sizeof(parent), "%s/p.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static void a_differencing_disk_of_a_million_blocks_is_checked_in_seconds(void **state)
{
	struct vhd_create_options base = {.size_bytes = VHD_MAX_SIZE};
	struct vhd_check_result result;
	struct timespec start, end;
	struct err err;

	if (!dir) {
		print_message("/dev/shm is not there or not writable\n");
		skip();
	}
	if (vhd_create(parent, &base, &err) || largest_create(path, parent, &err))
		fail_msg("%s", err.text);
	clock_gettime(CLOCK_MONOTONIC, &start);
	if (vhd_check(path, NULL, &result, &err))
		fail_msg("%s", err.text);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_int_equal(result.allocated_blocks, VHD_MAX_SIZE / BLOCK);
	assert_int_equal(result.warnings + result.damages, 0);
	assert_true(end.tv_sec - start.tv_sec < SECONDS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_differencing_disk_of_a_million_blocks_is_checked_in_seconds),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
