/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "tests/lib/random.h"
#include "tests/lib/temp-dir.h"
#include "vhd/chain.h"
#include "vhd/checkpoint.h"
#include "vhd/set-uuid.h"

static const uint8_t A[16] = "state-A", B[16] = "state-B", C[16] = "state-C", D[16] = "state-D", OTHER[16] = "other";

static char *dir, disk[512], other[512];

static int folder_make(void **state)
{
	dir = temp_dir_new("checkpoint");
	snprintf(disk, sizeof(disk), "%s/disk.vhd", dir);
	snprintf(other, sizeof(other), "%s/other.vhd", dir);
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

static unsigned records_in_dir(void)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	unsigned count = 0;

	assert_non_null(d);
	while ((entry = readdir(d)))
		count += entry->d_name[0] == '.' && strstr(entry->d_name, ".changes") != NULL;
	closedir(d);
	return count;
}

static const char *record_name(const char *image, const uint8_t from[16])
{
	static char name[700];
	char uuid[37];

	vhd_uuid_text(from, uuid);
	snprintf(name, sizeof(name), "%s/.%s.%s.changes", dir, strrchr(image, '/') + 1, uuid);
	return name;
}

/* --- Bytes --- */

static struct checkpoint checkpoint_make(const uint8_t from[16], const uint8_t to[16], uint64_t sectors)
{
	struct checkpoint c = {.from_size = sectors * 512, .to_size = sectors * 512};

	memcpy(c.from, from, 16);
	memcpy(c.to, to, 16);
	assert_int_equal(sector_set_init(&c.changed, sectors), 0);
	return c;
}

static void sets_are_equal(const struct sector_set *a, const struct sector_set *b)
{
	struct sector_run x = {0}, y = {0};

	assert_int_equal(a->sectors, b->sectors);
	for (uint64_t at = 0;; at = x.first + x.count) {
		bool more = sector_set_next(a, at, &x);

		assert_int_equal(sector_set_next(b, at, &y), more);
		if (!more)
			break;
		assert_int_equal(x.first, y.first);
		assert_int_equal(x.count, y.count);
	}
}

static void decoded_is_what_was_encoded(const struct checkpoint *c, size_t bytes_at_most)
{
	struct checkpoint back;
	uint8_t *bytes;
	size_t length;

	assert_int_equal(checkpoint_encode(c, &bytes, &length), 0);
	assert_true(length <= bytes_at_most);
	assert_int_equal(checkpoint_decode(bytes, length, &back, NULL), 0);
	assert_memory_equal(back.from, c->from, 16);
	assert_memory_equal(back.to, c->to, 16);
	assert_memory_equal(back.next, c->next, 16);
	assert_int_equal(back.from_size, c->from_size);
	assert_int_equal(back.to_size, c->to_size);
	assert_int_equal(back.stamp.seconds, c->stamp.seconds);
	assert_int_equal(back.stamp.nanoseconds, c->stamp.nanoseconds);
	assert_int_equal(back.stamp.size, c->stamp.size);
	sets_are_equal(&back.changed, &c->changed);
	checkpoint_done(&back);
	free(bytes);
}

static void dense_and_sparse_sets_stay_small(void **state)
{
	struct checkpoint c = checkpoint_make(A, B, (UINT64_C(2040) << 30) / 512);

	c.stamp = (struct checkpoint_stamp){-5, 999999999, 1 << 20};
	memcpy(c.next, C, 16);
	decoded_is_what_was_encoded(&c, CHECKPOINT_HEAD);
	assert_int_equal(sector_set_add(&c.changed, 4711, 1), 0);
	decoded_is_what_was_encoded(&c, CHECKPOINT_HEAD + 16);
	/* Every second sector of 16 MiB: a bitmap. */
	for (uint64_t at = 100 * SECTOR_SET_CHUNK; at < 101 * SECTOR_SET_CHUNK; at += 2)
		assert_int_equal(sector_set_add(&c.changed, at, 1), 0);
	decoded_is_what_was_encoded(&c, CHECKPOINT_HEAD + 32 + SECTOR_SET_CHUNK / 8);
	assert_int_equal(sector_set_add(&c.changed, 0, c.changed.sectors), 0);
	decoded_is_what_was_encoded(&c, CHECKPOINT_HEAD + 16);
	checkpoint_done(&c);
}

static void random_sets_come_back_as_they_were(void **state)
{
	for (unsigned round = 0; round < 100; round++) {
		struct rng rng = rng_fork(11, round);
		struct checkpoint c = checkpoint_make(A, B, 1 + rng_below(&rng, 6 * SECTOR_SET_CHUNK));
		uint64_t longest = 1 + rng_below(&rng, rng_percent(&rng, 70) ? 8 : c.changed.sectors);

		for (unsigned i = rng_below(&rng, rng_percent(&rng, 20) ? 20000 : 50); i > 0; i--)
			assert_int_equal(sector_set_add(&c.changed, rng_below(&rng, c.changed.sectors), 1 + rng_below(&rng, longest)),
			                 0);
		decoded_is_what_was_encoded(&c, SIZE_MAX);
		checkpoint_done(&c);
	}
}

static void encoded_sample(uint8_t **ret, size_t *ret_length)
{
	struct checkpoint c = checkpoint_make(A, B, 4 * SECTOR_SET_CHUNK + 100);

	assert_int_equal(sector_set_add(&c.changed, 3, 5), 0);
	assert_int_equal(sector_set_add(&c.changed, SECTOR_SET_CHUNK, 2 * SECTOR_SET_CHUNK), 0);
	assert_int_equal(sector_set_add(&c.changed, 4 * SECTOR_SET_CHUNK + 50, 50), 0);
	assert_int_equal(checkpoint_encode(&c, ret, ret_length), 0);
	checkpoint_done(&c);
}

static void every_flipped_bit_and_every_cut_is_noticed(void **state)
{
	struct checkpoint back;
	struct err err;
	uint8_t *bytes;
	size_t length;

	encoded_sample(&bytes, &length);
	for (size_t bit = 0; bit < length * 8; bit++) {
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		err.text[0] = '\0';
		assert_true(checkpoint_decode(bytes, length, &back, &err) > 0);
		assert_true(err.text[0] != '\0');
		bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t cut = 0; cut < length; cut++)
		assert_int_equal(checkpoint_decode(bytes, cut, &back, NULL), VHD_E_CORRUPT);
	free(bytes);
}

static void body_try(const uint8_t *body, size_t body_length, bool good)
{
	struct checkpoint back;
	uint8_t *sample, *bytes;
	size_t length;
	int rc;

	encoded_sample(&sample, &length);
	bytes = malloc(CHECKPOINT_HEAD + body_length);
	assert_non_null(bytes);
	memcpy(bytes, sample, CHECKPOINT_HEAD);
	memcpy(bytes + CHECKPOINT_HEAD, body, body_length);
	for (unsigned i = 0; i < 8; i++) {
		bytes[0x68 + i] = (uint8_t)((uint64_t)body_length >> (56 - 8 * i));
		bytes[0x70 + i] = (uint8_t)(XXH3_64bits(body, body_length) >> (56 - 8 * i));
	}
	for (unsigned i = 0; i < 8; i++)
		bytes[0x80 + i] = (uint8_t)(XXH3_64bits(bytes, 0x80) >> (56 - 8 * i));
	rc = checkpoint_decode(bytes, CHECKPOINT_HEAD + body_length, &back, NULL);
	assert_int_equal(rc, good ? 0 : VHD_E_CORRUPT);
	if (rc == 0)
		checkpoint_done(&back);
	free(sample);
	free(bytes);
}

static void lists_that_cannot_be_are_refused_though_their_hash_is_right(void **state)
{
	static const struct {
		uint8_t bytes[24];
		size_t length;
		bool good;
	} cases[] = {
		{{0}, 0, true},
		{{0, 0, 1}, 3, true},                /* one full chunk */
		{{0, 0, 5}, 3, true},                /* all five */
		{{0, 0, 6}, 3, false},               /* six of five */
		{{0, 0, 0}, 3, false},               /* none */
		{{5, 0, 1}, 3, false},               /* beyond the last */
		{{4, 1, 1, 0, 100}, 5, true},        /* the last, short one */
		{{4, 1, 1, 0, 101}, 5, false},
		{{4, 1, 1, 101, 1}, 5, false},
		{{4, 1, 2, 0, 99, 0, 1}, 7, true},
		{{4, 1, 2, 0, 99, 1, 1}, 7, false},
		{{0, 1, 0}, 3, false},               /* no runs */
		{{0, 1, 1, 0, 0}, 5, false},         /* an empty one */
		{{0, 1, 2, 0, 1}, 5, false},         /* cut off */
		{{0, 3}, 2, false},                  /* no such kind */
		{{0, 2, 1}, 3, false},               /* a bitmap cut off */
		{{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 0, 1}, 13, false},
		{{0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, 11, false},
		{{0, 1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 1}, 13, false},
		{{0, 1, 1, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, 13, false},
		{{0, 0, 1, 4, 0, 1}, 6, false},      /* a gap over the end */
	};
	uint8_t bitmap[2 + SECTOR_SET_CHUNK / 8] = {4, 2};

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		body_try(cases[i].bytes, cases[i].length, cases[i].good);
	bitmap[2 + 99 / 8] = 1 << 99 % 8;
	body_try(bitmap, sizeof(bitmap), true);
	bitmap[2 + 100 / 8] |= 1 << 100 % 8;
	body_try(bitmap, sizeof(bitmap), false);
}

/* --- Files --- */

static void image_make(const char *path, const uint8_t uuid[16])
{
	struct vhd_create_options options = {.size_bytes = 1 << 20, .uuid = uuid, .overwrite = true};

	assert_int_equal(vhd_create(path, &options, NULL), 0);
}

static void image_touch(const char *path)
{
	struct stat st, before;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t byte;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &before), 0);
	assert_int_equal(pread(fd, &byte, 1, 0), 1);
	do {
		assert_int_equal(pwrite(fd, &byte, 1, 0), 1);
		assert_int_equal(fstat(fd, &st), 0);
	} while (st.st_mtim.tv_sec == before.st_mtim.tv_sec && st.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
	close(fd);
}

/* What changed from one state to another: one sector. */
static void record(const char *path, const uint8_t from[16], const uint8_t to[16], uint64_t sector)
{
	struct checkpoint c = checkpoint_make(from, to, (1 << 20) / 512);
	struct err err;

	assert_int_equal(sector_set_add(&c.changed, sector, 1), 0);
	if (checkpoint_write(path, &c, &err))
		fail_msg("%s", err.text);
	checkpoint_done(&c);
}

/* How many sectors changed since a state; or the verdict. */
static int found(const char *path, const uint8_t since[16], uint64_t *ret_sectors, struct err *err)
{
	struct checkpoint_path way;
	struct sector_set set;
	struct chain chain;
	int rc;

	err->text[0] = '\0';
	assert_int_equal(chain_open(path, NULL, NULL, &chain, err), 0);
	assert_int_equal(sector_set_init(&set, (1 << 20) / 512), 0);
	rc = checkpoint_find(&chain, since, &set, &way, err);
	*ret_sectors = sector_set_count(&set);
	sector_set_done(&set);
	chain_done(&chain);
	return rc;
}

static void finds(const char *path, const uint8_t since[16], uint64_t want)
{
	struct err err;
	uint64_t sectors;
	int rc = found(path, since, &sectors, &err);

	if (rc)
		fail_msg("%d %s", rc, err.text);
	assert_int_equal(sectors, want);
}

static void does_not_find(const char *path, const uint8_t since[16], int want, const char *says)
{
	struct err err;
	uint64_t sectors;

	assert_int_equal(found(path, since, &sectors, &err), want);
	if (says)
		assert_non_null(strstr(err.text, says));
}

static void records_lead_on_from_state_to_state(void **state)
{
	image_make(disk, C);
	record(disk, B, C, 7);
	record(disk, A, B, 8);
	finds(disk, B, 1);
	finds(disk, A, 2);
	does_not_find(disk, OTHER, -ENOENT, NULL);
	does_not_find(disk, C, -ENOENT, NULL);
}

static void a_file_that_was_written_to_since_makes_them_worthless(void **state)
{
	image_make(disk, B);
	record(disk, A, B, 7);
	finds(disk, A, 1);
	image_touch(disk);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "written to");
}

static void a_write_right_after_the_record_shows(void **state)
{
	for (unsigned round = 0; round < 20; round++) {
		struct stat before, after;
		int fd;

		image_make(disk, B);
		record(disk, A, B, 7);
		fd = open(disk, O_RDWR | O_CLOEXEC);
		assert_int_equal(fstat(fd, &before), 0);
		assert_int_equal(pwrite(fd, "conectix", 8, 0), 8);
		assert_int_equal(fstat(fd, &after), 0);
		close(fd);
		assert_true(before.st_mtim.tv_sec != after.st_mtim.tv_sec || before.st_mtim.tv_nsec != after.st_mtim.tv_nsec);
		does_not_find(disk, A, VHD_E_UNKNOWN_BASE, NULL);
	}
}

static void a_chain_of_records_with_a_gap_is_no_answer(void **state)
{
	image_make(disk, D);
	record(disk, A, B, 7);
	record(disk, C, D, 8);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "lead to");
	record(disk, B, A, 9); /* in a circle */
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "on and on");
}

static void a_damaged_record_is_no_answer(void **state)
{
	int fd;

	image_make(disk, B);
	record(disk, A, B, 7);
	fd = open(record_name(disk, A), O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "x", 1, CHECKPOINT_HEAD), 1);
	close(fd);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "damaged");
	assert_int_equal(unlink(record_name(disk, A)), 0);
	assert_int_equal(mkfifo(record_name(disk, A), 0600), 0);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "damaged");
	assert_int_equal(unlink(record_name(disk, A)), 0);
	assert_int_equal(symlink("/dev/zero", record_name(disk, A)), 0);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "damaged");
}

static void a_merge_keeps_what_holds_and_drops_what_does_not(void **state)
{
	struct err err;

	image_make(disk, B);
	record(disk, A, B, 7);
	record(disk, OTHER, A, 6);
	record(disk, C, D, 5); /* leads nowhere */
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0);
	assert_int_equal(records_in_dir(), 2);
	image_touch(disk);
	assert_int_equal(image_set_uuid(disk, B, C, &err), 0);
	record(disk, B, C, 8);
	finds(disk, OTHER, 3);
	/* The next one finds that somebody wrote in between. */
	image_touch(disk);
	assert_int_equal(checkpoint_begin(disk, C, D, &err), 0);
	assert_int_equal(records_in_dir(), 0);
}

static void a_merge_that_was_cut_off_goes_on_with_its_records(void **state)
{
	struct err err;

	image_make(disk, B);
	record(disk, A, B, 7);
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0);
	image_touch(disk);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "written to");
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0);
	assert_int_equal(image_set_uuid(disk, B, C, &err), 0);
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0); /* cut off once more, late */
	record(disk, B, C, 8);
	finds(disk, A, 2);
}

static void another_merge_after_one_that_was_cut_off_does_not_trust_them(void **state)
{
	struct err err;

	image_make(disk, B);
	record(disk, A, B, 7);
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0);
	image_touch(disk);
	assert_int_equal(checkpoint_begin(disk, B, D, &err), 0);
	assert_int_equal(records_in_dir(), 0);
}

static void a_change_that_leaves_the_content_keeps_only_what_held_before_it(void **state)
{
	struct checkpoint_stamp stamp;
	struct err err;

	image_make(disk, B);
	record(disk, A, B, 7);
	assert_int_equal(checkpoint_stamp_take(disk, &stamp, &err), 0);
	image_touch(disk);
	assert_int_equal(checkpoint_restamp(disk, B, &stamp, &err), 0);
	finds(disk, A, 1);
	image_touch(disk); /* a write */
	assert_int_equal(checkpoint_stamp_take(disk, &stamp, &err), 0);
	image_touch(disk);
	assert_int_equal(checkpoint_restamp(disk, B, &stamp, &err), 0);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, "written to");
}

/* --- Promises --- */

static void promise(const char *path, const uint8_t from[16], const uint8_t to[16], uint64_t sector, bool incomplete)
{
	struct checkpoint c = checkpoint_make(from, to, (1 << 20) / 512);
	struct err err = {.text = ""};

	c.incomplete = incomplete;
	assert_int_equal(sector_set_add(&c.changed, sector, 1), 0);
	if (checkpoint_promise(path, &c, &err))
		fail_msg("%s", err.text);
	checkpoint_done(&c);
}

static int promised(const char *path, const uint8_t from[16], uint64_t *ret_sectors, struct err *err)
{
	struct sector_set set;
	struct chain chain;
	int rc;

	assert_int_equal(chain_open(path, NULL, NULL, &chain, err), 0);
	assert_int_equal(sector_set_init(&set, (1 << 20) / 512), 0);
	rc = checkpoint_promised(&chain, from, &set, err);
	*ret_sectors = sector_set_count(&set);
	sector_set_done(&set);
	chain_done(&chain);
	return rc;
}

static void a_promise_adds_up_over_tries_and_becomes_a_record(void **state)
{
	uint64_t sectors;
	struct err err;

	image_make(disk, B);
	record(disk, A, B, 1);
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0);
	promise(disk, B, C, 7, false);
	image_touch(disk);
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0);
	promise(disk, B, C, 8, false);
	assert_int_equal(promised(disk, B, &sectors, &err), 0);
	assert_int_equal(sectors, 2);
	does_not_find(disk, A, VHD_E_UNKNOWN_BASE, NULL);
	assert_int_equal(image_set_uuid(disk, B, C, &err), 0);
	does_not_find(disk, B, VHD_E_UNKNOWN_BASE, NULL); /* not a record yet */
	assert_int_equal(checkpoint_fulfil(disk, C, false, &err), 0);
	finds(disk, B, 2);
	finds(disk, A, 3);
	assert_int_equal(promised(disk, B, &sectors, &err), 0);
	assert_int_equal(sectors, 0);
	/* Cut off behind that, and run again: what is left to merge is less than what there was. */
	assert_int_equal(checkpoint_begin(disk, B, C, &err), 0);
	promise(disk, B, C, 8, false);
	image_touch(disk);
	assert_int_equal(checkpoint_fulfil(disk, C, false, &err), 0);
	finds(disk, A, 3);
}

static void an_incomplete_promise_is_no_answer_and_no_record(void **state)
{
	uint64_t sectors;
	struct err err;

	image_make(disk, B);
	promise(disk, B, C, 7, true);
	assert_int_equal(promised(disk, B, &sectors, &err), VHD_E_UNKNOWN_BASE);
	assert_non_null(strstr(err.text, "not finished"));
	promise(disk, B, C, 8, false); /* what guests wrote the first time is still not in it */
	assert_int_equal(promised(disk, B, &sectors, &err), VHD_E_UNKNOWN_BASE);
	assert_int_equal(image_set_uuid(disk, B, C, &err), 0);
	does_not_find(disk, B, VHD_E_UNKNOWN_BASE, "not finished");
	assert_int_equal(checkpoint_fulfil(disk, C, false, &err), 0);
	does_not_find(disk, B, -ENOENT, NULL);
	assert_int_equal(records_in_dir(), 0);
}

static void a_promise_is_kept_through_another_merge_and_not_added_up_with_it(void **state)
{
	uint64_t sectors;
	struct err err;

	image_make(disk, B);
	promise(disk, B, C, 7, false);
	assert_int_equal(checkpoint_begin(disk, B, D, &err), 0);
	assert_int_equal(promised(disk, B, &sectors, &err), 0);
	assert_int_equal(sectors, 1);
	promise(disk, B, D, 8, false);
	assert_int_equal(promised(disk, B, &sectors, &err), VHD_E_UNKNOWN_BASE);
}

static void a_file_written_to_behind_the_record_is_not_promised_again(void **state)
{
	uint64_t sectors;
	struct err err;

	image_make(disk, C);
	record(disk, B, C, 7);
	image_touch(disk);
	promise(disk, B, C, 8, false);
	assert_int_equal(promised(disk, B, &sectors, &err), VHD_E_UNKNOWN_BASE);
}

static void records_of_a_merged_file_become_those_of_the_one_it_went_into(void **state)
{
	struct err err;

	/* `other` is in state B, known since A, and was merged into `disk`, which was in state D. */
	image_make(other, B);
	record(other, A, B, 7);
	record(other, C, OTHER, 1); /* leads nowhere */
	image_make(disk, B);
	record(disk, D, B, 8);
	assert_int_equal(checkpoint_adopt(other, B, disk, &err), 0);
	assert_int_equal(unlink(other), 0);
	finds(disk, A, 1);
	finds(disk, D, 1);
	assert_int_equal(records_in_dir(), 2);

	image_make(other, B);
	record(other, C, B, 7);
	image_touch(other);
	assert_int_equal(checkpoint_adopt(other, B, disk, &err), 0);
	does_not_find(disk, C, -ENOENT, NULL);
	assert_int_equal(records_in_dir(), 2);
}

static void records_follow_an_image_that_is_renamed(void **state)
{
	struct err err;

	image_make(disk, B);
	record(disk, A, B, 7);
	assert_int_equal(rename(disk, other), 0);
	does_not_find(other, A, -ENOENT, NULL);
	assert_int_equal(checkpoint_rename(disk, other, &err), 0);
	assert_int_equal(checkpoint_rename(disk, other, &err), 0);
	finds(other, A, 1);
	assert_int_equal(checkpoint_rename(other, other, &err), 0);
	finds(other, A, 1);
	assert_int_equal(records_in_dir(), 1);
	assert_int_equal(checkpoint_remove(other, &err), 0);
	assert_int_equal(records_in_dir(), 0);
}

static void records_are_found_by_an_image_s_symlink_and_by_a_long_name(void **state)
{
	char name[300], link[512];

	memset(name, 'n', 250);
	strcpy(name + 246, ".vhd");
	snprintf(disk, sizeof(disk), "%s/%s", dir, name);
	snprintf(link, sizeof(link), "%s/link", dir);
	image_make(disk, B);
	assert_int_equal(symlink(name, link), 0);
	record(link, A, B, 7);
	finds(disk, A, 1);
	finds(link, A, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dense_and_sparse_sets_stay_small),
		cmocka_unit_test(random_sets_come_back_as_they_were),
		cmocka_unit_test(every_flipped_bit_and_every_cut_is_noticed),
		cmocka_unit_test(lists_that_cannot_be_are_refused_though_their_hash_is_right),
		cmocka_unit_test_setup_teardown(records_lead_on_from_state_to_state, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_file_that_was_written_to_since_makes_them_worthless, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_write_right_after_the_record_shows, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_chain_of_records_with_a_gap_is_no_answer, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_damaged_record_is_no_answer, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_merge_keeps_what_holds_and_drops_what_does_not, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_merge_that_was_cut_off_goes_on_with_its_records, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(another_merge_after_one_that_was_cut_off_does_not_trust_them, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(a_change_that_leaves_the_content_keeps_only_what_held_before_it, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(a_promise_adds_up_over_tries_and_becomes_a_record, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(an_incomplete_promise_is_no_answer_and_no_record, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_promise_is_kept_through_another_merge_and_not_added_up_with_it, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(a_file_written_to_behind_the_record_is_not_promised_again, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(records_of_a_merged_file_become_those_of_the_one_it_went_into, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(records_follow_an_image_that_is_renamed, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(records_are_found_by_an_image_s_symlink_and_by_a_long_name, folder_make,
		                                folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
