/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * As test-scribble.c, on real files through vhd_create and vhd_open, by io_uring and by the thread pool, buffered and
 * with O_DIRECT. SCRIBBLE_REQUESTS: how many in all; SCRIBBLE_SEED: where they start. The files lie below $TMPDIR.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/blk-file.h"
#include "tests/lib/scribble.h"
#include "tests/lib/temp-dir.h"
#include "vhd/vhd.h"

#define RUNS 13u
#define PATH_ROOM 4096

static uint64_t seed;
static unsigned requests_each;

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

static void scribble(struct blk *blk, uint8_t *model, unsigned requests)
{
	struct scribble options = {.seed = seed++, .requests = requests, .threads = 3, .depth = 16, .max_length = 1 << 19};
	struct err err = {""};

	must(scribble_run(blk, model, &options, &err), &err);
	must(scribble_compare(blk, model, &err), &err);
}

static void open_scribble_close(const char *path, unsigned flags, uint8_t *model, unsigned requests)
{
	const struct vhd_open_options options = {.flags = flags};
	struct err err = {""};
	struct vhd *vhd;

	must(vhd_open(path, &options, &vhd, &err), &err);
	must(scribble_compare(vhd_blk(vhd), model, &err), &err);
	if (requests)
		scribble(vhd_blk(vhd), model, requests);
	must(vhd_close(vhd, &err), &err);
}

static void layer_path(const char *dir, unsigned layer, char *ret)
{
	int n = snprintf(ret, PATH_ROOM, "%s/layer-%u.vhd", dir, layer);

	assert_in_range(n, 1, PATH_ROOM - 1);
}

/* A chain of `layers`, each scribbled on before the next is put above it; then the top, opened twice more. */
static void run(enum vhd_type type, unsigned layers, uint64_t size, uint32_t block_size, unsigned flags)
{
	char *dir = temp_dir_new("scribble");
	char path[PATH_ROOM], parent[PATH_ROOM];
	uint8_t *model = calloc(1, size);
	struct vhd_check_result result;
	struct err err = {""};

	for (unsigned i = 0; i < layers; i++) {
		struct vhd_create_options options = {.type = type, .size_bytes = size, .block_size_bytes = block_size};

		layer_path(dir, i, path);
		if (i) {
			options = (struct vhd_create_options){.type = VHD_DIFFERENCING, .parent = parent};
			options.block_size_bytes = block_size;
		}
		must(vhd_create(path, &options, &err), &err);
		if (i + 1 < layers)
			open_scribble_close(path, VHD_OPEN_WRITE, model, layers > 2 ? 12 : requests_each / 2);
		strcpy(parent, path);
	}
	open_scribble_close(path, flags | VHD_OPEN_WRITE, model, requests_each / 2);
	open_scribble_close(path, flags | VHD_OPEN_WRITE, model, requests_each / 2);
	open_scribble_close(path, flags, model, 0);
	open_scribble_close(path, 0, model, 0);
	must(vhd_check(path, NULL, &result, &err), &err);
	assert_int_equal(result.warnings, 0);
	free(model);
	temp_dir_free(dir);
}

static void all_types(unsigned flags)
{
	run(VHD_FIXED, 1, 8 << 20, 0, flags);
	run(VHD_DYNAMIC, 1, 16 << 20, 65536, flags);
	run(VHD_DYNAMIC, 1, 48 << 20, 0, flags);
	run(VHD_DYNAMIC, 2, 16 << 20, 65536, flags);
	run(VHD_DYNAMIC, 30, 8 << 20, 512 << 10, flags);
}

static void by_io_uring_where_it_is_allowed(void **state)
{
	(void)state;
	all_types(0);
}

static void by_the_thread_pool(void **state)
{
	(void)state;
	assert_int_equal(setenv("VHDKIT_IO", "threads", 1), 0);
	all_types(0);
	assert_int_equal(unsetenv("VHDKIT_IO"), 0);
}

static bool has_direct_io(void)
{
	char *dir = temp_dir_new("direct"), path[PATH_ROOM];
	struct blk *blk;
	FILE *f;
	int rc;

	snprintf(path, sizeof(path), "%s/file", dir);
	f = fopen(path, "we");
	assert_non_null(f);
	fclose(f);
	rc = blk_file_open(path, BLK_FILE_DIRECT, &blk, NULL);
	if (rc == 0)
		blk_close(blk, NULL);
	temp_dir_free(dir);
	return rc == 0;
}

static void with_direct_io(void **state)
{
	(void)state;
	if (!has_direct_io()) {
		print_message("the file system of the temporary folder has no direct I/O\n");
		skip();
	}
	run(VHD_DYNAMIC, 1, 16 << 20, 65536, VHD_OPEN_DIRECT);
	run(VHD_DYNAMIC, 2, 16 << 20, 0, VHD_OPEN_DIRECT);
	assert_int_equal(setenv("VHDKIT_IO", "threads", 1), 0);
	run(VHD_DYNAMIC, 2, 16 << 20, 65536, VHD_OPEN_DIRECT);
	assert_int_equal(unsetenv("VHDKIT_IO"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_io_uring_where_it_is_allowed),
		cmocka_unit_test(by_the_thread_pool),
		cmocka_unit_test(with_direct_io),
	};

	seed = environment_number("SCRIBBLE_SEED", 1);
	requests_each = (unsigned)environment_number("SCRIBBLE_REQUESTS", 32500) / RUNS;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
