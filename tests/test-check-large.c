/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The largest differencing disk, every block of it allocated, in a file system in memory, where holes cost nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define BLOCK (UINT64_C(2) << 20)
#define BITMAP 512u
#define STRIDE (BLOCK + 4096)
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

/* Allocates every block; every 64th has a full bitmap, the others none. */
static void blocks_allocate(int fd, uint32_t blocks)
{
	uint64_t start = (UINT64_C(8) << 20) - BITMAP;
	size_t table = (size_t)blocks * 4;
	uint8_t footer[512], ones[BITMAP];
	be32 *entries = malloc(table);
	off_t end = (off_t)(start + blocks * STRIDE);

	memset(ones, 0xff, sizeof(ones));
	assert_non_null(entries);
	for (uint32_t i = 0; i < blocks; i++) {
		entries[i] = be32_make((uint32_t)((start + i * STRIDE) / 512));
		if (i % 64 == 0)
			assert_int_equal(pwrite(fd, ones, sizeof(ones), (off_t)(start + i * STRIDE)), sizeof(ones));
	}
	assert_int_equal(pread(fd, footer, sizeof(footer), 0), sizeof(footer));
	assert_int_equal(pwrite(fd, entries, table, 4096), table);
	assert_int_equal(pwrite(fd, footer, sizeof(footer), end), sizeof(footer));
	free(entries);
}

static void a_differencing_disk_of_a_million_blocks_is_checked_in_seconds(void **state)
{
	struct vhd_create_options child = {.parent = parent}, base = {.size_bytes = VHD_MAX_SIZE};
	struct vhd_check_result result;
	struct timespec start, end;
	struct err err;
	int fd;

	if (!dir) {
		print_message("/dev/shm is not there or not writable\n");
		skip();
	}
	if (vhd_create(parent, &base, &err) || vhd_create(path, &child, &err))
		fail_msg("%s", err.text);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	blocks_allocate(fd, VHD_MAX_SIZE / BLOCK);
	close(fd);
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
