/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The lists of unused ranges, and what damaged file systems do to them: each of some hundred seeded damages is looked at
 * in a process of its own, shut in as vhd-fs-unused is. It has to end soon, without a crash, and may not name a byte that
 * was not unused before the damage. Whether the lists are right is for tests/e2e/fs-unused.sh, against other programs.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "mountd/sandbox.h"
#include "mountd/unused.h"
#include "tests/lib/random.h"
#include "tests/lib/temp-dir.h"

#define DISK_BYTES (8u << 20)
#define SECTOR 512u

/* The hostile ask for more memory than there is; that has to look as it does without ASan. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

struct memory {
	struct blk blk;
	uint8_t *bytes;
};

struct memory_queue {
	struct blk_queue queue;
	struct blk_req *done;
};

static void memory_info(const struct blk *blk, struct blk_info *ret)
{
	(void)blk;
	*ret = (struct blk_info){.size = DISK_BYTES, .request_align = SECTOR, .memory_align = 1, .read_only = true};
}

static void memory_submit(struct blk_queue *queue, struct blk_req *req)
{
	struct memory *m = (struct memory *)queue->blk;
	struct memory_queue *q = (struct memory_queue *)queue;
	uint64_t at = req->offset;

	assert_int_equal(req->op, BLK_READ);
	assert_true(req->offset <= DISK_BYTES && req->length <= DISK_BYTES - req->offset);
	for (int i = 0; i < req->iovcnt; i++) {
		memcpy(req->iov[i].iov_base, m->bytes + at, req->iov[i].iov_len);
		at += req->iov[i].iov_len;
	}
	req->next = q->done;
	q->done = req;
}

static int memory_poll(struct blk_queue *queue, unsigned min_done, int timeout_ms)
{
	struct memory_queue *q = (struct memory_queue *)queue;
	int n = 0;

	(void)min_done;
	(void)timeout_ms;
	for (; q->done; n++) {
		struct blk_req *req = q->done;

		q->done = req->next;
		req->done(req, 0);
	}
	return n;
}

static void memory_queue_free(struct blk_queue *queue)
{
	free(queue);
}

static const struct blk_queue_ops memory_queue_ops = {memory_submit, memory_poll, memory_queue_free};

static int memory_queue_new(struct blk *blk, struct ring *ring, struct blk_queue **ret, struct err *err)
{
	struct memory_queue *q = calloc(1, sizeof(*q));

	(void)ring;
	(void)err;
	if (!q)
		return -ENOMEM;
	q->queue = (struct blk_queue){.ops = &memory_queue_ops, .blk = blk, .fd = -1};
	*ret = &q->queue;
	return 0;
}

static const struct blk_ops memory_ops = {.info = memory_info, .queue_new = memory_queue_new};

/* --- Lists --- */

static void neighbours_are_one_range(void **state)
{
	const uint8_t bits[] = {0xff, 0x00, 0x00, 0xf3, 0xff, 0x7f, 0xfe};
	struct unused_list list = {0};

	(void)state;
	assert_int_equal(unused_add_clear_bits(&list, bits, 53, 1000, 10), 0);
	assert_int_equal(unused_add(&list, 2000, 0), 0);
	assert_int_equal(list.count, 3);
	assert_int_equal(list.ranges[0].offset, 1080);
	assert_int_equal(list.ranges[0].length, 160);
	assert_int_equal(list.ranges[1].offset, 1260);
	assert_int_equal(list.ranges[1].length, 20);
	assert_int_equal(list.ranges[2].offset, 1470);
	assert_int_equal(list.ranges[2].length, 20);
	assert_int_equal(unused_bytes(&list), 200);
	assert_int_equal(unused_add(&list, 1490, 10), 0);
	assert_int_equal(list.count, 3);
	unused_list_done(&list);
}

static void clear_bits_end_where_they_are_counted(void **state)
{
	const uint8_t bits[] = {0x00, 0x00};
	struct unused_list list = {0};

	(void)state;
	for (uint64_t count = 0; count <= 16; count++) {
		assert_int_equal(unused_add_clear_bits(&list, bits, count, 0, 1), 0);
		assert_int_equal(unused_bytes(&list), count);
		unused_list_done(&list);
	}
}

static void a_list_in_shreds_keeps_the_long_ranges(void **state)
{
	struct unused_list list = {.max = 16};
	struct rng rng = {7};
	uint64_t at = 0, long_ones = 0, previous_end = 0;

	(void)state;
	for (unsigned i = 0; i < 10000; i++) {
		bool is_long = i % 1000 == 500;
		uint64_t length = is_long ? 1 << 30 : SECTOR * (1 + rng_below(&rng, 100));

		long_ones += is_long;
		assert_int_equal(unused_add(&list, at, length), 0);
		assert_true(list.count <= 16);
		at += length + SECTOR;
	}
	for (size_t i = 0; i < list.count; i++) {
		assert_true(i == 0 || list.ranges[i].offset > previous_end);
		previous_end = list.ranges[i].offset + list.ranges[i].length;
		long_ones -= list.ranges[i].length == 1 << 30;
	}
	assert_int_equal(long_ones, 0);
	unused_list_done(&list);
}

/* --- File systems --- */

static char *folder;

static int make_folder(void **state)
{
	(void)state;
	folder = temp_dir_new("unused");
	return 0;
}

static int remove_folder(void **state)
{
	(void)state;
	temp_dir_free(folder);
	return 0;
}

static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...)
{
	char command[4096];
	va_list args;
	int n;

	n = snprintf(command, sizeof(command), "cd '%s' && PATH=$PATH:/usr/sbin:/sbin && export PATH && exec > log 2>&1; ",
	             folder);
	va_start(args, format);
	vsnprintf(command + n, sizeof(command) - (size_t)n, format, args);
	va_end(args);
	return system(command);
}

/* A disk with one file system, with files and gaps between them. */
static uint8_t *image_make(const char *mkfs)
{
	bool ntfs = strncmp(mkfs, "mkntfs", 6) == 0;
	uint8_t *bytes = malloc(DISK_BYTES);
	char path[512];
	FILE *file;

	assert_non_null(bytes);
	if (shell("command -v %.*s && { test %d = 0 || command -v ntfscp; }", (int)strcspn(mkfs, " "), mkfs, ntfs)) {
		print_message("# needs %.*s, and ntfscp for NTFS\n", (int)strcspn(mkfs, " "), mkfs);
		free(bytes);
		skip();
	}
	assert_int_equal(shell("rm -f image; truncate -s %u image; %s image", DISK_BYTES, mkfs), 0);
	for (unsigned i = 0; i < 12; i++) {
		assert_int_equal(shell("seq %u | head -c %u > file", 100000 + i, i % 3 ? 40000 * (i % 4 + 1) : 300), 0);
		assert_int_equal(ntfs ? shell("ntfscp -q image file /file%u", i)
		                      : shell("debugfs -w -R 'write file file%u' image", i), 0);
	}
	for (unsigned i = 0; i < 12 && !ntfs; i += 5)
		assert_int_equal(shell("debugfs -w -R 'rm file%u' image", i), 0);
	snprintf(path, sizeof(path), "%s/image", folder);
	file = fopen(path, "r");
	assert_non_null(file);
	assert_int_equal(fread(bytes, 1, DISK_BYTES, file), DISK_BYTES);
	fclose(file);
	return bytes;
}

struct found {
	bool problem;
	char text[600];
};

static void found(void *user, const struct unused_volume *volume)
{
	struct found *f = user;

	f->problem = volume->problem != NULL;
	snprintf(f->text, sizeof(f->text), "%s: %s", volume->type, volume->problem ? volume->problem : "");
}

enum verdict { LISTED, LEFT_OUT, FAILED, WRONG };

/* `unused`: a byte for each sector that may be named; filled when `fill`, else held against. */
static enum verdict look(uint8_t *bytes, uint8_t *unused, bool fill, char *text, size_t size)
{
	struct memory m = {{&memory_ops}, bytes};
	struct unused_list list = {0};
	struct found f = {.text = "nothing"};
	enum verdict verdict = LISTED;
	struct disk *disk;
	struct err err = {.text = ""};
	int e = disk_new(&m.blk, &disk, &err);
	uint64_t reached = 0;

	if (!e)
		e = unused_find(disk, &list, found, &f, &err);
	for (size_t i = 0; i < list.count && !e && verdict == LISTED; i++) {
		const struct unused_range *r = &list.ranges[i];

		if (r->length == 0 || r->offset % SECTOR || r->length % SECTOR || r->offset < reached ||
		    r->offset > DISK_BYTES || r->length > DISK_BYTES - r->offset)
			verdict = WRONG;
		for (uint64_t s = r->offset / SECTOR; verdict == LISTED && s < (r->offset + r->length) / SECTOR; s++) {
			if (fill)
				unused[s] = 1;
			else if (!unused[s])
				verdict = WRONG;
		}
		reached = r->offset + r->length;
	}
	if (!e && f.problem)
		verdict = list.count ? WRONG : LEFT_OUT;
	snprintf(text, size, "%s", e ? err.text : f.text);
	unused_list_done(&list);
	if (!e)
		disk_free(disk);
	return e ? FAILED : verdict;
}

static enum verdict look_in_a_process(uint8_t *bytes, uint8_t *unused, unsigned n)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		const struct sandbox_limits limits = {UINT64_C(256) << 20, 10, 20};
		struct err err;
		char text[600];
		enum verdict verdict;
		int e = sandbox_enter(&limits, &err);

		if (e && e != -ENOTSUP)
			_exit(90);
		verdict = look(bytes, unused, false, text, sizeof(text));
		_exit(10 + (int)verdict);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status) < 10 || WEXITSTATUS(status) > 10 + (int)WRONG)
		fail_msg("case %u: status 0x%x", n, (unsigned)status);
	return (enum verdict)(WEXITSTATUS(status) - 10);
}

/* Metadata, most likely: neither zeros nor the numbers that files are full of. */
static bool matters(uint8_t byte)
{
	return byte && byte != '\n' && (byte < '0' || byte > '9');
}

/* One to three damages, mostly where it matters and near the start. */
static void damage(struct rng *rng, uint8_t *bytes, const uint8_t *unused)
{
	for (uint64_t i = 0, count = 1 + rng_below(rng, 3); i < count; i++) {
		uint64_t area = rng_percent(rng, 40) ? 4096 : rng_percent(rng, 50) ? 256 << 10 : DISK_BYTES - 8;
		unsigned tries = rng_percent(rng, 80) ? 20000 : 1;
		uint64_t at;

		do
			at = rng_below(rng, area);
		while (unused[at / SECTOR] || (--tries && !matters(bytes[at])));
		switch (rng_below(rng, 4)) {
		case 0:
			bytes[at] ^= (uint8_t)(1u << rng_below(rng, 8));
			break;
		case 1:
			bytes[at] = (uint8_t)rng_next(rng);
			break;
		case 2:
			memset(bytes + at / 4 * 4, rng_percent(rng, 50) ? 0xff : 0, 1 + rng_below(rng, 8));
			break;
		default:
			for (unsigned j = 0; j < 8; j++)
				bytes[at + j] = (uint8_t)rng_next(rng);
		}
	}
}

static void damaged_in_many_ways(const char *mkfs, unsigned cases)
{
	uint8_t *good = image_make(mkfs), *bad = malloc(DISK_BYTES), *unused = calloc(1, DISK_BYTES / SECTOR);
	unsigned counts[4] = {0};
	char text[600];
	enum verdict verdict;

	assert_non_null(bad);
	assert_non_null(unused);
	if (getenv("CHECK_LONG") && *getenv("CHECK_LONG"))
		cases *= 20;
	verdict = look(good, unused, true, text, sizeof(text));
	if (verdict == LEFT_OUT && strstr(text, "left out of this build")) {
		print_message("# %s\n", text);
		free(good);
		free(bad);
		free(unused);
		skip();
	}
	if (verdict != LISTED)
		fail_msg("undamaged: %s", text);
	for (unsigned i = 0; i < cases; i++) {
		struct rng rng = rng_fork(2026, i);

		memcpy(bad, good, DISK_BYTES);
		damage(&rng, bad, unused);
		verdict = look_in_a_process(bad, unused, i);
		if (verdict == WRONG)
			fail_msg("%s: case %u names what was in use", mkfs, i);
		counts[verdict]++;
	}
	/* Damage to files' content is nothing to us; damage that matters is seen. */
	assert_true(counts[LISTED] > 0);
	assert_true(counts[LEFT_OUT] > cases / 10);
	print_message("# %s: %u listed, %u left out, %u failed\n", mkfs, counts[LISTED], counts[LEFT_OUT], counts[FAILED]);
	free(good);
	free(bad);
	free(unused);
}

static void damaged_ext4_does_no_harm(void **state)
{
	(void)state;
	damaged_in_many_ways("mkfs.ext4 -F -q -b 4096 -N 128", 100);
}

static void damaged_ext4_without_checksums_does_no_harm(void **state)
{
	(void)state;
	damaged_in_many_ways("mkfs.ext4 -F -q -b 1024 -N 128 -O ^metadata_csum,^64bit,^uninit_bg,^has_journal", 200);
}

static void damaged_ext4_with_small_groups_does_no_harm(void **state)
{
	(void)state;
	damaged_in_many_ways("mkfs.ext4 -F -q -b 1024 -g 1024 -N 256 -O meta_bg,^resize_inode,^metadata_csum,uninit_bg", 100);
}

static void damaged_ext4_with_clusters_does_no_harm(void **state)
{
	(void)state;
	damaged_in_many_ways("mkfs.ext4 -F -q -b 1024 -O bigalloc,^metadata_csum -C 8192 -N 128", 100);
}

static void damaged_ext2_does_no_harm(void **state)
{
	(void)state;
	damaged_in_many_ways("mkfs.ext2 -F -q -b 1024 -N 128", 200);
}

static void damaged_ntfs_does_no_harm(void **state)
{
	(void)state;
	damaged_in_many_ways("mkntfs -F -q -f -s 512 -c 1024 -p 0 -H 0 -S 0", 300);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(neighbours_are_one_range),
		cmocka_unit_test(clear_bits_end_where_they_are_counted),
		cmocka_unit_test(a_list_in_shreds_keeps_the_long_ranges),
		cmocka_unit_test(damaged_ext4_does_no_harm),
		cmocka_unit_test(damaged_ext4_without_checksums_does_no_harm),
		cmocka_unit_test(damaged_ext4_with_small_groups_does_no_harm),
		cmocka_unit_test(damaged_ext4_with_clusters_does_no_harm),
		cmocka_unit_test(damaged_ext2_does_no_harm),
		cmocka_unit_test(damaged_ntfs_does_no_harm),
	};

	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
