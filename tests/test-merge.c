/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Merges of disks in use, and merges that fail: vhd/merge*.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/disk.h"
#include "tests/lib/scribble.h"
#include "tests/lib/store-fault.h"
#include "tests/lib/temp-dir.h"
#include "tests/lib/upkept.h"
#include "vhd/queue.h"
#include "vhd/upkeep.h"

#define SIZE (1u << 20)
#define PATH_ROOM 4096

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

struct real {
	char *dir;
	char path[PATH_ROOM];
	struct vhd *vhd;
};

static void real_open(struct real *d)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct err err = {""};

	must(vhd_open(d->path, &options, &d->vhd, &err), &err);
}

static void real_close(struct real *d)
{
	struct err err = {""};

	must(vhd_close(d->vhd, &err), &err);
}

static void real_new(struct real *d, uint64_t size)
{
	struct err err = {""};

	d->dir = temp_dir_new("merge-again");
	snprintf(d->path, sizeof(d->path), "%s/disk.vhd", d->dir);
	must(vhd_create(d->path, &(struct vhd_create_options){.size_bytes = size, .block_size_bytes = 16384}, &err), &err);
	real_open(d);
}

static void real_done(struct real *d)
{
	real_close(d);
	temp_dir_free(d->dir);
}

static void freeze(struct real *d, const char *name)
{
	struct vhd_child *child;
	struct err err = {""};

	must(vhd_child_prepare(d->vhd, name, &child, &err), &err);
	must(vhd_switch_child(d->vhd, child, &err), &err);
}

static void fill(struct real *d, uint64_t offset, uint64_t length, uint8_t value)
{
	struct blk_queue *queue;
	struct err err = {""};
	uint8_t *bytes = malloc(length);

	memset(bytes, value, length);
	must(blk_queue_new(vhd_blk(d->vhd), NULL, &queue, &err), &err);
	assert_int_equal(blk_pwrite(queue, bytes, length, offset), 0);
	blk_queue_free(queue);
	free(bytes);
}

/* --- between a writer's looks at a block --- */

/* As merge_drain_leaf has it: what the leaf does not hold is written to its parent. */
static void publish(struct image *image, bool write_through)
{
	struct stack *stack = stack_new(image_stack(image)->count);

	memcpy(stack->layer, image_stack(image)->layer, stack->count * sizeof(*stack->layer));
	stack->write_through = write_through;
	pthread_mutex_lock(&image->lock);
	image_publish_stack(image, stack);
	pthread_mutex_unlock(&image->lock);
	image_wait_for_epochs(image);
}

/* It chose the leaf while the block was there; by the time it looks again the block has moved down. */
static void a_write_gets_no_new_block_in_a_leaf_that_is_being_merged(void **state)
{
	struct image_queue *queue;
	struct blk_req req = {.op = BLK_WRITE, .length = 4096, .impl_count = 1};
	struct err err = {""};
	struct part *part;
	struct real d;

	(void)state;
	real_new(&d, SIZE);
	fill(&d, 0, 4096, 1);
	freeze(&d, "frozen.vhd");
	must(upkeep_begin(d.vhd->image, &err), &err);
	must(upkeep_raise(d.vhd->image, image_stack(d.vhd->image)->layer[1], &err), &err);
	publish(d.vhd->image, true);

	must(blk_queue_new(vhd_blk(d.vhd), NULL, (struct blk_queue **)&queue, &err), &err);
	part = part_new(queue, &req, 0, 4096);
	assert_non_null(part);
	part->stack = image_stack(d.vhd->image);
	part->layer = part->stack->layer[0];
	part->block = 0;
	assert_int_equal(part_take_slot(part), 2);
	assert_null(part->pending);
	part_choose_target(part);
	assert_ptr_equal(part->layer, part->stack->layer[1]);
	part_split(part);
	blk_queue_free(&queue->base);

	publish(d.vhd->image, false);
	must(upkeep_rest(d.vhd->image, image_stack(d.vhd->image)->layer[1]->writer), &err);
	upkeep_end(d.vhd->image);
	real_done(&d);
}

/* --- names --- */

static void real_chain(struct real *d)
{
	real_new(d, SIZE);
	fill(d, 0, 65536, 1);
	freeze(d, "frozen-0.vhd");
	fill(d, 0, 8192, 2);
	freeze(d, "frozen-1.vhd");
	fill(d, 0, 4096, 3);
}

/* `keep`, and what is removed first removed by hand: as if cut off there. */
static void an_idle_leaf_opens_as_long_as_it_is_there(void **state)
{
	struct vhd_merge_options options = {.idle = true, .keep = true, .into = 2};
	char between[PATH_ROOM + 32];
	struct err err = {""};
	struct real d;

	(void)state;
	real_chain(&d);
	must(vhd_merge(d.vhd, &options, NULL, &err), &err);
	real_close(&d);
	snprintf(between, sizeof(between), "%s/frozen-1.vhd", d.dir);
	assert_int_equal(unlink(between), 0);
	real_open(&d);
	assert_int_equal(vhd_layer_count(d.vhd), 2);
	real_done(&d);
}

static void a_name_that_is_another_file_s_by_now_is_left_alone(void **state)
{
	struct vhd_merge_options options = {.rename = true};
	char aside[PATH_ROOM + 32];
	struct err err = {""};
	struct real d;
	FILE *other;

	(void)state;
	real_chain(&d);
	snprintf(aside, sizeof(aside), "%s/aside.vhd", d.dir);
	assert_int_equal(rename(d.path, aside), 0);
	other = fopen(d.path, "we");
	assert_non_null(other);
	assert_int_equal(fclose(other), 0);
	assert_int_equal(vhd_merge(d.vhd, &options, NULL, &err), -ESTALE);
	assert_int_equal(vhd_layer_count(d.vhd), 3);
	assert_int_equal(access(d.path, F_OK), 0);
	real_done(&d);
}

/* --- failures --- */

struct faulty {
	char *dir;
	struct disk disk;
	struct fault_plan plan;
	struct vhd *vhd;
	bool in_use, several;
};

/* Merging looks for names too: files for it to find and remove. */
static void names_make(const struct faulty *f)
{
	for (unsigned i = 0; i < f->disk.layers; i++) {
		char path[PATH_ROOM];
		FILE *file;

		snprintf(path, sizeof(path), "%s/layer-%u.vhd", f->dir, i);
		file = fopen(path, "we");
		assert_non_null(file);
		fclose(file);
	}
}

/* The layers whose names are there. */
static void faulty_open(struct faulty *f)
{
	struct store *stores[3];
	struct err err = {""};
	unsigned count = 0;

	for (unsigned i = 0; i < f->disk.layers; i++) {
		char path[PATH_ROOM];

		snprintf(path, sizeof(path), "%s/layer-%u.vhd", f->dir, i);
		if (access(path, F_OK))
			continue;
		stores[count] = store_memory_open(f->disk.files[i], count ? 0 : STORE_WRITE);
		stores[count] = store_fault_open_take(stores[count], &f->plan);
		count++;
	}
	must(upkept_open_take(stores, count, f->dir, &f->vhd, &err), &err);
}

static void faulty_new(struct faulty *f)
{
	const struct disk_spec spec = {
		.type = DISK_DIFFERENCING, .size = 128 << 10, .block_size = 8192, .layers = f->several ? 3 : 2, .blocks = 6,
		.partial = true, .seed = 9,
	};

	f->dir = temp_dir_new("merge-fault");
	disk_make(&spec, &f->disk);
	names_make(f);
	fault_plan_init(&f->plan);
	faulty_open(f);
}

static void faulty_done(struct faulty *f)
{
	fault_plan_done(&f->plan);
	disk_done(&f->disk);
	temp_dir_free(f->dir);
}

static int faulty_merge(struct faulty *f, struct err *err)
{
	struct vhd_merge_options options = {.idle = !f->in_use, .into = vhd_layer_count(f->vhd) - 1};

	return vhd_merge(f->vhd, &options, NULL, err);
}

static bool faulty_is_broken(const struct faulty *f)
{
	return atomic_load(&f->vhd->image->broken);
}

static void faulty_scribble(struct faulty *f, uint64_t seed)
{
	struct scribble options = {.seed = seed, .requests = 60, .threads = 1, .depth = 4, .max_length = 16384};
	struct err err = {""};

	must(scribble_run(vhd_blk(f->vhd), f->disk.content, &options, &err), &err);
}

/* What whoever opens the disk next finds. */
static void faulty_check_closed(struct faulty *f)
{
	struct err err = {""};

	faulty_open(f);
	must(scribble_compare(vhd_blk(f->vhd), f->disk.content, &err), &err);
	must(vhd_close(f->vhd, &err), &err);
}

/* Operation number `n` of the merge fails, alone or with all that follow. False: there is no such. */
static bool fails_at(struct faulty *f, enum fault_op op, unsigned n, bool once)
{
	struct err err = {""};
	bool failed;
	int rc;

	faulty_new(f);
	faulty_scribble(f, 1);
	assert_int_equal(worker_flush(f->vhd->image), 0);
	fault_plan_arm(&f->plan, op, fault_plan_seen(&f->plan, op) + n, once ? 1 : UINT_MAX,
	               op == FAULT_ALLOCATE || op == FAULT_WRITE ? -ENOSPC : -EIO, false);
	rc = faulty_merge(f, &err);
	failed = fault_plan_disarm(&f->plan) > 0;
	must(scribble_compare(vhd_blk(f->vhd), f->disk.content, &err), &err);
	if (!faulty_is_broken(f)) {
		faulty_scribble(f, 2);
		/* A failure that left the chain as it was can be followed by another try. */
		if (rc && f->vhd->image->merge_unfinished)
			assert_int_equal(vhd_layer_count(f->vhd) > 1 ? faulty_merge(f, &err) : -ESTALE, -ESTALE);
		else if (rc)
			must(faulty_merge(f, &err), &err);
		faulty_scribble(f, 3);
		must(scribble_compare(vhd_blk(f->vhd), f->disk.content, &err), &err);
		must(vhd_close(f->vhd, &err), &err);
	} else {
		assert_int_not_equal(rc, 0);
		(void)vhd_close(f->vhd, NULL);
	}
	faulty_check_closed(f);
	faulty_done(f);
	return failed;
}

static void fails_everywhere(struct faulty *f)
{
	for (enum fault_op op = 0; op < FAULT_OPS; op++)
		for (unsigned once = 0; once < 2; once++)
			for (unsigned n = 0; fails_at(f, op, n, once); n++)
				;
}

static void a_merge_of_the_leaf_in_use_fails_at_any_operation(void **state)
{
	(void)state;
	fails_everywhere(&(struct faulty){.in_use = true});
}

static void a_merge_of_the_idle_leaf_fails_at_any_operation(void **state)
{
	(void)state;
	fails_everywhere(&(struct faulty){.in_use = false});
}

static void a_merge_of_several_layers_fails_at_any_operation(void **state)
{
	(void)state;
	fails_everywhere(&(struct faulty){.in_use = true, .several = true});
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_write_gets_no_new_block_in_a_leaf_that_is_being_merged),
		cmocka_unit_test(an_idle_leaf_opens_as_long_as_it_is_there),
		cmocka_unit_test(a_name_that_is_another_file_s_by_now_is_left_alone),
		cmocka_unit_test(a_merge_of_the_leaf_in_use_fails_at_any_operation),
		cmocka_unit_test(a_merge_of_the_idle_leaf_fails_at_any_operation),
		cmocka_unit_test(a_merge_of_several_layers_fails_at_any_operation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
