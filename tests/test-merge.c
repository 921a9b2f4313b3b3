/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Merges of disks in use, and merges that fail: vhd/merge*.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/temp-dir.h"
#include "vhd/queue.h"
#include "vhd/upkeep.h"

#define SIZE (1u << 20)
#define PATH_ROOM 4096

static void must(int rc, const struct err *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

struct disk {
	char *dir;
	char path[PATH_ROOM];
	struct vhd *vhd;
};

static void disk_open(struct disk *d)
{
	const struct vhd_open_options options = {.flags = VHD_OPEN_WRITE};
	struct err err = {""};

	must(vhd_open(d->path, &options, &d->vhd, &err), &err);
}

static void disk_close(struct disk *d)
{
	struct err err = {""};

	must(vhd_close(d->vhd, &err), &err);
}

static void disk_new(struct disk *d, uint64_t size)
{
	struct err err = {""};

	d->dir = temp_dir_new("merge-again");
	snprintf(d->path, sizeof(d->path), "%s/disk.vhd", d->dir);
	must(vhd_create(d->path, &(struct vhd_create_options){.size_bytes = size, .block_size_bytes = 16384}, &err), &err);
	disk_open(d);
}

static void disk_done(struct disk *d)
{
	disk_close(d);
	temp_dir_free(d->dir);
}

static void freeze(struct disk *d, const char *name)
{
	struct vhd_child *child;
	struct err err = {""};

	must(vhd_child_prepare(d->vhd, name, &child, &err), &err);
	must(vhd_switch_child(d->vhd, child, &err), &err);
}

static void fill(struct disk *d, uint64_t offset, uint64_t length, uint8_t value)
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
	struct disk d;

	(void)state;
	disk_new(&d, SIZE);
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
	disk_done(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_write_gets_no_new_block_in_a_leaf_that_is_being_merged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
