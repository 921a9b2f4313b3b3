/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vhd_compact, and with it the moving of blocks: what comes of it, what it refuses, and that requests that go on
 * meanwhile never see anything but their own data. tests/test-compact-crash.c: and then the power fails.
 * SCRIBBLE_REQUESTS: how many requests in all; SCRIBBLE_SEED: where they start.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/lib/disk.h"
#include "tests/lib/engine.h"
#include "tests/lib/random.h"
#include "tests/lib/ring-inline.h"
#include "tests/lib/scribble.h"
#include "tests/lib/store-fault.h"
#include "tests/lib/temp-dir.h"
#include "vhd/gaps.h"
#include "vhd/upkeep.h"

#define PATH_ROOM 4096
#define BLOCK 65536u
#define SLOT (BLOCK + 4096u)

static uint64_t seed_base;
static unsigned requests_each;

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

/* A disk in memory, open, with a queue for plain requests where one is wanted. */
struct fixture {
	struct disk disk;
	struct vhd vhd;
	struct blk *blk;
	struct blk_queue *queue;
};

static void fixture_open_with(struct fixture *f, struct fault_plan *plan)
{
	struct store *stores[DISK_LAYERS];
	struct err err = {""};

	for (unsigned i = 0; i < f->disk.layers; i++)
		stores[i] = store_memory_open(f->disk.files[i], i == 0 ? STORE_WRITE : 0);
	if (plan)
		stores[0] = store_fault_open_take(stores[0], plan);
	must(engine_open_take(stores, f->disk.layers, true, &f->blk, &err), &err);
	f->vhd.image = (struct image *)f->blk;
	f->queue = NULL;
}

static void queue_open(struct fixture *f)
{
	struct err err = {""};

	must(blk_queue_new(f->blk, NULL, &f->queue, &err), &err);
}

static void queue_close(struct fixture *f)
{
	if (f->queue)
		blk_queue_free(f->queue);
	f->queue = NULL;
}

static void fixture_make(struct fixture *f, const struct disk_spec *spec)
{
	memset(f, 0, sizeof(*f));
	disk_make(spec, &f->disk);
	fixture_open_with(f, NULL);
}

static void fixture_close(struct fixture *f)
{
	struct err err = {""};

	queue_close(f);
	must(blk_close(f->blk, &err), &err);
	f->blk = NULL;
}

/* Sound, closed properly, and with the content that it should have. */
static void fixture_check(struct fixture *f)
{
	struct err err = {""};
	struct layer *layer;

	must(layer_open_take(store_memory_open(f->disk.files[0], 0), "/fake/layer-0.vhd", NULL, &layer, &err), &err);
	assert_int_equal(layer->footer_source, FOOTER_AT_END);
	assert_int_equal(layer->file_size, layer->data_end + 512);
	layer_free(layer);
	fixture_open_with(f, NULL);
	must(scribble_compare(f->blk, f->disk.content, &err), &err);
	fixture_close(f);
}

static void fixture_done(struct fixture *f)
{
	if (f->blk)
		fixture_close(f);
	fixture_check(f);
	disk_done(&f->disk);
}

static void put(struct fixture *f, uint64_t offset, uint64_t length, uint8_t byte)
{
	struct err err = {""};

	memset(f->disk.content + offset, byte, length);
	must(blk_pwrite(f->queue, f->disk.content + offset, length, offset), &err);
}

static void discard(struct fixture *f, uint64_t offset, uint64_t length)
{
	struct err err = {""};

	memset(f->disk.content + offset, 0, length);
	must(blk_discard(f->queue, offset, length), &err);
}

static struct vhd_compact_result compact(struct fixture *f, const struct vhd_compact_options *options)
{
	struct vhd_compact_result result;
	struct err err = {""};

	must(vhd_compact(&f->vhd, options, &result, &err), &err);
	return result;
}

static uint64_t first_slot_end(const struct fixture *f)
{
	const struct layer *layer = image_leaf(f->vhd.image);

	return slot_place(layer, layer->metadata_end) + layer->bitmap_bytes + layer->block_size;
}

/* 16 blocks, one after the other. */
static void fixture_filled(struct fixture *f)
{
	const struct disk_spec spec = {.type = DISK_DYNAMIC, .size = 24 * BLOCK, .block_size = BLOCK};

	fixture_make(f, &spec);
	queue_open(f);
	for (unsigned b = 0; b < 16; b++)
		put(f, b * (uint64_t)BLOCK, BLOCK, (uint8_t)(b + 1));
}

static void gaps_are_closed_by_the_last_blocks(void **state)
{
	struct vhd_compact_result r;
	struct fixture f;

	(void)state;
	fixture_filled(&f);
	for (unsigned b = 0; b < 16; b += 2)
		discard(&f, b * (uint64_t)BLOCK, BLOCK);
	queue_close(&f);
	r = compact(&f, NULL);
	assert_int_equal(r.freed_blocks, 0);
	assert_int_equal(r.moved_blocks, 4); /* 9, 11, 13 and 15 of the file, to 0, 2, 4 and 6 */
	assert_int_equal(r.after_bytes, first_slot_end(&f) + 7 * SLOT + 512);
	assert_true(r.before_bytes > r.after_bytes);
	r = compact(&f, NULL);
	assert_int_equal(r.moved_blocks, 0);
	assert_int_equal(r.before_bytes, r.after_bytes);
	fixture_done(&f);
}

/* The gaps that an earlier session left, which no list in memory knows. */
static void gaps_of_earlier_sessions_are_closed(void **state)
{
	struct vhd_compact_result r;
	struct fixture f;

	(void)state;
	fixture_filled(&f);
	discard(&f, 3 * (uint64_t)BLOCK, 5 * (uint64_t)BLOCK);
	fixture_close(&f);
	fixture_check(&f);
	fixture_open_with(&f, NULL);
	r = compact(&f, NULL);
	assert_int_equal(r.moved_blocks, 5);
	assert_int_equal(r.before_bytes - r.after_bytes, 5 * SLOT);
	fixture_done(&f);
}

static void blocks_of_zeros_are_given_back(void **state)
{
	struct vhd_compact_result r;
	struct fixture f;

	(void)state;
	fixture_filled(&f);
	put(&f, 0, 2 * BLOCK, 0);
	put(&f, 5 * BLOCK, BLOCK - 512, 0);
	put(&f, 15 * BLOCK, BLOCK, 0);
	r = compact(&f, &(struct vhd_compact_options){.keep_zeros = true});
	assert_int_equal(r.freed_blocks, 0);
	r = compact(&f, NULL);
	assert_int_equal(r.freed_blocks, 3);
	assert_int_equal(r.moved_blocks, 2);
	assert_int_equal(r.after_bytes, first_slot_end(&f) + 12 * SLOT + 512);
	fixture_done(&f);
}

static void a_disk_of_nothing_but_zeros_keeps_its_metadata_only(void **state)
{
	struct vhd_compact_result r;
	struct fixture f;

	(void)state;
	fixture_filled(&f);
	put(&f, 0, 16 * BLOCK, 0);
	r = compact(&f, NULL);
	assert_int_equal(r.freed_blocks, 16);
	assert_int_equal(r.after_bytes, image_leaf(f.vhd.image)->metadata_end + 512);
	put(&f, 7 * BLOCK, 4096, 0x77);
	fixture_done(&f);
}

static void zeros_over_a_parents_data_stay_and_those_over_nothing_go(void **state)
{
	const struct disk_spec spec = {
		.type = DISK_DIFFERENCING, .size = 24 * BLOCK, .block_size = BLOCK, .layers = 2, .blocks = 8, .seed = 3,
	};
	struct vhd_compact_result r;
	unsigned over_nothing = 0;
	struct fixture f;

	(void)state;
	fixture_make(&f, &spec);
	queue_open(&f);
	put(&f, 0, 24 * BLOCK, 0);
	for (uint32_t b = 0; b < 24; b++)
		over_nothing += !stack_holds_below(image_stack(f.vhd.image), image_stack(f.vhd.image)->layer[0], b);
	assert_in_range(over_nothing, 1, 23);
	r = compact(&f, NULL);
	assert_int_equal(r.freed_blocks, over_nothing);
	fixture_done(&f);
}

/* As other programs lay them out: bitmaps of one sector, payloads right behind, and stale bytes under clear bits. */
static void images_of_other_programs_are_compacted_too(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		const struct disk_spec spec = {
			.type = seed % 2 ? DISK_DYNAMIC : DISK_DIFFERENCING, .size = 40 * 16384, .block_size = 16384, .layers = 2,
			.blocks = 16, .partial = true, .stale = true, .seed = seed,
		};
		struct vhd_compact_result r, again;
		struct fixture f;

		fixture_make(&f, &spec);
		queue_open(&f);
		for (uint32_t b = 0; b < 40; b += 3)
			discard(&f, b * UINT64_C(16384), 16384);
		r = compact(&f, NULL);
		assert_true(r.after_bytes <= r.before_bytes);
		again = compact(&f, NULL);
		assert_int_equal(again.freed_blocks, 0);
		assert_int_equal(again.after_bytes, r.after_bytes);
		fixture_done(&f);
	}
}

static void what_is_not_used_is_thrown_away_but_only_offline(void **state)
{
	const struct vhd_extent unused[] = {{BLOCK + 4096, 2 * BLOCK}, {5 * BLOCK, BLOCK}, {6 * BLOCK, BLOCK - 8192}};
	const struct vhd_compact_options options = {.unused = unused, .unused_count = 3, .keep_zeros = true};
	struct vhd_compact_result r;
	struct err err = {""};
	struct fixture f;

	(void)state;
	fixture_filled(&f);
	assert_int_equal(vhd_compact(&f.vhd, &options, &r, &err), -EINVAL);
	assert_non_null(strstr(err.text, "while nothing else reads or writes"));
	queue_close(&f);
	r = compact(&f, &options);
	assert_int_equal(r.freed_blocks, 2); /* 2 and 5, whole; of 1, 3 and 6 a part is punched */
	for (unsigned i = 0; i < 3; i++)
		memset(f.disk.content + unused[i].offset, 0, unused[i].length);
	fixture_done(&f);
}

static void a_list_of_what_is_not_used_must_be_sorted_and_inside(void **state)
{
	const struct vhd_extent unsorted[] = {{BLOCK, BLOCK}, {0, 4096}}, beyond[] = {{23 * BLOCK, 2 * BLOCK}};
	struct fixture f;

	(void)state;
	fixture_filled(&f);
	queue_close(&f);
	assert_int_equal(vhd_compact(&f.vhd, &(struct vhd_compact_options){.unused = unsorted, .unused_count = 2}, NULL, NULL),
	                 -EINVAL);
	assert_int_equal(vhd_compact(&f.vhd, &(struct vhd_compact_options){.unused = beyond, .unused_count = 1}, NULL, NULL),
	                 -EINVAL);
	fixture_done(&f);
}

struct call {
	struct fixture *f;
	struct vhd_job *job;
	struct vhd_compact_result result;
	struct err err;
	atomic_bool ended;
	int rc;
};

static void *call_main(void *arg)
{
	struct call *call = arg;
	struct vhd_compact_options options = {.job = call->job};

	call->rc = vhd_compact(&call->f->vhd, &options, &call->result, &call->err);
	atomic_store(&call->ended, true);
	return NULL;
}

/* Somebody has the disk mapped: blocks stay where the map says, writers go on, and the call can be cancelled. */
static void a_mapped_disk_is_waited_for(void **state)
{
	struct call call = {0};
	struct blk_extent extent;
	struct err err = {""};
	struct fixture f;
	pthread_t thread;
	uint32_t slot;

	(void)state;
	fixture_filled(&f);
	discard(&f, 0, 4 * BLOCK);
	must(vhd_job_new(&call.job, &err), &err);
	call.f = &f;
	slot = image_leaf(f.vhd.image)->bat[15];
	assert_int_equal(blk_map(f.blk, 15 * BLOCK, BLOCK, &extent, 1, &err), 1);
	assert_int_equal(pthread_create(&thread, NULL, call_main, &call), 0);
	for (unsigned i = 0; i < 50; i++) {
		put(&f, (4 + i % 12) * BLOCK, 4096, (uint8_t)i);
		usleep(1000);
	}
	assert_false(atomic_load(&call.ended));
	assert_int_equal(image_leaf(f.vhd.image)->bat[15], slot);
	vhd_job_cancel(call.job);
	pthread_join(thread, NULL);
	assert_int_equal(call.rc, -ECANCELED);
	blk_unmap(f.blk);
	assert_int_equal(compact(&f, NULL).moved_blocks, 4);
	vhd_job_free(call.job);
	fixture_done(&f);
}

static void cancelled_it_ends_and_goes_on_when_called_again(void **state)
{
	struct call call = {0};
	struct vhd_job_status status;
	struct err err = {""};
	struct fixture f;
	pthread_t thread;
	uint32_t moved;

	(void)state;
	fixture_filled(&f);
	for (unsigned b = 0; b < 8; b++)
		discard(&f, b * (uint64_t)BLOCK, BLOCK);
	must(vhd_job_new(&call.job, &err), &err);
	vhd_job_set_rate(call.job, 4 << 20);
	call.f = &f;
	assert_int_equal(pthread_create(&thread, NULL, call_main, &call), 0);
	do {
		usleep(2000);
		vhd_job_status(call.job, &status);
	} while (status.done_bytes <= 8 * BLOCK); /* the blocks are read by then */
	vhd_job_cancel(call.job);
	pthread_join(thread, NULL);
	assert_int_equal(call.rc, -ECANCELED);
	moved = call.result.moved_blocks;
	assert_in_range(moved, 1, 8);
	vhd_job_free(call.job);
	moved += compact(&f, NULL).moved_blocks;
	assert_int_equal(moved, 8);
	fixture_done(&f);
}

static void only_one_call_works_on_a_disk(void **state)
{
	struct err err = {""};
	struct fixture f;

	(void)state;
	fixture_filled(&f);
	must(upkeep_begin(f.vhd.image, &err), &err);
	assert_int_equal(vhd_compact(&f.vhd, NULL, NULL, &err), -EBUSY);
	upkeep_end(f.vhd.image);
	fixture_done(&f);
}

/* --- faults --- */

static void with_a_fault(enum fault_op op, unsigned number, int error)
{
	struct vhd_compact_result r;
	struct fault_plan plan;
	struct err err = {""};
	struct fixture f;
	uint8_t *content;
	int rc, closed;

	fixture_filled(&f);
	for (unsigned b = 0; b < 8; b += 2)
		discard(&f, b * (uint64_t)BLOCK, BLOCK);
	put(&f, 9 * BLOCK, BLOCK, 0);
	fixture_close(&f);
	fault_plan_init(&plan);
	fixture_open_with(&f, &plan);
	fault_plan_arm(&plan, op, fault_plan_seen(&plan, op) + number, 1, error, true);
	rc = vhd_compact(&f.vhd, NULL, &r, &err);
	if (fault_plan_disarm(&plan) == 0 || op == FAULT_PUNCH) /* a gap that cannot be punched is not used */
		must(rc, &err);
	else if (!(op == FAULT_WRITE && error == -ENOSPC)) /* that is tried once more */
		assert_int_equal(rc, error);
	if (rc)
		assert_non_null(strstr(err.text, "layer-0.vhd"));
	content = malloc(f.disk.size);
	queue_open(&f);
	must(blk_pread(f.queue, content, f.disk.size, 0), &err);
	assert_memory_equal(content, f.disk.content, f.disk.size);
	free(content);
	queue_close(&f);
	if (op != FAULT_SYNC) /* after that nothing is written any more */
		compact(&f, NULL);
	closed = blk_close(f.blk, NULL);
	assert_true(closed == 0 || (op == FAULT_SYNC && rc));
	fixture_open_with(&f, NULL);
	must(scribble_compare(f.blk, f.disk.content, &err), &err);
	compact(&f, NULL);
	fixture_done(&f);
	fault_plan_done(&plan);
}

static void whatever_fails_the_disk_is_sound_and_it_works_again(void **state)
{
	(void)state;
	for (unsigned op = 0; op < FAULT_OPS; op++)
		for (unsigned number = 0; number < 30; number++)
			with_a_fault((enum fault_op)op, number, -EIO);
	for (unsigned number = 0; number < 30; number++)
		with_a_fault(FAULT_WRITE, number, -ENOSPC);
}

/* --- while requests go on --- */

struct looper {
	struct vhd *vhd;
	atomic_bool stop;
	uint64_t seed;
	unsigned calls, moved, freed, cancelled;
	struct err err;
	int rc;
};

static void *canceller_main(void *job)
{
	usleep(3000);
	vhd_job_cancel(job);
	return NULL;
}

static void *looper_main(void *arg)
{
	struct looper *l = arg;
	struct rng rng = rng_fork(l->seed, 77);

	while (!atomic_load(&l->stop) && l->rc == 0) {
		struct vhd_compact_options options = {.keep_zeros = rng_percent(&rng, 30)};
		bool cancels = rng_percent(&rng, 20);
		struct vhd_compact_result result;
		pthread_t canceller;

		if (vhd_job_new(&options.job, NULL))
			abort();
		if (cancels && pthread_create(&canceller, NULL, canceller_main, options.job))
			abort();
		l->rc = vhd_compact(l->vhd, &options, &result, &l->err);
		if (cancels)
			pthread_join(canceller, NULL);
		vhd_job_free(options.job);
		l->cancelled += l->rc == -ECANCELED;
		if (l->rc == -ECANCELED && cancels)
			l->rc = 0;
		l->calls++;
		l->moved += result.moved_blocks;
		l->freed += result.freed_blocks;
	}
	return NULL;
}

/* Holds what is freed, and blocks where they are, every now and then: compacting must get its turn all the same. */
static void *mapper_main(void *arg)
{
	struct looper *l = arg;
	struct blk *blk = vhd_blk(l->vhd);
	struct blk_extent extents[8];
	struct blk_info info;

	blk_info(blk, &info);
	while (!atomic_load(&l->stop)) {
		if (blk_map(blk, 0, info.size, extents, 8, NULL) >= 0) {
			usleep(200);
			blk_unmap(blk);
		}
		usleep(1000);
	}
	return NULL;
}

static void scribble_while_compacting(struct vhd *vhd, uint8_t *model, const struct scribble *options, bool must_move)
{
	struct looper l = {.vhd = vhd, .seed = options->seed};
	pthread_t looper, mapper;
	struct err err = {""};
	int rc;

	assert_int_equal(pthread_create(&looper, NULL, looper_main, &l), 0);
	assert_int_equal(pthread_create(&mapper, NULL, mapper_main, &l), 0);
	rc = scribble_run(vhd_blk(vhd), model, options, &err);
	atomic_store(&l.stop, true);
	pthread_join(looper, NULL);
	pthread_join(mapper, NULL);
	must(rc, &err);
	must(l.rc, &l.err);
	must(scribble_compare(vhd_blk(vhd), model, &err), &err);
	print_message("%u calls, %u cancelled, %u blocks moved, %u freed\n", l.calls, l.cancelled, l.moved, l.freed);
	if (must_move)
		assert_true(l.moved > 0);
}

static void scribble_in_memory(const struct disk_spec *spec)
{
	const struct ring_inline_config config = {.seed = spec->seed, .shuffle = true, .max_delay = 4};
	struct scribble options = {
		.threads = 3, .depth = 8, .requests = requests_each, .max_length = 96 << 10, .seed = spec->seed,
		.write_percent = 40, .zero_percent = 25, .flush_percent = 3,
	};
	struct fixture f;

	ring_inline_configure(&config);
	fixture_make(&f, spec);
	scribble_while_compacting(&f.vhd, f.disk.content, &options, true);
	fixture_done(&f);
	ring_inline_configure(NULL);
}

static void requests_go_on_in_memory(void **state)
{
	(void)state;
	scribble_in_memory(&(struct disk_spec){
		.type = DISK_DYNAMIC, .size = 4 << 20, .block_size = 16384, .blocks = 5, .seed = seed_base,
	});
	scribble_in_memory(&(struct disk_spec){
		.type = DISK_DYNAMIC, .size = 1 << 20, .block_size = 8192, .blocks = 16, .partial = true, .stale = true,
		.seed = seed_base + 1,
	});
	scribble_in_memory(&(struct disk_spec){
		.type = DISK_DIFFERENCING, .layers = 3, .size = 2 << 20, .block_size = 16384, .blocks = 16, .partial = true,
		.stale = true, .seed = seed_base + 2,
	});
}

static void scribble_in_a_file(unsigned layers, uint64_t size, uint32_t block_size, unsigned flags)
{
	char *dir = temp_dir_new("compact");
	char path[PATH_ROOM], parent[PATH_ROOM] = "";
	uint8_t *model = calloc(1, size);
	struct vhd_check_result checked;
	struct err err = {""};

	for (unsigned i = 0; i < layers; i++) {
		struct vhd_create_options create = {.size_bytes = size, .block_size_bytes = block_size};
		struct vhd_open_options open = {.flags = VHD_OPEN_WRITE | flags};
		struct scribble options = {
			.seed = seed_base + i, .threads = 2, .depth = 8, .requests = i ? requests_each : 100, .max_length = 1 << 18,
			.write_percent = 40, .zero_percent = 25, .flush_percent = 3,
		};
		struct vhd *vhd;

		if (i) {
			create = (struct vhd_create_options){.type = VHD_DIFFERENCING, .parent = parent};
			create.block_size_bytes = block_size;
		} else if (layers == 1) {
			options.requests = requests_each;
		}
		snprintf(path, sizeof(path), "%s/layer-%u.vhd", dir, i);
		must(vhd_create(path, &create, &err), &err);
		must(vhd_open(path, &open, &vhd, &err), &err);
		if (i + 1 < layers)
			must(scribble_run(vhd_blk(vhd), model, &options, &err), &err);
		else
			scribble_while_compacting(vhd, model, &options, false);
		must(vhd_close(vhd, &err), &err);
		must(vhd_open(path, NULL, &vhd, &err), &err);
		must(scribble_compare(vhd_blk(vhd), model, &err), &err);
		must(vhd_close(vhd, &err), &err);
		snprintf(parent, sizeof(parent), "%s", path);
	}
	must(vhd_check(path, NULL, &checked, &err), &err);
	assert_int_equal(checked.warnings, 0);
	free(model);
	temp_dir_free(dir);
}

static void requests_go_on_in_files(void **state)
{
	(void)state;
	scribble_in_a_file(1, 24 << 20, 65536, 0);
	scribble_in_a_file(2, 48 << 20, 512 << 10, 0);
	assert_int_equal(setenv("VHDKIT_IO", "threads", 1), 0);
	scribble_in_a_file(1, 48 << 20, 0, 0);
	assert_int_equal(unsetenv("VHDKIT_IO"), 0);
}

/* --- fixed disks --- */

static void a_fixed_disk_gets_holes(void **state)
{
	const uint64_t size = 8 << 20;
	struct vhd_open_options open = {.flags = VHD_OPEN_WRITE};
	struct vhd_create_options create = {.type = VHD_FIXED, .size_bytes = size};
	char *dir = temp_dir_new("compact"), path[PATH_ROOM];
	uint8_t *model = malloc(size);
	struct vhd_compact_result r;
	struct blk_queue *queue;
	struct err err = {""};
	struct vhd *vhd;

	(void)state;
	snprintf(path, sizeof(path), "%s/fixed.vhd", dir);
	must(vhd_create(path, &create, &err), &err);
	must(vhd_open(path, &open, &vhd, &err), &err);
	must(blk_queue_new(vhd_blk(vhd), NULL, &queue, &err), &err);
	memset(model, 0x5a, size);
	memset(model + (1 << 20), 0, 5 << 20);
	must(blk_pwrite(queue, model, size, 0), &err);
	must(blk_flush(queue), &err);
	assert_int_equal(vhd_compact(vhd, NULL, &r, &err), -EBUSY);
	blk_queue_free(queue);
	must(vhd_compact(vhd, NULL, &r, &err), &err);
	assert_int_equal(r.before_bytes, size + 512);
	assert_int_equal(r.after_bytes, size + 512);
	assert_true(r.space_after_bytes + (4 << 20) <= r.space_before_bytes);
	must(scribble_compare(vhd_blk(vhd), model, &err), &err);
	must(vhd_close(vhd, &err), &err);
	free(model);
	temp_dir_free(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(gaps_are_closed_by_the_last_blocks),
		cmocka_unit_test(gaps_of_earlier_sessions_are_closed),
		cmocka_unit_test(blocks_of_zeros_are_given_back),
		cmocka_unit_test(a_disk_of_nothing_but_zeros_keeps_its_metadata_only),
		cmocka_unit_test(zeros_over_a_parents_data_stay_and_those_over_nothing_go),
		cmocka_unit_test(images_of_other_programs_are_compacted_too),
		cmocka_unit_test(what_is_not_used_is_thrown_away_but_only_offline),
		cmocka_unit_test(a_list_of_what_is_not_used_must_be_sorted_and_inside),
		cmocka_unit_test(a_mapped_disk_is_waited_for),
		cmocka_unit_test(cancelled_it_ends_and_goes_on_when_called_again),
		cmocka_unit_test(only_one_call_works_on_a_disk),
		cmocka_unit_test(whatever_fails_the_disk_is_sound_and_it_works_again),
		cmocka_unit_test(requests_go_on_in_memory),
		cmocka_unit_test(requests_go_on_in_files),
		cmocka_unit_test(a_fixed_disk_gets_holes),
	};

	seed_base = environment_number("SCRIBBLE_SEED", 1);
	requests_each = (unsigned)environment_number("SCRIBBLE_REQUESTS", 48000) / 6;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
