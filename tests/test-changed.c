/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The list of what changed since a state covers the difference between that state and now, whatever happened: random
 * chains, whose states are read and compared byte by byte.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>
#include <unistd.h>

#include "tests/lib/random.h"
#include "tests/lib/temp-dir.h"
#include "vhd/chain.h"
#include "vhd/checkpoint.h"
#include "vhd/set-uuid.h"

#define SECTOR 512u
#define MAX_SIZE (768u << 10)
#define MAX_LAYERS 6u

static char *dir;

static int folder_make(void **state)
{
	dir = temp_dir_new("changed");
	return 0;
}

static int folder_remove(void **state)
{
	temp_dir_free(dir);
	return 0;
}

/* A state of the disk, as it was frozen. */
struct state {
	uint8_t uuid[16];
	uint64_t size; /* bytes */
	uint8_t *content;
	uint8_t touched[MAX_SIZE / SECTOR]; /* by the layer that made it of the one before */
};

struct history {
	struct state states[MAX_LAYERS]; /* 0: the base */
	unsigned count;
	bool merged[MAX_LAYERS]; /* its layer is gone: what it held went into the one below, which took its place */
	char paths[MAX_LAYERS][600];
};

static void history_done(struct history *h)
{
	for (unsigned i = 0; i < h->count; i++)
		free(h->states[i].content);
}

static void ok(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

static void disk_open(const char *path, bool write, struct vhd **vhd, struct blk_queue **queue)
{
	struct vhd_open_options options = {.flags = write ? VHD_OPEN_WRITE | VHD_OPEN_DESPITE_CHILDREN : 0};
	struct err err = {.text = ""};

	ok(vhd_open(path, &options, vhd, &err), &err);
	ok(blk_queue_new(vhd_blk(*vhd), NULL, queue, &err), &err);
}

static void disk_close(struct vhd *vhd, struct blk_queue *queue)
{
	struct err err = {.text = ""};

	blk_queue_free(queue);
	ok(vhd_close(vhd, &err), &err);
}

static uint8_t *disk_read(const char *path, uint64_t size)
{
	uint8_t *ret = calloc(1, MAX_SIZE);
	struct blk_queue *queue;
	struct blk_info info;
	struct vhd *vhd;

	assert_non_null(ret);
	disk_open(path, false, &vhd, &queue);
	blk_info(vhd_blk(vhd), &info);
	assert_int_equal(info.size, size);
	assert_int_equal(blk_pread(queue, ret, size, 0), 0);
	disk_close(vhd, queue);
	return ret;
}

/* The states are known from what was done, not from reading them back. */
static void scribble(struct rng *rng, const char *path, struct state *state)
{
	static uint8_t bytes[64 * SECTOR];
	struct blk_queue *queue;
	struct vhd *vhd;

	disk_open(path, true, &vhd, &queue);
	for (unsigned i = rng_below(rng, 12); i > 0; i--) {
		uint64_t first = rng_below(rng, state->size / SECTOR), left = state->size / SECTOR - first;
		uint64_t count = 1 + rng_below(rng, rng_percent(rng, 70) ? 5 : 64);
		bool zeros = rng_percent(rng, 30);
		int rc;

		if (count > left)
			count = left;
		memset(state->touched + first, 1, count);
		memset(bytes, 0, count * SECTOR);
		for (size_t at = 0; at < count * SECTOR && !zeros; at += 8)
			memcpy(bytes + at, &(uint64_t){rng_next(rng)}, 8);
		if (!zeros)
			rc = blk_pwrite(queue, bytes, count * SECTOR, first * SECTOR);
		else if (rng_percent(rng, 50))
			rc = blk_discard(queue, first * SECTOR, count * SECTOR);
		else
			rc = blk_write_zeroes(queue, first * SECTOR, count * SECTOR);
		assert_int_equal(rc, 0);
		memcpy(state->content + first * SECTOR, bytes, count * SECTOR);
	}
	disk_close(vhd, queue);
}

static uint64_t random_size(struct rng *rng)
{
	return (1 + rng_below(rng, MAX_SIZE / SECTOR)) * SECTOR;
}

static void history_make(struct rng *rng, bool sizes_differ, struct history *ret)
{
	uint64_t size = random_size(rng);

	*ret = (struct history){.count = 2 + (unsigned)rng_below(rng, MAX_LAYERS - 1)};
	for (unsigned i = 0; i < ret->count; i++) {
		struct state *state = &ret->states[i];
		struct vhd_create_options options = {.uuid = state->uuid, .overwrite = true};
		struct err err = {.text = ""};

		for (unsigned b = 0; b < 16; b += 8)
			memcpy(state->uuid + b, &(uint64_t){rng_next(rng)}, 8);
		if (sizes_differ && rng_percent(rng, 50))
			size = random_size(rng);
		state->size = options.size_bytes = size;
		options.type = i ? VHD_DIFFERENCING : rng_percent(rng, 30) ? VHD_FIXED : VHD_DYNAMIC;
		options.parent = i ? ret->paths[i - 1] : NULL;
		options.block_size_bytes = options.type == VHD_FIXED ? 0 : 4096u << rng_below(rng, 6);
		snprintf(ret->paths[i], sizeof(ret->paths[i]), "%s/%u.vhd", dir, i);
		ok(vhd_create(ret->paths[i], &options, &err), &err);
		state->content = calloc(1, MAX_SIZE);
		assert_non_null(state->content);
		if (i)
			memcpy(state->content, state[-1].content, size < state[-1].size ? size : state[-1].size);
		scribble(rng, ret->paths[i], state);
	}
}

struct list {
	uint8_t in[MAX_SIZE / SECTOR];
	uint64_t end, bytes, extents;
	const struct vhd_changed_result *result;
};

static int extent_take(void *user, const struct vhd_extent *extent)
{
	struct list *list = user;

	assert_true(extent->length > 0 && extent->offset % SECTOR == 0 && extent->length % SECTOR == 0);
	assert_true(list->extents == 0 || extent->offset > list->end); /* sorted, and merged */
	assert_true(list->result->extents > list->extents);
	list->end = extent->offset + extent->length;
	assert_true(list->end <= list->result->size_bytes);
	memset(list->in + extent->offset / SECTOR, 1, extent->length / SECTOR);
	list->bytes += extent->length;
	list->extents++;
	return 0;
}

static void list_get(const char *path, const uint8_t *since, struct list *list, struct vhd_changed_result *result)
{
	struct vhd_changed_options options = {.since = since, .extent = extent_take, .user = list};
	struct err err = {.text = ""};

	*list = (struct list){.result = result};
	ok(vhd_changed(path, &options, result, &err), &err);
	assert_int_equal(list->extents, result->extents);
	assert_int_equal(list->bytes, result->changed_bytes);
}

/* What state `to` changed of `from`, according to the list, against what the two hold. */
static void list_covers(const struct history *h, unsigned from, unsigned to, const struct list *list)
{
	const struct state *a = &h->states[from], *b = &h->states[to];

	for (uint64_t s = 0; s < b->size / SECTOR; s++) {
		bool beyond = s * SECTOR >= a->size, touched = false, shorter = false;

		if (beyond || memcmp(a->content + s * SECTOR, b->content + s * SECTOR, SECTOR))
			if (!list->in[s])
				fail_msg("sector %lu changed from state %u to %u and is not listed", (unsigned long)s, from, to);
		/* And no more than was written, discarded, or beyond the end of one of them. */
		for (unsigned i = from + 1; i <= to; i++) {
			touched = touched || h->states[i].touched[s];
			shorter = shorter || s * SECTOR >= h->states[i - 1].size;
		}
		if (list->in[s] && !touched && !shorter)
			fail_msg("sector %lu did not change from state %u to %u and is listed", (unsigned long)s, from, to);
	}
}

static void all_lists_cover(const struct history *h)
{
	struct vhd_changed_result result;
	struct list list;

	for (unsigned to = 1; to < h->count; to++) {
		if (h->merged[to - 1] && to == 1)
			continue;
		for (unsigned from = 0; from < to && h->paths[to][0]; from++) {
			list_get(h->paths[to], h->states[from].uuid, &list, &result);
			list_covers(h, from, to, &list);
			assert_memory_equal(result.since, h->states[from].uuid, 16);
			assert_memory_equal(result.uuid, h->states[to].uuid, 16);
			assert_int_equal(result.since_size_bytes, h->states[from].size);
			assert_int_equal(result.size_bytes, h->states[to].size);
		}
	}
}

static void lists_of_random_chains_cover_the_difference(void **state)
{
	for (unsigned round = 0; round < 30; round++) {
		struct rng rng = rng_fork(21, round);
		struct vhd_changed_result result;
		struct history h;
		struct list list;

		history_make(&rng, round % 3 > 0, &h);
		all_lists_cover(&h);
		/* Without a state: the parent's. */
		list_get(h.paths[h.count - 1], NULL, &list, &result);
		list_covers(&h, h.count - 2, h.count - 1, &list);
		assert_memory_equal(result.since, h.states[h.count - 2].uuid, 16);
		assert_int_equal(result.layers, 1);
		history_done(&h);
	}
}

/* Merges the layer of state `upper` into that of `lower`, all between them gone already, as vhd_merge does. */
static void merge(struct history *h, unsigned lower, unsigned upper)
{
	struct state *below = &h->states[lower], *above = &h->states[upper];
	const char *into = h->paths[lower], *gone = h->paths[upper];
	struct checkpoint record;
	struct blk_queue *queue;
	struct sector_run run;
	struct chain chain;
	struct vhd *vhd;
	struct err err = {.text = ""};

	ok(checkpoint_begin(into, below->uuid, above->uuid, &err), &err);
	ok(chain_open(gone, NULL, NULL, &chain, &err), &err);
	ok(checkpoint_of_layer(chain.layers[0], chain.layers[1]->size, &record, &err), &err);
	chain_done(&chain);
	disk_open(into, true, &vhd, &queue);
	for (uint64_t at = 0; sector_set_next(&record.changed, at, &run); at = run.first + run.count)
		assert_int_equal(blk_pwrite(queue, above->content + run.first * SECTOR, run.count * SECTOR, run.first * SECTOR),
		                 0);
	disk_close(vhd, queue);
	ok(image_set_uuid(into, below->uuid, above->uuid, &err), &err);
	ok(checkpoint_write(into, &record, &err), &err);
	checkpoint_done(&record);
	ok(checkpoint_adopt(gone, above->uuid, into, &err), &err);
	assert_int_equal(unlink(gone), 0);
	/* So that the child above finds it. */
	assert_int_equal(rename(into, gone), 0);
	ok(checkpoint_rename(into, gone, &err), &err);
	h->paths[lower][0] = '\0';
	h->merged[lower] = true;
}

static void lists_cover_the_difference_after_random_merges(void **state)
{
	for (unsigned round = 0; round < 8; round++) {
		struct rng rng = rng_fork(22, round);
		unsigned left;
		struct history h;

		temp_dir_free(dir);
		dir = temp_dir_new("changed");
		history_make(&rng, false, &h);
		for (left = h.count; left > 1; left--) {
			unsigned lower = (unsigned)rng_below(&rng, h.count), upper;
			uint8_t *now;

			while (!h.paths[lower][0] || lower + 1 == h.count)
				lower = (lower + 1) % h.count;
			for (upper = lower + 1; !h.paths[upper][0];)
				upper++;
			/* Between two layers that were merged, states are known by records only. */
			merge(&h, lower, upper);
			now = disk_read(h.paths[upper], h.states[upper].size);
			assert_memory_equal(now, h.states[upper].content, h.states[upper].size);
			free(now);
			all_lists_cover(&h);
		}
		/* One file is left, and knows each state; until it is written to. */
		all_lists_cover(&h);
		scribble(&(struct rng){rng_next(&rng)}, h.paths[h.count - 1], &h.states[h.count - 1]);
		history_done(&h);
	}
}

static void a_state_nobody_knows_is_an_error_and_never_a_list(void **state)
{
	static const uint8_t null[16], stranger[16] = "stranger";
	struct rng rng = rng_fork(23, 0);
	struct vhd_changed_options options = {.since = stranger};
	struct vhd_changed_result result;
	struct history h;
	struct err err;

	history_make(&rng, false, &h);
	assert_int_equal(vhd_changed(h.paths[h.count - 1], &options, &result, &err), VHD_E_UNKNOWN_BASE);
	assert_non_null(strstr(err.text, "not known"));
	options.since = null;
	assert_int_equal(vhd_changed(h.paths[h.count - 1], &options, &result, &err), VHD_E_UNKNOWN_BASE);
	/* Its own: it may have been written to since. */
	options.since = h.states[h.count - 1].uuid;
	assert_int_equal(vhd_changed(h.paths[h.count - 1], &options, &result, &err), VHD_E_UNKNOWN_BASE);
	assert_non_null(strstr(err.text, "of the image itself"));
	/* A later one. */
	options.since = h.states[1].uuid;
	assert_int_equal(vhd_changed(h.paths[0], &options, &result, &err), VHD_E_UNKNOWN_BASE);
	/* No parent. */
	options.since = NULL;
	assert_int_equal(vhd_changed(h.paths[0], &options, &result, &err), VHD_E_UNKNOWN_BASE);
	assert_non_null(strstr(err.text, "no parent"));
	history_done(&h);
}

static void a_file_written_to_after_the_merge_is_no_answer(void **state)
{
	struct rng rng = rng_fork(24, 0);
	struct vhd_changed_options options = {0};
	struct blk_queue *queue;
	struct history h;
	struct vhd *vhd;
	struct err err;

	history_make(&rng, false, &h);
	for (unsigned i = 0; i + 1 < h.count; i++)
		merge(&h, i, i + 1);
	options.since = h.states[0].uuid;
	assert_int_equal(vhd_changed(h.paths[h.count - 1], &options, NULL, &err), 0);
	disk_open(h.paths[h.count - 1], true, &vhd, &queue);
	assert_int_equal(blk_pwrite(queue, "changed", 7, 0), 0);
	disk_close(vhd, queue);
	for (unsigned i = 0; i + 1 < h.count; i++) {
		options.since = h.states[i].uuid;
		assert_int_equal(vhd_changed(h.paths[h.count - 1], &options, NULL, &err), VHD_E_UNKNOWN_BASE);
		assert_non_null(strstr(err.text, "written to"));
	}
	history_done(&h);
}

static void a_merge_that_was_cut_off_behind_the_new_unique_id_changes_no_list(void **state)
{
	struct rng rng = rng_fork(25, 3);
	struct vhd_changed_result result;
	struct history h;
	struct list before, after;
	struct err err = {.text = ""};

	history_make(&rng, false, &h);
	assert_true(h.count > 2);
	list_get(h.paths[2], h.states[0].uuid, &before, &result);
	/* All of layer 1 is in layer 0 by now, which has its Unique Id; layer 1 is still there. */
	ok(image_set_uuid(h.paths[0], h.states[0].uuid, h.states[1].uuid, &err), &err);
	list_get(h.paths[2], h.states[0].uuid, &after, &result);
	assert_memory_equal(before.in, after.in, sizeof(before.in));
	list_get(h.paths[2], h.states[1].uuid, &after, &result);
	assert_int_equal(result.layers, 1);
	history_done(&h);
}

static void what_an_unfinished_merge_took_from_the_leaf_is_listed(void **state)
{
	struct rng rng = rng_fork(27, 2);
	struct vhd_changed_result result;
	struct vhd_open_options write = {.flags = VHD_OPEN_WRITE | VHD_OPEN_DESPITE_CHILDREN};
	struct checkpoint c;
	struct history h;
	struct list before, after;
	struct chain chain;
	struct err err = {.text = ""};
	unsigned leaf;

	history_make(&rng, false, &h);
	leaf = h.count - 1;
	list_get(h.paths[leaf], NULL, &before, &result);
	assert_true(before.extents > 0);
	ok(chain_open(h.paths[leaf], NULL, NULL, &chain, &err), &err);
	ok(checkpoint_of_layer(chain.layers[0], chain.layers[1]->size, &c, &err), &err);
	chain_done(&chain);
	ok(checkpoint_promise(h.paths[leaf - 1], &c, &err), &err);
	checkpoint_done(&c);
	/* The leaf has given all its blocks to the layer below. */
	ok(chain_open(h.paths[leaf], &write, NULL, &chain, &err), &err);
	for (uint32_t i = 0; i < chain.layers[0]->block_count; i++)
		assert_int_equal(chain.layers[0]->store->ops->write(chain.layers[0]->store, "\377\377\377\377", 4,
		                                                    chain.layers[0]->header.table_offset + 4ul * i), 0);
	chain_done(&chain);
	list_get(h.paths[leaf], NULL, &after, &result);
	assert_memory_equal(before.in, after.in, sizeof(before.in));
	list_get(h.paths[leaf], h.states[0].uuid, &after, &result);
	list_covers(&h, 0, leaf, &after);
	history_done(&h);
}

static void cancelled_lists_end(void **state)
{
	struct rng rng = rng_fork(26, 1);
	struct vhd_changed_options options = {0};
	struct history h;
	struct err err;

	history_make(&rng, false, &h);
	assert_int_equal(vhd_job_new(&options.job, &err), 0);
	vhd_job_cancel(options.job);
	assert_int_equal(vhd_changed(h.paths[h.count - 1], &options, NULL, &err), -ECANCELED);
	vhd_job_free(options.job);
	history_done(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lists_of_random_chains_cover_the_difference, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(lists_cover_the_difference_after_random_merges, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_state_nobody_knows_is_an_error_and_never_a_list, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_file_written_to_after_the_merge_is_no_answer, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(a_merge_that_was_cut_off_behind_the_new_unique_id_changes_no_list, folder_make,
		                                folder_remove),
		cmocka_unit_test_setup_teardown(what_an_unfinished_merge_took_from_the_leaf_is_listed, folder_make, folder_remove),
		cmocka_unit_test_setup_teardown(cancelled_lists_end, folder_make, folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
