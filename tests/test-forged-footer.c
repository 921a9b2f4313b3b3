/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest writes footers of its own making wherever it can; after a crash none of them may be believed: vhd/slots.c. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/temp-dir.h"
#include "vhd/format.h"

#define DISK_BYTES (64u << 20)
#define BLOCK_BYTES (512u << 10)

static void forge(struct footer_disk *ret)
{
	struct footer f = {
		.features = 2,
		.data_offset = VHD_NO_OFFSET,
		.current_size = 1 << 20,
		.original_size = 1 << 20,
		.type = VHD_FIXED,
		.creator = {'w', 'i', 'n', ' '},
		.raw.cookie = {'c', 'o', 'n', 'e', 'c', 't', 'i', 'x'},
		.raw.version = {{0, 1, 0, 0}},
	};
	struct footer check;

	footer_encode(&f, ret);
	assert_int_equal(footer_decode(ret, false, &check, NULL), 0);
}

/* What a crash leaves when everything was written: the file as it is. */
static void crash_and_look(const char *path, const char *copy, const struct footer_disk *forged, unsigned blocks)
{
	char command[512];
	struct vhd *vhd;
	struct vhd_info info;
	struct blk_queue *queue;
	struct err err;

	snprintf(command, sizeof(command), "cp --sparse=always '%s' '%s'", path, copy);
	assert_int_equal(system(command), 0);
	if (vhd_open(copy, &(struct vhd_open_options){.flags = VHD_OPEN_WRITE}, &vhd, &err))
		fail_msg("%s", err.text);
	vhd_layer_info(vhd, 0, &info);
	assert_int_equal(info.type, VHD_DYNAMIC);
	assert_int_equal(info.size_bytes, DISK_BYTES);
	assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), 0);
	for (unsigned i = 0; i < blocks; i++) {
		uint8_t sector[VHD_SECTOR];

		assert_int_equal(blk_pread(queue, sector, sizeof(sector), (uint64_t)(i + 1) * BLOCK_BYTES - VHD_SECTOR), 0);
		assert_memory_equal(sector, forged, sizeof(sector));
	}
	/* Going on in the crashed image, and crashing again, is no different. */
	assert_int_equal(blk_pwrite(queue, forged, VHD_SECTOR, (uint64_t)(blocks + 1) * BLOCK_BYTES - VHD_SECTOR), 0);
	assert_int_equal(blk_flush(queue), 0);
	blk_queue_free(queue);
	assert_int_equal(vhd_close(vhd, &err), 0);
	assert_int_equal(unlink(copy), 0);
}

static void a_forged_footer_in_the_last_block_is_not_believed_after_a_crash(void **state)
{
	char *dir = temp_dir_new("forged"), path[256], copy[256];
	struct vhd_create_options options = {.size_bytes = DISK_BYTES, .block_size_bytes = BLOCK_BYTES};
	struct footer_disk forged;
	unsigned block = 0;
	struct err err;

	(void)state;
	forge(&forged);
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	snprintf(copy, sizeof(copy), "%s/b.vhd", dir);
	assert_int_equal(vhd_create(path, &options, &err), 0);
	for (unsigned session = 0; session < 3; session++) {
		struct vhd *vhd;
		struct blk_queue *queue;

		assert_int_equal(vhd_open(path, &(struct vhd_open_options){.flags = VHD_OPEN_WRITE}, &vhd, &err), 0);
		assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), 0);
		for (unsigned i = 0; i < 8; i++, block++) {
			uint64_t end = (uint64_t)(block + 1) * BLOCK_BYTES;

			assert_int_equal(blk_pwrite(queue, &forged, sizeof(forged), end - VHD_SECTOR), 0);
			assert_int_equal(blk_flush(queue), 0);
			crash_and_look(path, copy, &forged, block + 1);
		}
		blk_queue_free(queue);
		assert_int_equal(vhd_close(vhd, &err), 0);
	}
	temp_dir_free(dir);
}

/* With no room for more slots, the last one that there is gets used. */
static void a_forged_footer_where_the_file_can_grow_no_more_is_not_believed(void **state)
{
	char *dir = temp_dir_new("forged"), path[256], copy[256];
	struct vhd_create_options options = {.size_bytes = DISK_BYTES, .block_size_bytes = BLOCK_BYTES};
	struct rlimit no_limit, limit;
	struct footer_disk forged;
	struct blk_queue *queue;
	unsigned blocks = 0;
	struct vhd *vhd;
	struct err err;
	int rc;

	(void)state;
	forge(&forged);
	snprintf(path, sizeof(path), "%s/a.vhd", dir);
	snprintf(copy, sizeof(copy), "%s/b.vhd", dir);
	assert_int_equal(vhd_create(path, &options, &err), 0);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &no_limit), 0);
	limit = no_limit;
	limit.rlim_cur = 20 << 20;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(vhd_open(path, &(struct vhd_open_options){.flags = VHD_OPEN_WRITE}, &vhd, &err), 0);
	assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), 0);
	do {
		rc = blk_pwrite(queue, &forged, sizeof(forged), (uint64_t)(blocks + 1) * BLOCK_BYTES - VHD_SECTOR);
		blocks += rc == 0;
	} while (rc == 0);
	assert_int_equal(rc, -EFBIG);
	assert_in_range(blocks, 30, 40);
	assert_int_equal(blk_flush(queue), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &no_limit), 0);
	crash_and_look(path, copy, &forged, blocks);
	blk_queue_free(queue);
	assert_int_equal(vhd_close(vhd, &err), 0);
	temp_dir_free(dir);
}

/* Cut off, the footer leaves the last block's last sector where it was. */
static void a_forged_footer_is_not_believed_where_the_file_had_lost_its_own(void **state)
{
	for (unsigned lost = 1; lost <= VHD_SECTOR; lost += VHD_SECTOR - 1) {
		char *dir = temp_dir_new("forged"), path[256], copy[256];
		struct vhd_create_options options = {.size_bytes = DISK_BYTES, .block_size_bytes = BLOCK_BYTES};
		struct footer_disk forged;
		struct blk_queue *queue;
		struct stat st;
		struct vhd *vhd;
		struct err err;

		(void)state;
		forge(&forged);
		snprintf(path, sizeof(path), "%s/a.vhd", dir);
		snprintf(copy, sizeof(copy), "%s/b.vhd", dir);
		assert_int_equal(vhd_create(path, &options, &err), 0);
		for (unsigned session = 0; session < 2; session++) {
			assert_int_equal(vhd_open(path, &(struct vhd_open_options){.flags = VHD_OPEN_WRITE}, &vhd, &err), 0);
			assert_int_equal(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), 0);
			assert_int_equal(blk_pwrite(queue, &forged, sizeof(forged), BLOCK_BYTES - (2 - session) * VHD_SECTOR), 0);
			assert_int_equal(blk_flush(queue), 0);
			if (session == 1)
				crash_and_look(path, copy, &forged, 1);
			blk_queue_free(queue);
			assert_int_equal(vhd_close(vhd, &err), 0);
			assert_int_equal(stat(path, &st), 0);
			if (session == 0)
				assert_int_equal(truncate(path, st.st_size - (lost == 1 ? VHD_SECTOR - 1 : VHD_SECTOR)), 0);
		}
		temp_dir_free(dir);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_forged_footer_in_the_last_block_is_not_believed_after_a_crash),
		cmocka_unit_test(a_forged_footer_where_the_file_can_grow_no_more_is_not_believed),
		cmocka_unit_test(a_forged_footer_is_not_believed_where_the_file_had_lost_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
