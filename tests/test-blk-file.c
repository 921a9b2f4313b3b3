/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/blk-file.h"
#include "common/ring.h"
#include "tests/lib/scribble.h"
#include "tests/lib/temp-dir.h"

struct fixture {
	char *dir;
	char path[4096];
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->dir = temp_dir_new("blk-file");
	snprintf(f->path, sizeof(f->path), "%s/disk.raw", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	temp_dir_free(f->dir);
	free(f);
	return 0;
}

static void file_make(const struct fixture *f, uint64_t size)
{
	int fd = open(f->path, O_CREAT | O_RDWR, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static void random_requests_read_back_what_was_written(void **state)
{
	const struct scribble options = {.seed = 3, .requests = 3000, .threads = 3, .depth = 16};
	struct fixture *f = *state;
	uint8_t *model = calloc(1, 4 << 20);
	struct err err = {""};
	struct blk *blk;
	int rc;

	file_make(f, 4 << 20);
	assert_int_equal(blk_file_open(f->path, BLK_FILE_WRITE, &blk, &err), 0);
	rc = scribble_run(blk, model, &options, &err);
	if (rc)
		fail_msg("%s", err.text);
	assert_int_equal(blk_close(blk, &err), 0);
	assert_int_equal(blk_file_open(f->path, 0, &blk, &err), 0);
	rc = scribble_compare(blk, model, &err);
	if (rc)
		fail_msg("%s", err.text);
	assert_int_equal(blk_close(blk, &err), 0);
	free(model);
}

static void the_pool_does_the_same(void **state)
{
	assert_int_equal(setenv("VHDKIT_IO", "threads", 1), 0);
	random_requests_read_back_what_was_written(state);
	assert_int_equal(unsetenv("VHDKIT_IO"), 0);
}

static void the_size_may_be_odd_and_the_last_byte_is_reached(void **state)
{
	struct fixture *f = *state;
	struct blk_queue *queue;
	struct blk_info info;
	struct blk *blk;
	char text[16];

	file_make(f, 100001);
	assert_int_equal(blk_file_open(f->path, BLK_FILE_WRITE, &blk, NULL), 0);
	blk_info(blk, &info);
	assert_int_equal(info.size, 100001);
	assert_false(info.read_only);
	assert_int_equal(blk_queue_new(blk, NULL, &queue, NULL), 0);
	assert_int_equal(blk_pwrite(queue, "end", 3, 99998), 0);
	assert_int_equal(blk_pread(queue, text, 3, 99998), 0);
	assert_memory_equal(text, "end", 3);
	assert_int_equal(blk_pwrite(queue, "end!", 4, 99998), -EINVAL);
	assert_int_equal(blk_pread(queue, text, 1, 100001), -EINVAL);
	assert_int_equal(blk_flush(queue), 0);
	blk_queue_free(queue);
	assert_int_equal(blk_close(blk, NULL), 0);
}

static void a_file_opened_for_reading_refuses_writes(void **state)
{
	struct fixture *f = *state;
	struct blk_queue *queue;
	struct blk *blk;
	char sector[512] = "";

	file_make(f, 4096);
	assert_int_equal(blk_file_open(f->path, 0, &blk, NULL), 0);
	assert_int_equal(blk_queue_new(blk, NULL, &queue, NULL), 0);
	assert_int_equal(blk_pwrite(queue, sector, 512, 0), -EROFS);
	assert_int_equal(blk_discard(queue, 0, 512), -EROFS);
	assert_int_equal(blk_write_zeroes(queue, 0, 512), -EROFS);
	assert_int_equal(blk_pread(queue, sector, 512, 0), 0);
	assert_int_equal(blk_flush(queue), 0);
	blk_queue_free(queue);
	assert_int_equal(blk_close(blk, NULL), 0);
}

static void what_is_no_disk_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = {""};
	struct blk *blk;

	assert_int_equal(blk_file_open(f->path, 0, &blk, &err), -ENOENT);
	assert_non_null(strstr(err.text, "disk.raw"));
	assert_true(blk_file_open(f->dir, 0, &blk, &err) < 0);
	assert_int_equal(mkfifo(f->path, 0600), 0);
	assert_int_equal(blk_file_open(f->path, 0, &blk, &err), -EINVAL);
	assert_non_null(strstr(err.text, "disk.raw"));
}

static void a_map_tells_data_from_holes_without_gaps(void **state)
{
	struct fixture *f = *state;
	struct blk_extent extents[16];
	struct blk_queue *queue;
	uint64_t at = 1000;
	struct blk *blk;
	char *data = malloc(1 << 20);
	int n;

	memset(data, 'x', 1 << 20);
	file_make(f, 8 << 20);
	assert_int_equal(blk_file_open(f->path, BLK_FILE_WRITE, &blk, NULL), 0);
	assert_int_equal(blk_queue_new(blk, NULL, &queue, NULL), 0);
	assert_int_equal(blk_pwrite(queue, data, 1 << 20, 4 << 20), 0);
	n = blk_map(blk, 1000, (8 << 20) - 1000, extents, 16, NULL);
	assert_true(n > 0);
	for (int i = 0; i < n; i++) {
		uint64_t end = extents[i].offset + extents[i].length;

		assert_int_equal(extents[i].offset, at);
		if (extents[i].kind == BLK_EXTENT_DATA)
			assert_int_equal(extents[i].file_offset, at);
		else
			assert_true(end <= 4 << 20 || at >= 5 << 20);
		at = end;
	}
	assert_int_equal(at, 8 << 20);
	blk_unmap(blk);
	assert_true(blk_map(blk, 8 << 20, 1, extents, 16, NULL) < 0);
	blk_queue_free(queue);
	assert_int_equal(blk_close(blk, NULL), 0);
	free(data);
}

static void two_disks_share_one_ring(void **state)
{
	struct fixture *f = *state;
	struct blk_queue *queues[2];
	struct blk *blk[2];
	struct ring *ring;
	char other[4096 + 8], in[512], out[512];

	file_make(f, 4096);
	assert_int_equal(ring_new(0, &ring, NULL), 0);
	assert_int_equal(blk_file_open(f->path, BLK_FILE_WRITE, &blk[0], NULL), 0);
	snprintf(other, sizeof(other), "%s.2", f->path);
	assert_int_equal(rename(f->path, other), 0);
	file_make(f, 4096);
	assert_int_equal(blk_file_open(f->path, BLK_FILE_WRITE, &blk[1], NULL), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(blk_queue_new(blk[i], ring, &queues[i], NULL), 0);
		memset(out, 'a' + i, 512);
		assert_int_equal(blk_pwrite(queues[i], out, 512, 512), 0);
	}
	for (int i = 0; i < 2; i++) {
		memset(out, 'a' + i, 512);
		assert_int_equal(blk_pread(queues[i], in, 512, 512), 0);
		assert_memory_equal(in, out, 512);
		blk_queue_free(queues[i]);
		assert_int_equal(blk_close(blk[i], NULL), 0);
	}
	ring_free(ring);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(random_requests_read_back_what_was_written),
		CASE(the_pool_does_the_same),
		CASE(the_size_may_be_odd_and_the_last_byte_is_reached),
		CASE(a_file_opened_for_reading_refuses_writes),
		CASE(what_is_no_disk_is_refused),
		CASE(a_map_tells_data_from_holes_without_gaps),
		CASE(two_disks_share_one_ring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
